"""export, one file: the table, or the outlines for QuPath, of all shards in the order of their ids."""

from collections.abc import Iterator

from microtome.export import FEATURES, TABLE, GeoParquetWriter, geojson_begin, geojson_end
from microtome.grid import Shard
from microtome.nuclei import Nuclei
from microtome.stages.export import TABLE_CALL
from microtome.stages.run import Run
from microtome.stages.sweep import Tally
from microtome.work.network import drop_network
from microtome.work.stitch import features_key, read_nuclei_parts


def export_file(run: Run, index: int, tally: Tally) -> None:
    """One of the two files, streamed: one shard is in memory at a time."""
    drop_network()
    if index == TABLE_CALL:
        _table(run, tally)
    else:
        _features(run, tally)


def _table(run: Run, tally: Tally) -> None:
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


def nuclei_by_shard(run: Run) -> Iterator[tuple[Shard, Nuclei]]:
    """The final nuclei of every shard that may have some, in the order of their ids."""
    for shard in run.shards_near_tissue():
        (nuclei,) = read_nuclei_parts(run, [shard])
        yield shard, nuclei
