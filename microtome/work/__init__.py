"""What a worker does with one shard; a stage names it (`WORK`), and only workers import it.

numba, pyarrow and the report take a third of all imports: a run's own process begins to plan without them.
"""

from microtome.work import chunk, export, infer, publish, pyramid, stitch

__all__ = ["chunk", "export", "infer", "publish", "pyramid", "stitch"]
