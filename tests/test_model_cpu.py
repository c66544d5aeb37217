"""The machine as the process may use it, and the precision that suits it."""

from dataclasses import replace
from pathlib import Path

import pytest

from microtome.cpu import (
    InstructionSet,
    choose_precision,
    cores,
    instruction_set,
    machine_record,
    memory_bytes,
)
from microtome.errors import PrecisionMissing, PrecisionUnsupported
from microtome.model import Accuracy, ModelCard, Precision, default_model, read_card

SAPPHIRE = "avx2 avx_vnni avx512f avx512_vnni avx512_bf16"


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return read_card(default_model())


def with_ap(card: ModelCard, **ap50: float | None) -> ModelCard:
    """The card with other scores; None takes the score away."""
    scored = {
        Precision(name): replace(
            card.ir(Precision(name)),
            accuracy=None if value is None else Accuracy(ap50=value, f1_50=value, images=9),
        )
        for name, value in ap50.items()
    }
    return replace(card, precisions={**card.precisions, **scored})


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (SAPPHIRE + " amx_tile amx_int8 amx_bf16", InstructionSet.AMX),
        (SAPPHIRE, InstructionSet.AVX512_VNNI),
        (SAPPHIRE + " GenuineIntel", InstructionSet.AVX512_VNNI),
        (SAPPHIRE + " AuthenticAMD", InstructionSet.AVX512_BF16),
        ("avx2 avx512f", InstructionSet.AVX512),
        ("avx2 avx_vnni", InstructionSet.AVX2_VNNI),
        ("fma avx2", InstructionSet.AVX2),
        ("asimd", InstructionSet.OTHER),
    ],
)
def test_flags_name_the_best_instruction_set(flags: str, expected: InstructionSet) -> None:
    assert instruction_set(flags.split()) is expected


@pytest.mark.parametrize("cpu", list(InstructionSet))
def test_the_shipped_model_runs_in_int8_on_every_cpu(card: ModelCard, cpu: InstructionSet) -> None:
    precision, why = choose_precision(card, None, cpu)
    assert precision is Precision.INT8
    assert cpu in why


def test_int8_that_loses_accuracy_is_passed_over_and_the_reason_is_told(card: ModelCard) -> None:
    worse = with_ap(card, f32=0.66, bf16=0.659, int8=0.654)
    precision, why = choose_precision(worse, None, InstructionSet.AMX)
    assert precision is Precision.BF16
    assert "int8 would be faster, but loses 0.6 points of AP" in why
    assert choose_precision(worse, None, InstructionSet.AVX512_BF16)[0] is Precision.BF16
    assert choose_precision(worse, None, InstructionSet.AVX512_VNNI)[0] is Precision.F32


def test_a_score_that_is_not_known_is_not_trusted(card: ModelCard) -> None:
    precision, why = choose_precision(with_ap(card, int8=None), None, InstructionSet.AVX2)
    assert precision is Precision.F32
    assert "does not say how accurate" in why


def test_a_model_without_int8_runs_in_f32_where_bf16_is_slower(card: ModelCard) -> None:
    floats = {name: ir for name, ir in card.precisions.items() if name is not Precision.INT8}
    without = replace(card, precisions=floats)
    assert choose_precision(without, None, InstructionSet.AMX)[0] is Precision.BF16
    precision, why = choose_precision(without, None, InstructionSet.AVX512_VNNI)
    assert precision is Precision.F32
    assert "the model has none" in why
    with pytest.raises(PrecisionMissing):
        choose_precision(without, Precision.INT8, InstructionSet.AMX)


def test_a_precision_that_is_asked_for_is_taken_or_refused(card: ModelCard) -> None:
    assert choose_precision(card, Precision.F32, InstructionSet.AMX) == (Precision.F32, "as asked for")
    with pytest.raises(PrecisionUnsupported, match="does not run bf16"):
        choose_precision(card, Precision.BF16, InstructionSet.AVX2_VNNI)


def test_the_maker_of_the_cpu_is_read(tmp_path: Path) -> None:
    _write(
        tmp_path, "proc/cpuinfo", f"vendor_id\t: AuthenticAMD\nmodel name\t: EPYC\nflags\t\t: {SAPPHIRE}\n\n"
    )
    assert machine_record(tmp_path).instruction_set is InstructionSet.AVX512_BF16


def test_this_machine_is_described() -> None:
    machine = machine_record()
    assert machine.cpu
    assert machine.cores >= 1
    assert machine.memory_bytes > 500_000_000
    assert {"openvino", "numpy"} <= machine.versions.keys()


# A cgroup of one's own cannot be had in every test run: these are its files, drawn by hand.


def test_limits_of_cgroup_v2_count_also_those_of_a_folder_above(tmp_path: Path) -> None:
    _write(tmp_path, "proc/self/cgroup", "0::/kubepods/pod1\n")
    _write(tmp_path, "sys/fs/cgroup/kubepods/pod1/cpu.max", "max 100000\n")
    _write(tmp_path, "sys/fs/cgroup/kubepods/cpu.max", "150000 100000\n")
    _write(tmp_path, "sys/fs/cgroup/kubepods/pod1/memory.max", "123456789\n")
    _write(tmp_path, "sys/fs/cgroup/kubepods/memory.max", "max\n")
    assert cores(tmp_path) == 1
    assert memory_bytes(tmp_path) == 123456789


def test_limits_of_a_container_that_sees_only_its_own_cgroup_count(tmp_path: Path) -> None:
    """The path is the host's; in the container the group is at the root of the mount."""
    _write(tmp_path, "proc/self/cgroup", "0::/../elsewhere\n")
    _write(tmp_path, "sys/fs/cgroup/memory.max", "2000000\n")
    assert memory_bytes(tmp_path) == 2000000


def test_limits_of_cgroup_v1_count(tmp_path: Path) -> None:
    _write(tmp_path, "proc/self/cgroup", "4:memory:/docker/x\n1:cpu,cpuacct:/docker/x\n0::/\n")
    _write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us", "100000\n")
    _write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us", "100000\n")
    _write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    _write(tmp_path, "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "3000000\n")
    assert cores(tmp_path) == 1
    assert memory_bytes(tmp_path) == 3000000


def test_without_any_cgroup_the_whole_machine_counts(tmp_path: Path) -> None:
    assert memory_bytes(tmp_path) > 500_000_000
    assert cores(tmp_path) >= 1


def _write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
