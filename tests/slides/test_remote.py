"""Slides on S3: the same pixels by ranges, without a copy of the slide."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from microtome.errors import NeedsLocalCopy, SlideNotFound, SlideUnreachable
from microtome.grid import Scale, Window
from microtome.options import Options
from microtome.plan import make_plan
from microtome.report.distrust import BLUR_FIELDS, check_focus
from microtome.s3 import S3Bucket
from microtome.slides import open_slide
from microtome.slides.source import RemoteSource, coalesce
from microtome.stain import find_limits, sampled
from microtome.tissue import find_tissue
from microtome.work.pixels import read_network_pixels
from tests.s3 import S3Server


def test_a_slide_on_s3_is_read_by_ranges_and_gives_the_same_pixels(
    s3: S3Server, tcga_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3.make_bucket("slides")
    shutil.copy(tcga_slide, bucket / "S 001+ä.tif")
    sources: list[RemoteSource] = []
    made = RemoteSource.__init__
    monkeypatch.setattr(
        RemoteSource, "__init__", lambda self, uri: (sources.append(self), made(self, uri))[1]
    )
    window = Window(3000, 4000, 3700, 4900)
    with open_slide("s3://slides/S 001+ä.tif") as remote, open_slide(str(tcga_slide)) as local:
        assert remote.levels == local.levels
        assert remote.identity == local.identity
        identity_bytes = 2 << 20
        opening_bytes = sources[0].read_bytes - identity_bytes
        assert opening_bytes < tcga_slide.stat().st_size // 4
        assert np.array_equal(remote.read(0, window), local.read(0, window))
        assert sources[0].read_bytes - identity_bytes - opening_bytes < tcga_slide.stat().st_size // 16


def test_tiles_are_copied_from_s3_in_one_reading(s3: S3Server, tcga_slide: Path) -> None:
    shutil.copy(tcga_slide, s3.make_bucket("slides") / "a.tif")
    window = Window(2048, 6144, 4096, 8192)
    with open_slide("s3://slides/a.tif") as remote, open_slide(str(tcga_slide)) as local:
        source: RemoteSource = remote._store._source
        before = source.read_bytes
        pixels, tiles = remote.read_with_jpeg(window)
        assert source.read_bytes - before < 2 * sum(map(len, tiles.values()))
        assert np.array_equal(pixels, local.read(0, window))
        assert tiles == local.copy_jpeg(window)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many ranges each call has asked a server for."""
    counts: list[int] = []
    get_ranges = S3Bucket.get_ranges

    def counted(bucket: S3Bucket, key: str, starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
        counts.append(len(starts))
        return get_ranges(bucket, key, starts, ends)

    monkeypatch.setattr(S3Bucket, "get_ranges", counted)
    return counts


def test_limits_of_a_slide_on_s3_are_found_by_few_requests(
    s3: S3Server, tcga_slide: Path, requests: list[int]
) -> None:
    shutil.copy(tcga_slide, s3.make_bucket("slides") / "a.tif")
    with open_slide("s3://slides/a.tif") as remote, open_slide(str(tcga_slide)) as local:
        tissue = find_tissue(local)
        requests.clear()
        assert find_limits(remote, tissue, 1.0, 99.8) == find_limits(local, tissue, 1.0, 99.8)
    # A row of tiles across several squares is one request; by squares alone there are 240.
    assert sum(requests) < len(sampled(tissue, 256)) // 2


def test_tiles_of_a_shard_on_s3_are_read_by_few_requests(
    s3: S3Server, tcga_slide: Path, requests: list[int]
) -> None:
    shutil.copy(tcga_slide, s3.make_bucket("slides") / "a.tif")
    whole = Window(0, 0, 8192, 8192)
    tiles = [Window(y, x, y + 2240, x + 2240) for y in (2048, 4096) for x in (2048, 4096)]
    with open_slide("s3://slides/a.tif") as remote, open_slide(str(tcga_slide)) as local:
        requests.clear()
        one_by_one = [next(read_network_pixels(remote, Scale(1, 1), [tile], whole)) for tile in tiles]
        apart = sum(requests)
        requests.clear()
        together = list(read_network_pixels(remote, Scale(1, 1), tiles, whole))
        assert len(requests) == 1
        assert sum(requests) < 0.6 * apart
        for tile, pixels, same in zip(tiles, together, one_by_one, strict=True):
            assert np.array_equal(pixels, local.read(0, tile))
            assert np.array_equal(same, pixels)


def test_whether_a_slide_on_s3_is_sharp_is_found_by_few_requests(
    s3: S3Server, tcga_slide: Path, requests: list[int]
) -> None:
    shutil.copy(tcga_slide, s3.make_bucket("slides") / "a.tif")
    plan = make_plan(str(tcga_slide), Options(precision="f32"))
    with open_slide("s3://slides/a.tif") as remote, open_slide(str(tcga_slide)) as local:
        requests.clear()
        assert check_focus(plan, remote.read_each) == check_focus(plan, local.read_each)
    # A field at a time it takes 132.
    assert sum(requests) < BLUR_FIELDS // 2


def test_a_dicom_folder_on_s3_opens(s3: S3Server, cmu_dicom: Path) -> None:
    shutil.copytree(cmu_dicom, s3.make_bucket("slides") / "region")
    window = Window(100, 200, 500, 700)
    with open_slide("s3://slides/region") as remote, open_slide(str(cmu_dicom)) as local:
        assert remote.identity == local.identity
        assert np.array_equal(remote.read(0, window), local.read(0, window))


def test_what_openslide_alone_reads_has_to_be_copied_first(s3: S3Server) -> None:
    (s3.make_bucket("slides") / "a.mrxs").write_bytes(b"\xff\xd8\xff" + bytes(100))
    with pytest.raises(NeedsLocalCopy, match="copy it to a local disk"):
        open_slide("s3://slides/a.mrxs")


def test_a_missing_key_and_wrong_credentials_are_told_apart(
    s3: S3Server, cmu_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(cmu_slide, s3.make_bucket("slides"))
    with pytest.raises(SlideNotFound):
        open_slide("s3://slides/none.svs")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(SlideUnreachable, match="credentials"):
        open_slide(f"s3://slides/{cmu_slide.name}")


def test_ranges_are_joined_over_small_gaps_only() -> None:
    joined = coalesce([(100, 10), (0, 50), (110, 5), (1000, 1), (50, 10)], gap_bytes=40)
    assert joined == [((0, 115), [1, 4, 0, 2]), ((1000, 1), [3])]
