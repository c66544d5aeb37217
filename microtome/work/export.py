"""export: table and outlines for QuPath, of all shards in the order of their ids; the report's pictures."""

from collections.abc import Mapping
from itertools import batched

from microtome.export import FEATURES, TABLE, GeoParquetWriter, geojson_begin, geojson_end
from microtome.grid import Grid, Window
from microtome.keyspace import REQUESTS
from microtome.nuclei import Nuclei
from microtome.records import ShardReport
from microtome.report.pictures import OVERVIEW_KEY, draw_pictures
from microtome.report.shard_stats import ShardStats
from microtome.slides import OnBadTile, open_slide
from microtome.stages.export import FEATURES_CALL, PICTURES_CALL, TABLE_CALL
from microtome.stages.run import Run
from microtome.stages.sweep import Tally
from microtome.work.network import drop_network
from microtome.work.stitch import features_key, nuclei_reports, read_nuclei, stats_key

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
        for index in nuclei_reports(run):
            (nuclei,) = read_nuclei(run, [index])
            writer.add(nuclei, first_label)
            first_label += len(nuclei)
    tally.nuclei = first_label - 1
    tally.keys.append(file.record)


def _features(run: Run, tally: Tally) -> None:
    with run.store.writing(FEATURES) as file:
        file.write(geojson_begin())
        for some in batched(nuclei_reports(run), REQUESTS):
            for text in run.store.get_each([features_key(run.plan.grid[index]) for index in some]).values():
                file.write(text)
        file.write(geojson_end())
    tally.keys.append(file.record)


def _pictures(run: Run, tally: Tally) -> None:
    """What the report shows of slide and nuclei, and the statistics of all shards as one."""
    plan, store = run.plan, run.store
    reports = nuclei_reports(run)
    texts = store.get_each([stats_key(plan.grid[index]) for index in reports])
    stats = ShardStats.merge(plan, [ShardStats.from_bytes(text) for text in texts.values()])

    def nuclei_in(window: Window) -> Nuclei:
        return Nuclei.concatenate(read_nuclei(run, shards_seen(plan.grid, reports, window)))

    # For pictures, which also come from levels that nothing else reads, no result is given up.
    with tally.timed("report"), open_slide(plan.slide.uri, on_bad_tile=OnBadTile.BLANK) as slide:
        pictures, sheet = draw_pictures(plan, stats, slide, nuclei_in)
    left = {OVERVIEW_KEY: sheet, PICTURES: pictures.to_bytes(), STATS: stats.to_bytes()}
    tally.keys += store.put_each(left)


def shards_seen(grid: Grid, reports: Mapping[int, ShardReport], window: Window) -> list[int]:
    """Those of the reported shards whose nuclei may have px in a window (level-0 px)."""
    shown = {shard.index for shard in grid if not shard.window.intersect(window).is_empty}
    return [
        index
        for index, report in reports.items()
        if index in shown or report.reaches is None or shown.intersection(report.reaches)
    ]
