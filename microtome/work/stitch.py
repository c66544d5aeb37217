"""stitch, one shard: its own nuclei first; then, once all ids are known, its labels and outlines."""

from collections.abc import Sequence

import numpy as np

from microtome import seams
from microtome.export import geojson_features
from microtome.grid import Shard, Window
from microtome.ngff import TASK_LEVELS, label_arrays
from microtome.nuclei import Nuclei
from microtome.polygons import paint
from microtome.pyramid import halve_labels
from microtome.report.shard_stats import ShardStats
from microtome.seams import Crossing, Part, part_from_bytes
from microtome.stages import infer
from microtome.stages.run import Run
from microtome.stages.sweep import Tally, TooEarly
from microtome.stardist import Candidates
from microtome.work.infer import part_key
from microtome.work.levels import write_levels
from microtome.work.network import drop_network


def nuclei_key(shard: Shard) -> str:
    return f"parts/stitch/{shard.key}.bin"


def crossing_key(shard: Shard) -> str:
    return f"parts/crossing/{shard.key}.bin"


def features_key(shard: Shard) -> str:
    return f"parts/features/{shard.key}.geojson.gz"


def stats_key(shard: Shard) -> str:
    return f"parts/stats/{shard.key}.npz"


def settle_shard(run: Run, index: int, tally: Tally) -> None:
    """The nuclei that a shard owns, none of them wholly hidden, in the order of their ids.

    Raises
    ------
    TooEarly
        If more is needed than its eight neighbours before all of `infer` is done.
    """
    plan, shard = run.plan, run.plan.grid[index]
    parts: dict[int, Part] = {}

    def read_parts(shards: Sequence[Shard]) -> list[Part]:
        if parts and not run.store.is_closed(infer.NAME):
            raise TooEarly
        found = _candidates_of(run, shards, tally)
        parts.update(zip((near.index for near in shards), found, strict=True))
        return found

    with tally.timed("suppress"):
        settled = seams.settle_shard(
            read_parts, plan.grid, shard, plan.scale, max_overlap=plan.model.nms_threshold
        )
        alone = parts[index]
        tally.seam_conflicts = seams.count_seam_conflicts(alone, settled, plan.model.nms_threshold)
        tally.candidates = len(alone.candidates)
        tally.is_widened = len(parts) > len(plan.grid.around(shard))
    with tally.timed("outline"):
        nuclei = seams.own_nuclei(settled, shard.window, plan.scale, plan.grid.window)
    tally.nuclei = len(nuclei)
    tally.pixels = shard.window.area_px
    with tally.timed("write"):
        stats = ShardStats.of(plan, shard, nuclei)
        left = {
            nuclei_key(shard): nuclei.to_bytes(),
            crossing_key(shard): Crossing.of(nuclei, shard.window).to_bytes(),
            stats_key(shard): stats.to_bytes(),
        }
        tally.keys += run.store.put_each(left)


def paint_shard(run: Run, index: int, tally: Tally, first: tuple[int, ...]) -> None:
    """Labels of a shard, and its outlines for QuPath.

    `first` holds the first ids of the shards around it, in index order.
    """
    drop_network()
    plan, shard = run.plan, run.plan.grid[index]
    starts = dict(zip(plan.grid.around(shard), first, strict=True))
    start = starts.pop(shard)
    with tally.timed("read"):
        (nuclei,) = read_nuclei_parts(run, [shard])
        crossing = _crossing_of(run, list(starts), shard.window)
    ids = [np.arange(start, start + len(nuclei)), *(starts[near] + part.rows for near, part in crossing)]
    seen = Nuclei.concatenate([nuclei, *(part.nuclei for _, part in crossing)])
    tally.pixels = shard.window.area_px
    if len(seen):  # else all of it is background, which is not written
        with tally.timed("paint"):
            labels = paint(seen, np.concatenate(ids).astype(np.uint32), shard.window)
        specs = label_arrays(plan)[: 1 + TASK_LEVELS]
        write_levels(run, specs, (shard.row, shard.col), labels, halve_labels, tally)
    with tally.timed("outline"):
        features = geojson_features(nuclei, start, plan.slide.mpp, plan.slide.identity)
    with tally.timed("write"):
        tally.keys.append(run.store.put(features_key(shard), features))


def read_nuclei_parts(run: Run, shards: Sequence[Shard]) -> list[Nuclei]:
    """The final nuclei of each shard; none where it is too far from tissue to have some."""
    texts = run.store.get_each([nuclei_key(shard) for shard in shards if shard.index in run.near_tissue])
    found = (texts.get(nuclei_key(shard)) for shard in shards)
    return [Nuclei.empty() if text is None else Nuclei.from_bytes(text) for text in found]


def _crossing_of(run: Run, shards: Sequence[Shard], window: Window) -> list[tuple[Shard, Crossing]]:
    """What reaches into a window, of each of those shards that may have nuclei."""
    near = [shard for shard in shards if shard.index in run.near_tissue]
    texts = run.store.get_each([crossing_key(shard) for shard in near])
    return [(shard, Crossing.from_bytes(texts[crossing_key(shard)]).into(window)) for shard in near]


def _candidates_of(run: Run, shards: Sequence[Shard], tally: Tally) -> list[Part]:
    """What `infer` left of each shard; nothing where it has no tissue."""
    texts = run.store.get_each([part_key(shard) for shard in shards if run.tissue.touches(shard.window)])
    tally.bytes_read += sum(len(text) for text in texts.values())
    return [
        part_from_bytes(texts[part_key(shard)])
        if part_key(shard) in texts
        else Part(candidates=Candidates.empty(), window=run.network_window(shard))
        for shard in shards
    ]
