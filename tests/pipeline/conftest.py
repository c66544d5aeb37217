"""Fields cut from real tissue, a real Dask cluster, and results made of them once a session."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from microtome.cluster import ClusterSpec, connect
from microtome.grid import Window
from microtome.options import Options
from microtome.plan import make_plan
from microtome.slides import open_slide
from tests.pipeline.runs import run_plan

FIELD = Window(1900, 6592, 1900 + 1210, 6592 + 1430)
"""Glandular tissue of the TCGA slide; sides that are no multiples of anything."""


@pytest.fixture(scope="session")
def tissue(tcga_slide):
    """(y, x, c) uint8: a field of real tissue, 1,210 x 1,430 px at 0.25 um/px."""
    with open_slide(str(tcga_slide)) as slide:
        return np.ascontiguousarray(slide.read(0, FIELD).transpose(1, 2, 0))


@pytest.fixture(scope="session")
def field(tissue, tmp_path_factory) -> Path:
    """The tissue as a PNG file."""
    return write_png(tmp_path_factory.mktemp("field") / "field.png", tissue)


@pytest.fixture(scope="session")
def cluster():
    """Two workers of one thread."""
    with connect(ClusterSpec(workers=2)) as two_workers:
        yield two_workers


@pytest.fixture(scope="session")
def field_plan(field):
    """The field in f32 with the smallest shards: 3 x 3 of them."""
    return make_plan(str(field), Options(mpp=0.25, precision="f32", shard_px=512))


@pytest.fixture(scope="session")
def undisturbed(field_plan, cluster, tmp_path_factory):
    """The result of the field, made without any trouble."""
    return run_plan(field_plan, tmp_path_factory.mktemp("undisturbed") / "field.ome.zarr", cluster)


def write_png(path: Path, rgb) -> Path:
    cv2.imwrite(str(path), rgb[:, :, ::-1])
    return path
