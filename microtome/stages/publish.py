"""publish: the report, the metadata that makes it an OME-Zarr, and the mark that it is done.

Until then the root has no metadata: no viewer takes a result for one that is half-done.
"""

from microtome.cluster import Cluster
from microtome.records import StageReport
from microtome.stages import chunk, export, pyramid, stitch
from microtome.stages.run import Run
from microtome.stages.sweep import OnShard, stage_report, sweep
from microtome.store import PARTS, ResultStore

NAME = "publish"
WORK = "microtome.work.publish:publish_result"


def run(run: Run, cluster: Cluster, on_shard: OnShard) -> StageReport:
    """One task, after all others; then the parts that shards left for each other go."""
    others = (chunk.NAME, stitch.PAINT, export.NAME, *pyramid.sweeps_of(run.plan))
    cluster.wait_for([(run.ref, other) for other in others], name=NAME)
    run.claim.check(run.store.uri)
    # By now every shard was computed; the task itself looks at the slide's header.
    run.check_slide()
    swept = sweep(run, cluster, NAME, WORK, [(0,)], on_shard)
    tidy(run)
    return stage_report(NAME, swept)


def is_whole(store: ResultStore) -> bool:
    """Whether a finished result still has all its keys: a crash of the machine may leave some empty."""
    sizes = store.sizes()
    return all(sizes.get(key) == record.bytes for key, record in store.lasting().items())


def tidy(run: Run) -> None:
    """Remove what only an unfinished result needs. Must come after the mark that it is done:
    without its parts, a shard would not count as done."""
    run.store.delete(PARTS)
