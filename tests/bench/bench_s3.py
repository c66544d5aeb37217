"""Slide and result on a real S3 server of this machine, against the local disk."""

import shutil
from collections.abc import Iterator

import pytest

from tests.bench.command import same_nuclei, segment
from tests.bench.figures import Bench, Figure, Skipped, figure
from tests.s3 import S3Server, find_versitygw


def figures(bench: Bench) -> Iterator[Figure]:
    """The shared slide, rounds interleaved."""
    try:
        program = find_versitygw(bench.data)
    except (pytest.skip.Exception, pytest.fail.Exception) as error:
        raise Skipped(str(error)) from error
    with S3Server(program, bench.work / "s3") as server:
        slides, results = server.make_bucket("slides"), server.make_bucket("results")
        shutil.copy(bench.slide, slides)
        pairs = []
        for _ in range(bench.rounds):
            local = segment(bench.slide, bench.work / "disk")
            remote = segment(
                f"s3://slides/{bench.slide.name}",
                "s3://results",
                environment=server.environment,
                look_in=results,
            )
            pairs.append((remote, local))
    same_nuclei([run for pair in pairs for run in pair])
    yield figure("s3", "wall time", "s", [remote.wall_s for remote, _ in pairs])
    yield figure(
        "s3", "time against local disk", "x", [s.wall_s / disk.wall_s for s, disk in pairs], "<= 1.15"
    )
    yield figure("s3", "stages against local disk", "x", [s.stages_s / disk.stages_s for s, disk in pairs])
