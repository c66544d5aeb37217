"""Slides for the readers' tests: the shared ones, and others made of their pixels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from microtome.arrays import Pixels
from microtome.slides import Slide, open_slide
from tests.slides import makers

SHARED = ("cmu_slide", "cmu_dicom", "tcga_slide", "dapi_slide")


@pytest.fixture(scope="session")
def tissue(tcga_slide: Path) -> Pixels:
    """(900, 1100, 3) of real tissue, interleaved."""
    with tifffile.TiffFile(tcga_slide) as tiff:
        level = tiff.series[0].levels[1].asarray()
    return np.ascontiguousarray(level[1500:2400, 2000:3100])


@pytest.fixture(params=[*SHARED, *makers.MAKERS])
def slide(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Slide]:
    """Each kind of slide in turn."""
    if request.param in SHARED:
        path = request.getfixturevalue(request.param)
    else:
        path = makers.MAKERS[request.param](tmp_path, request.getfixturevalue("tissue"))
    with open_slide(str(path)) as opened:
        yield opened
