"""The stages of a run, each written once; their order, written once.

A stage is what is left to do, one shard's work, and what to check at the end. The command
line and the Prefect flow run the same ones.
"""

from typing import Protocol

from microtome.cluster import Cluster
from microtome.records import StageReport
from microtome.stages import chunk, export, infer, publish, pyramid, stitch
from microtome.stages.run import Run
from microtome.stages.sweep import OnShard


class Stage(Protocol):
    """A module of this package."""

    NAME: str

    def run(self, run: Run, cluster: Cluster, on_shard: OnShard) -> StageReport:
        """Do what the manifest lacks; a stage that is complete returns at once."""
        ...


STAGES: tuple[Stage, ...] = (chunk, infer, stitch, pyramid, export, publish)
"""They run at once; what waits for another's work says so itself."""
NAMES = tuple(stage.NAME for stage in STAGES)
"""In the order in which people see them."""
