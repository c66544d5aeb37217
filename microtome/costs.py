"""What a run will take, estimated from its plan: tiles, seconds, disk, memory."""

from dataclasses import dataclass

from microtome.cpu import InstructionSet
from microtome.model import Precision, find_model
from microtome.network import EngineName, macs_px
from microtome.options import PixelsOption
from microtome.plan import Plan
from microtome.stages.run import Run
from microtome.store import ResultStore

CORE_MP_S: dict[InstructionSet, dict[Precision, float]] = {
    InstructionSet.AMX: {Precision.F32: 1.5, Precision.BF16: 8.0, Precision.INT8: 10.5},
    InstructionSet.AVX512_BF16: {Precision.F32: 2.6, Precision.BF16: 2.5, Precision.INT8: 8.0},
    InstructionSet.AVX512_VNNI: {Precision.F32: 1.5, Precision.BF16: 0.7, Precision.INT8: 4.8},
    InstructionSet.AVX512: {Precision.F32: 1.5, Precision.INT8: 2.5},
    InstructionSet.AVX2_VNNI: {Precision.F32: 1.0, Precision.INT8: 3.2},
    InstructionSet.AVX2: {Precision.F32: 0.95, Precision.INT8: 1.7},
    InstructionSet.OTHER: {Precision.F32: 0.3, Precision.INT8: 0.3},
}
"""Network MP/s of one core, measured on he-nuclei; f32 and int8 by OpenVINO but for AVX512_BF16, so that it
may take half of what is said; there, between a Zen 4 (int8 5.5) and a Zen 5 (12)."""
MEASURED_MACS_PX = 52_608.0
"""Of he-nuclei. Other networks are as much faster or slower as they compute less or more."""
NUCLEI_CORE_MP_S = 30.0
"""Level-0 px of tissue whose candidates are settled, outlined, painted and told by one core."""
START_S = 1.5
"""Planning, workers, imports."""
COPY_CORE_MP_S: dict[PixelsOption, float] = {"lossless": 60.0, "source": 130.0}
"""Level-0 px copied and halved by one core, by what is kept of them."""
STORED_BYTES_PX: dict[PixelsOption, tuple[float, float]] = {
    "lossless": (3.8, 0.8),
    "source": (0.4, 0.4),
    "none": (0.3, 0.0),
}
"""Bytes of a result per level-0 px of tissue and of glass, pyramid included, by what it keeps of the
pixels. Glass takes nothing where the scanner left it white; noise makes it grow."""
WORKER_BYTES = {
    EngineName.OPENVINO: {
        Precision.F32: 1_400_000_000,
        Precision.BF16: 1_300_000_000,
        Precision.INT8: 1_100_000_000,
    },
    EngineName.UNET: {Precision.F32: 700_000_000, Precision.INT8: 450_000_000},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """An estimate, good to a factor of two."""

    shards: int
    shards_with_tissue: int
    tiles: int
    network_px: int
    """Pixels that the network will see, halos included."""
    seconds: float
    disk_bytes: float
    worker_bytes: int
    """Peak memory of one worker."""

    @property
    def duration(self) -> str:
        """The seconds for people: `75 s`, `18 min`, `2.4 h`."""
        if self.seconds < 90:
            return f"{self.seconds:.0f} s"
        return f"{self.seconds / 60:.0f} min" if self.seconds < 5400 else f"{self.seconds / 3600:.1f} h"


def estimate(plan: Plan, cpu: InstructionSet, cores: int) -> Costs:
    """What the plan will take on a machine of so many cores of that kind.

    Raises
    ------
    ModelNotFound, BadModel
        If the plan's model is not there any more, or cannot be read.
    """
    run = Run(plan, ResultStore("unwritten"))
    shards = run.shards_with_tissue()
    tiles = [plan.tiling.input_of(core) for shard in shards for core in run.cores(shard)]
    network_px = sum(tile.area_px for tile in tiles)
    pixels = plan.height_px * plan.width_px
    tissue_bytes, glass_bytes = STORED_BYTES_PX[plan.pixels]
    precision = plan.model.precision
    work = macs_px(find_model(plan.model.uri), precision) / MEASURED_MACS_PX
    network_s = network_px / 1e6 * work / CORE_MP_S[cpu].get(precision, 0.5)
    nuclei_s = plan.tissue.area_px / 1e6 / NUCLEI_CORE_MP_S
    copied_s = pixels / 1e6 / COPY_CORE_MP_S[plan.pixels] if plan.pixels != "none" else 0.0
    return Costs(
        shards=len(plan.grid),
        shards_with_tissue=len(shards),
        tiles=len(tiles),
        network_px=network_px,
        seconds=START_S + (network_s + nuclei_s + copied_s) / cores,
        disk_bytes=plan.tissue.area_px * tissue_bytes + (pixels - plan.tissue.area_px) * glass_bytes,
        worker_bytes=WORKER_BYTES[plan.model.engine][precision],
    )
