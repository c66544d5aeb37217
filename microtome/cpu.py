"""What this machine offers: instruction sets, cores, memory; and the precision that suits it.

Cores and memory are those that the process may use: affinity and cgroup limits (v1 and v2) count,
as in a pod or a container.
"""

import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from microtome.errors import PrecisionUnsupported
from microtome.model import ModelCard, Precision

MAX_AP_LOSS = 0.005
"""`auto` takes a precision whose AP at IoU 0.5 is at most this far below that of f32."""
VERSIONS_OF = (
    "microtome",
    "openvino",
    "numpy",
    "numba",
    "zarr",
    "dask",
    "tifffile",
    "imagecodecs",
    "prefect",
)
PLATFORM = Path("/")


class InstructionSet(StrEnum):
    """What decides how fast each precision is, from best to least."""

    AMX = "AMX"
    AVX512_BF16 = "AVX-512 VNNI and fast bf16, no AMX"
    AVX512_VNNI = "AVX-512 VNNI, no AMX"
    AVX512 = "AVX-512, no VNNI"
    AVX2_VNNI = "AVX2 VNNI, no AVX-512"
    AVX2 = "AVX2, no VNNI"
    OTHER = "neither AVX2 nor AMX known of"


_NEEDED = {
    InstructionSet.AMX: {"amx_tile", "amx_int8", "amx_bf16"},
    # Intel's without AMX have instructions for bf16 as well, but compute slower in it than in f32.
    InstructionSet.AVX512_BF16: {"avx512f", "avx512_vnni", "avx512_bf16", "AuthenticAMD"},
    InstructionSet.AVX512_VNNI: {"avx512f", "avx512_vnni"},
    InstructionSet.AVX512: {"avx512f"},
    InstructionSet.AVX2_VNNI: {"avx2", "avx_vnni"},
    InstructionSet.AVX2: {"avx2"},
    InstructionSet.OTHER: set[str](),
}
_FAST_BF16 = frozenset({InstructionSet.AMX, InstructionSet.AVX512_BF16})
_WORTH_RECORDING = frozenset[str]().union(*_NEEDED.values()) - {"AuthenticAMD"} | {"avx512_fp16", "fma"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Where a run happened, for its report."""

    cpu: str
    instruction_set: InstructionSet
    flags: tuple[str, ...]
    """Of those that matter for speed: the ones that this CPU has."""
    cores: int
    """Logical cores that this process may use."""
    memory_bytes: int
    """That this process may use."""
    system: str
    python: str
    versions: dict[str, str] = field(default_factory=dict)


def machine_record(root: Path = PLATFORM) -> Machine:
    """This machine. `root` holds `proc/` and `sys/`."""
    cpu, flags = _cpuinfo(root)
    return Machine(
        cpu=cpu,
        instruction_set=instruction_set(flags),
        flags=tuple(sorted(flags & _WORTH_RECORDING)),
        cores=cores(root),
        memory_bytes=memory_bytes(root),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=dict(_versions(VERSIONS_OF)),
    )


def instruction_set(flags: Iterable[str]) -> InstructionSet:
    """The best one that the flags of `/proc/cpuinfo` and its name of the maker allow."""
    have = set(flags)
    return next(name for name, needed in _NEEDED.items() if needed <= have)


def choose_precision(
    card: ModelCard, requested: Precision | None, cpu: InstructionSet
) -> tuple[Precision, str]:
    """The precision to run with, and why, in words for people.

    Parameters
    ----------
    requested
        None (`auto`) is the fastest on this CPU that the card shows to be accurate enough.

    Raises
    ------
    PrecisionMissing
        If the model has no network for the requested precision.
    PrecisionUnsupported
        If this CPU cannot run the requested precision.
    """
    if requested is not None:
        card.ir(requested)
        if not runs(requested, cpu):
            raise PrecisionUnsupported(requested, cpu)
        return requested, "as asked for"
    # int8 is fastest everywhere; bf16 is as fast as f32 on some, twice as fast by OpenVINO.
    by_speed = [Precision.INT8, Precision.BF16] if cpu in _FAST_BF16 else [Precision.INT8]
    passed_over: list[str] = []
    for precision in by_speed:
        reason = _objection(card, precision)
        if reason is None:
            return precision, "; ".join([f"fastest on this CPU ({cpu})", *passed_over])
        passed_over.append(f"{precision} {reason}")
    return Precision.F32, "; ".join([f"most exact, on this CPU ({cpu})", *passed_over])


def runs(precision: Precision, cpu: InstructionSet) -> bool:
    """Whether OpenVINO compiles for this precision on such a CPU."""
    with_bf16 = _FAST_BF16 | {InstructionSet.AVX512_VNNI, InstructionSet.AVX512}
    return precision is not Precision.BF16 or cpu in with_bf16


def has_fast_bf16(cpu: InstructionSet) -> bool:
    """Whether bf16 is as fast as f32 there, or faster."""
    return cpu in _FAST_BF16


def cores(root: Path = PLATFORM) -> int:
    """Logical cores that this process may use: affinity, then cgroup quota, rounded down, at least 1."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _cgroups(root, "cpu") if (quota := _quota(folder)) is not None]
    return max(1, int(min([mine, *quotas])))


def memory_bytes(root: Path = PLATFORM) -> int:
    """Memory that this process may use: the machine's, or the smallest cgroup limit above it."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _cgroups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _text(folder / name)
            if text.isdigit():
                limits.append(int(text))
    return min(limits)


def _objection(card: ModelCard, precision: Precision) -> str | None:
    """Why `auto` does not take a precision; None if it does."""
    if precision not in card.precisions:
        return "would be faster, but the model has none"
    found, exact = card.ir(precision).accuracy, card.ir(Precision.F32).accuracy
    if found is None or exact is None:
        return "would be faster, but the model's card does not say how accurate it is"
    if found.ap50 < exact.ap50 - MAX_AP_LOSS:
        return f"would be faster, but loses {100 * (exact.ap50 - found.ap50):.1f} points of AP"
    return None


def _cpuinfo(root: Path) -> tuple[str, frozenset[str]]:
    """Name, and flags and maker, of the first core; without a Linux `/proc` the name alone."""
    text = _text(root / "proc/cpuinfo").split("\n\n")[0]
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    values = {name.strip(): value.strip() for name, value in lines.items()}
    name = values.get("model name") or platform.processor() or platform.machine()
    flags = (values.get("flags") or values.get("Features") or "").split()
    return name, frozenset([*flags, values.get("vendor_id", "")])


def this_instruction_set(root: Path = PLATFORM) -> InstructionSet:
    """That of the CPU that this process runs on."""
    return instruction_set(_cpuinfo(root)[1])


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Folders that limit this process, innermost first; v1 and v2, whole path or as seen in a container."""
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            bases = [mount, mount / "unified"]
        elif controller in controllers.split(","):
            bases = [mount / controller, mount / controllers]
        else:
            continue
        for base in bases:
            folder = base / path.strip("/")
            yield folder
            yield from (parent for parent in folder.parents if parent.is_relative_to(base))


def _quota(folder: Path) -> float | None:
    """CPUs' worth of time that a cgroup may use; None is no limit."""
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    if not period:
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _text(path: Path) -> str:
    """The text of a file of the kernel; empty where this system has no such file."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _versions(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
