"""What this machine is good for, and whether anything is missing, in words for people."""

import shutil
from pathlib import Path

from microtome.cpu import choose_precision, machine_record
from microtome.model import default_model, read_card


def examine() -> str:
    """CPU, precision that will be used, memory, disk, versions; a line each."""
    machine = machine_record()
    card = read_card(default_model())
    precision, why = choose_precision(card, None, machine.instruction_set)
    offered = ", ".join(sorted(card.precisions))
    disk = shutil.disk_usage(Path.cwd())
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return "\n".join(
        [
            f"CPU        {machine.cpu}, {machine.cores} cores; {machine.instruction_set}",
            f"flags      {', '.join(machine.flags)}",
            f"precision  {precision}: {why} (model {card.name} {card.version} offers {offered})",
            f"memory     {machine.memory_bytes / 1e9:.1f} GB",
            f"disk       {disk.free / 1e9:.0f} GB free of {disk.total / 1e9:.0f} GB in {Path.cwd()}",
            f"system     {machine.system}, Python {machine.python}",
            f"versions   {versions}",
        ]
    )
