"""What a benchmark gives: figures with their spread, as a table for people and as JSON."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from microtome.cpu import Machine


class Skipped(Exception):
    """A part that cannot be measured here, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What every part is given."""

    data: Path
    """Folder of the shared test data."""
    work: Path
    """An empty folder; removed at the end."""
    cache: Path
    """Kept from run to run: environments of other packages."""
    quick: bool
    rounds: int
    gigapixels: tuple[float, ...]
    """Sizes of the growth."""

    @property
    def slide(self) -> Path:
        return self.data / "slides" / "TCGA-V5-A7RE-11A-01-TS1.tif"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One row of the table: a quantity, measured once a round."""

    part: str
    what: str
    unit: str
    values: tuple[float, ...]
    goal: str = ""
    load: float = 0.0
    """The machine's load average when it was measured; the bench itself makes about one a core."""

    @property
    def median(self) -> float:
        return median(self.values)


def figure(part: str, what: str, unit: str, values: Sequence[float] | float, goal: str = "") -> Figure:
    """A figure as measured now."""
    rounds = tuple(values) if isinstance(values, Sequence) else (values,)
    return Figure(part=part, what=what, unit=unit, values=rounds, goal=goal, load=os.getloadavg()[0])


def print_figure(row: Figure) -> None:
    spread = f"{_short(min(row.values))} - {_short(max(row.values))}" if len(row.values) > 1 else ""
    line = f"{row.part:<11} {row.what:<58} {_short(row.median):>9} {row.unit:<14} {spread:<19} {row.goal}"
    print(line.rstrip(), flush=True)


def print_header(machine: Machine) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    size = f"{machine.cores} cores, {machine.memory_bytes / 1e9:.0f} GB"
    print(f"{machine.cpu}: {machine.instruction_set}; {size}")
    print(f"{machine.system}, Python {machine.python}, {versions}")
    print(f"load average {os.getloadavg()[0]:.1f} (0 is a quiet machine)\n")
    print(f"{'part':<11} {'what':<58} {'median':>9} {'unit':<14} {'lowest - highest':<19} goal", flush=True)


def write_json(folder: Path, machine: Machine, rows: Sequence[Figure], skipped: dict[str, str]) -> Path:
    """Everything in one file, named by date and CPU kind."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = machine.instruction_set.name.lower().replace("_", "-")
    path = folder / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{kind}-{machine.cores}-cores.json"
    figures = [{**asdict(row), "median": row.median} for row in rows]
    path.write_text(
        json.dumps({"machine": asdict(machine), "skipped": skipped, "figures": figures}, indent=1)
    )
    return path


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
