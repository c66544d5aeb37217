"""export: table and outlines for QuPath, of all shards in the order of their ids; the report's pictures."""

from collections.abc import Iterator

from microtome.export import FEATURES, TABLE, GeoParquetWriter, geojson_begin, geojson_end
from microtome.grid import Shard, Window
from microtome.nuclei import Nuclei
from microtome.report.pictures import OVERVIEW_KEY, Sources, draw_pictures
from microtome.report.shard_stats import ShardStats
from microtome.slides import OnBadTile, open_slide
from microtome.stages.export import FEATURES_CALL, PICTURES_CALL, TABLE_CALL
from microtome.stages.run import Run
from microtome.stages.sweep import Tally
from microtome.work.network import drop_network
from microtome.work.stitch import features_key, read_nuclei_parts, stats_key

STATS = "parts/report/stats.npz"
PICTURES = "parts/report/pictures.json"


def export_all(run: Run, call: int, tally: Tally) -> None:
    """One of the three, by its number."""
    drop_network()
    {TABLE_CALL: _table, FEATURES_CALL: _features, PICTURES_CALL: _pictures}[call](run, tally)


def _table(run: Run, tally: Tally) -> None:
    """Streamed: one shard is in memory at a time."""
    first_label = 1
    with run.store.writing(TABLE) as file, GeoParquetWriter(file, run.plan.slide.mpp) as writer:
        for _, nuclei in nuclei_by_shard(run):
            writer.add(nuclei, first_label)
            first_label += len(nuclei)
    tally.nuclei = first_label - 1
    tally.keys.append(file.record)


def _features(run: Run, tally: Tally) -> None:
    with run.store.writing(FEATURES) as file:
        file.write(geojson_begin())
        for shard in run.shards_near_tissue():
            file.write(run.store.get(features_key(shard)))
        file.write(geojson_end())
    tally.keys.append(file.record)


def _pictures(run: Run, tally: Tally) -> None:
    """What the report shows of slide and nuclei, and the statistics of all shards as one."""
    plan, store = run.plan, run.store
    texts = store.get_each([stats_key(shard) for shard in run.shards_near_tissue()])
    stats = ShardStats.merge(plan, [ShardStats.from_bytes(text) for text in texts.values()])
    # For pictures, which also come from levels that nothing else reads, no result is given up.
    with tally.timed("report"), open_slide(plan.slide.uri, on_bad_tile=OnBadTile.BLANK) as slide:
        sources = Sources(
            levels=slide.levels, read=slide.read, nuclei_in=lambda window: nuclei_near(run, window)
        )
        pictures, sheet = draw_pictures(plan, stats, sources)
    left = {OVERVIEW_KEY: sheet, PICTURES: pictures.to_bytes(), STATS: stats.to_bytes()}
    tally.keys += store.put_each(left)


def nuclei_near(run: Run, window: Window) -> Nuclei:
    """Nuclei of every shard that has some whose outline may reach into the window."""
    reach_px = run.plan.shard_px  # no outline is longer than a shard
    near = window.grow(reach_px)
    shards = [shard for shard in run.plan.grid if not shard.window.intersect(near).is_empty]
    return Nuclei.concatenate(read_nuclei_parts(run, shards))


def nuclei_by_shard(run: Run) -> Iterator[tuple[Shard, Nuclei]]:
    """The final nuclei of every shard that may have some, in the order of their ids."""
    for shard in run.shards_near_tissue():
        (nuclei,) = read_nuclei_parts(run, [shard])
        yield shard, nuclei
