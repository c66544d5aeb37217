"""stitch, one shard: its own nuclei first; then, once all ids are known, its labels and outlines."""

from collections.abc import Mapping, Sequence

import numpy as np

from microtome import seams
from microtome.export import geojson_features
from microtome.grid import Shard
from microtome.ngff import TASK_LEVELS, label_arrays
from microtome.nuclei import Nuclei
from microtome.polygons import paint
from microtome.pyramid import halve_labels
from microtome.records import ShardReport
from microtome.report.shard_stats import ShardStats
from microtome.seams import Crossing, Part, part_from_bytes
from microtome.stages import infer, stitch
from microtome.stages.run import Run
from microtome.stages.sweep import Tally, TooEarly
from microtome.stardist import Candidates
from microtome.work.infer import part_key
from microtome.work.levels import encode_levels
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
        with tally.timed("read"):
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
        crossing = Crossing.of(nuclei, shard.window)
    tally.nuclei = len(nuclei)
    tally.pixels = shard.window.area_px
    tally.reaches = tuple(
        near.index
        for near in plan.grid.around(shard)
        if near != shard and len(crossing.into(near.window).rows)
    )
    left = {}
    with tally.timed("write"):
        if len(nuclei):
            left[nuclei_key(shard)] = nuclei.to_bytes()
            left[stats_key(shard)] = ShardStats.of(plan, shard, nuclei).to_bytes()
        if tally.reaches:
            left[crossing_key(shard)] = crossing.to_bytes()
        tally.keys += run.store.put_each(left)


def paint_shard(run: Run, index: int, tally: Tally, first: Mapping[int, int]) -> None:
    """Labels of a shard, and its outlines for QuPath.

    `first` holds the first ids of those shards whose nuclei may have px in this one; of itself too, if it
    has nuclei.
    """
    drop_network()
    plan, shard = run.plan, run.plan.grid[index]
    tally.pixels = shard.window.area_px
    keys = {near: (nuclei_key if near == index else crossing_key)(plan.grid[near]) for near in first}
    with tally.timed("read"):
        texts = run.store.get_each(list(keys.values()))
    nuclei = Nuclei.from_bytes(texts[keys[index]]) if index in first else Nuclei.empty()
    crossing = {near: Crossing.from_bytes(texts[key]) for near, key in keys.items() if near != index}
    into = {near: part.into(shard.window) for near, part in crossing.items()}
    seen = Nuclei.concatenate([nuclei, *(part.nuclei for part in into.values())])
    ids = [first.get(index, 0) + np.arange(len(nuclei)), *(first[near] + into[near].rows for near in into)]
    with tally.timed("paint"):
        labels = paint(seen, np.concatenate(ids).astype(np.uint32), shard.window)
    specs = label_arrays(plan)[: 1 + TASK_LEVELS]
    left = encode_levels(specs, (shard.row, shard.col), labels, halve_labels, tally)
    if len(nuclei):
        with tally.timed("outline"):
            outlined = geojson_features(nuclei, first[index], plan.slide.mpp, plan.slide.identity)
            left[features_key(shard)] = outlined
    with tally.timed("write"):
        tally.keys += run.store.put_each(left)


def nuclei_reports(run: Run) -> dict[int, ShardReport]:
    """What `stitch`, which must be complete, says of those shards that have nuclei, by index, in order."""
    reports = run.store.recorded(stitch.NAME)
    return {index: reports[index] for index in sorted(reports) if reports[index].nuclei}


def read_nuclei(run: Run, shards: Sequence[int]) -> list[Nuclei]:
    """The final nuclei of shards that have some."""
    texts = run.store.get_each([nuclei_key(run.plan.grid[index]) for index in shards])
    return [Nuclei.from_bytes(text) for text in texts.values()]


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
