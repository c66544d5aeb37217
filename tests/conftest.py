"""Real data for every test, the shared slides, nuclei and models, and a real S3 server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import lacking
from tests.s3 import S3Server, asked_by_this_process, find_versitygw

HERE = Path(__file__).resolve().parent
SLIDES = {
    "tcga_slide": "slides/TCGA-V5-A7RE-11A-01-TS1.tif",
    "cmu_slide": "slides/CMU-1-Small-Region.svs",
    "cmu_dicom": "slides/CMU-1-Small-Region.dicom",
    "dapi_slide": "slides/test3-DAPI.ndpi",
}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the shared test data: `MICROTOME_TEST_DATA`, or beside the checkout."""
    folder = Path(os.environ.get("MICROTOME_TEST_DATA", HERE.parent.parent / "shared" / "data")).resolve()
    if folder.is_dir():
        return folder
    lacking(f"no test data in {folder}; set MICROTOME_TEST_DATA to their folder")


@pytest.fixture(scope="session")
def tcga_slide(shared_data: Path) -> Path:
    return shared_data / SLIDES["tcga_slide"]


@pytest.fixture(scope="session")
def cmu_slide(shared_data: Path) -> Path:
    return shared_data / SLIDES["cmu_slide"]


@pytest.fixture(scope="session")
def cmu_dicom(shared_data: Path) -> Path:
    return shared_data / SLIDES["cmu_dicom"]


@pytest.fixture(scope="session")
def dapi_slide(shared_data: Path) -> Path:
    return shared_data / SLIDES["dapi_slide"]


@pytest.fixture
def s3(shared_data: Path, tmp_path: Path) -> Iterator[S3Server]:
    """A server without buckets, whose address and keys are in the environment."""
    with S3Server(find_versitygw(shared_data), tmp_path / "s3") as server, asked_by_this_process(server):
        yield server
