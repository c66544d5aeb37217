"""Slide and result on a real S3 server of this machine, against the local disk."""

import shutil
from collections.abc import Iterator

import pytest

from tests.bench.bench_end_to_end import slides
from tests.bench.command import SegmentRun, same_nuclei, segment
from tests.bench.figures import Bench, Figure, Skipped, figure
from tests.s3 import S3Server, find_versitygw


def figures(bench: Bench) -> Iterator[Figure]:
    """The shared slide and the one of 1.7 gigapixels, rounds interleaved."""
    try:
        program = find_versitygw(bench.data)
    except (pytest.skip.Exception, pytest.fail.Exception) as error:
        raise Skipped(str(error)) from error
    with S3Server(program, bench.work / "s3") as server:
        inbox, results = server.make_bucket("slides"), server.make_bucket("results")
        for name, slide in slides(bench).items():
            shutil.copy(slide, inbox)
            pairs = []
            for _ in range(bench.rounds):
                local = segment(slide, bench.work / "disk")
                remote = segment(
                    f"s3://slides/{slide.name}",
                    "s3://results",
                    environment=server.environment,
                    look_in=results,
                )
                pairs.append((remote, local))
            same_nuclei([run for pair in pairs for run in pair])
            yield from _of_pairs(f"s3 {name}", pairs)


def _of_pairs(part: str, pairs: list[tuple[SegmentRun, SegmentRun]]) -> Iterator[Figure]:
    """Of (from and to S3, from and to the disk)."""
    ratios = [remote.wall_s / local.wall_s for remote, local in pairs]
    yield figure(part, "wall time", "s", [remote.wall_s for remote, _ in pairs])
    yield figure(part, "time against local disk", "x", ratios, "<= 1.15")
    stages = [remote.stages_s / local.stages_s for remote, local in pairs]
    yield figure(part, "stages against local disk", "x", stages)
    cpu = [remote.cpu_s / local.cpu_s for remote, local in pairs]
    yield figure(part, "CPU time of the stages against local disk", "x", cpu)
