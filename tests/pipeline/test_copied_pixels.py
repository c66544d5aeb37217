"""`--pixels source`: the slide's own JPEG tiles, bit for bit; and what is done where that cannot be."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import ome_zarr.io
import ome_zarr.reader
import pydicom
import pytest
import simplejpeg
import tifffile
import zarr
from pydicom.encaps import generate_frames

from microtome.cluster import ClusterSpec, connect
from microtome.copying import LARGE_PX, choose_pixels
from microtome.errors import OptionError
from microtome.grid import Window
from microtome.ngff import image_arrays, metadata
from microtome.options import Options
from microtome.plan import Plan, make_plan
from microtome.pyramid import halve_pixels
from microtome.shards import assemble_shard, chunks_of
from microtome.slides import open_slide
from microtome.slides.jpeg_header import SOS, find, quality_of
from microtome.stages import chunk
from microtome.stages.run import Run
from microtome.stages.sweep import do_shard
from microtome.store import ResultStore
from microtome.testing import verify_result
from tests.bench.made_slides import make_slide, pieces_of
from tests.pipeline.runs import ShuffledCluster, digests, run_plan
from tests.pipeline.test_crash import finished, kill_when
from tests.result.test_verify import rewrite
from tests.slides import makers

TILED = {"tile": (256, 256), "compression": "jpeg", "metadata": None}


def source(slide: Path, **more) -> Options:
    return Options(pixels="source", no_tissue=True, precision="f32", **more)


def convert(slide: Path, folder: Path, options: Options) -> Run:
    """The stage `chunk` of a slide, in this process, and the metadata that make it an OME-Zarr."""
    plan, store = make_plan(str(slide), options), ResultStore(str(folder))
    run = Run(plan, store)
    store.put("plan.json", plan.to_json())
    for shard in image_arrays(plan)[0].grid:
        do_shard(run.ref, chunk.NAME, chunk.WORK, shard.index)
    for key, text in metadata(plan).items():
        store.put(key, text)
    return run


def pixels_of(slide: Path) -> np.ndarray:
    """Level 0, as our reader gives it."""
    with open_slide(str(slide)) as opened:
        level = opened.levels[0]
        return opened.read(0, Window(0, 0, level.height_px, level.width_px))


@pytest.fixture(scope="module", params=["tcga_slide", "cmu_slide", "cmu_dicom"])
def copied(request, tmp_path_factory):
    """Shared slides, copied: 4:2:0 in tiles of 256 px; RGB, shared tables, tiles of 240 px; DICOM."""
    slide = request.getfixturevalue(request.param)
    return slide, convert(slide, tmp_path_factory.mktemp("copied") / "slide.ome.zarr", source(slide))


@pytest.fixture(scope="module")
def tiled(tissue, tmp_path_factory):
    """The field as a TIFF of JPEG tiles that share their tables; its edge tiles reach over the edge."""
    path = tmp_path_factory.mktemp("tiled") / "field.tif"
    options = {"photometric": "ycbcr", "subsampling": (2, 2), "compressionargs": {"level": 80}}
    tifffile.imwrite(
        path, tissue, resolution=(40_000, 40_000), resolutionunit="CENTIMETER", **TILED, **options
    )
    return path


def test_zarr_python_reads_the_pixels_of_the_slide_to_the_bit(copied):
    slide, run = copied
    assert run.plan.pixels == "source"
    root = zarr.open_group(run.store.uri, mode="r")
    assert root["0"].fill_value == 255
    assert np.array_equal(root["0"][:], pixels_of(slide))


def stored_tiles(slide: Path) -> Iterator[tuple[int, int, bytes]]:
    """Row, column and bytes of every seventh tile of level 0, as other software finds them in the file."""
    if slide.is_dir():
        levels = [pydicom.dcmread(path) for path in slide.iterdir()]
        finest = max(levels, key=lambda level: level.get("TotalPixelMatrixColumns", 0))
        across = -(-finest.TotalPixelMatrixColumns // finest.Columns)
        tiles = list(generate_frames(finest.PixelData, number_of_frames=finest.NumberOfFrames))
    else:
        with tifffile.TiffFile(slide) as tiff:
            page = tiff.series[0].levels[0].pages[0].aspage()
            across = -(-page.imagewidth // page.tilewidth)
            places = zip(page.dataoffsets, page.databytecounts, strict=True)
            tiles = [slide.read_bytes()[at : at + count] for at, count in places]
    yield from ((*divmod(index, across), tile) for index, tile in list(enumerate(tiles))[::7])


def test_the_entropy_coded_data_are_those_of_the_slide(copied):
    slide, run = copied
    spec = image_arrays(run.plan)[0]
    shards = {(shard.row, shard.col): run.store.get(spec.key(shard.row, shard.col)) for shard in spec.grid}
    tiles = list(stored_tiles(slide))
    assert len(tiles) > 10
    side = spec.chunks_per_side
    for row, col, tile in tiles:
        assert tile[find(tile, {SOS}) :].rstrip(b"\0") in shards[row // side, col // side]


def test_a_copy_takes_a_fraction_of_what_lossless_pixels_take(copied, tmp_path):
    slide, run = copied
    lossless = convert(slide, tmp_path / "slide.ome.zarr", Options(pixels="lossless", no_tissue=True))
    assert run.store.size("0") * 5 < lossless.store.size("0")
    whole = sum(run.store.size(spec.path) for spec in image_arrays(run.plan)[:4])
    assert whole * 4 < sum(lossless.store.size(spec.path) for spec in image_arrays(run.plan)[:4])


def test_levels_above_are_the_halves_at_the_quality_of_the_source(copied):
    slide, run = copied
    root, halved = zarr.open_group(run.store.uri, mode="r"), pixels_of(slide)
    for level in ("1", "2", "3"):
        halved = halve_pixels(halved)
        found = root[level][:]
        assert found.shape == halved.shape
        channels = (found.astype(np.float32) - halved).reshape(3, -1)
        assert np.abs(channels.mean(axis=1)).max() < 1.5, "no shift of colours"
        rounds = simplejpeg.decode_jpeg(
            simplejpeg.encode_jpeg(
                np.ascontiguousarray(halved.transpose(1, 2, 0)),
                run.plan.copied.quality,
                colorsubsampling=run.plan.copied.subsampling.replace(":", ""),
            )
        )
        expected = (rounds.transpose(2, 0, 1).astype(np.float32) - halved).std()
        assert channels.std() < 1.3 * expected


def test_ome_zarr_py_opens_a_copy(copied):
    slide, run = copied
    (first, *_) = ome_zarr.reader.Reader(ome_zarr.io.parse_url(run.store.uri, mode="r"))()
    assert np.array_equal(first.data[0][:, 100:400, 200:600].compute(), pixels_of(slide)[:, 100:400, 200:600])


def test_the_array_says_who_opens_it(copied):
    _, run = copied
    for level in ("0", "3"):
        attributes = zarr.open_group(run.store.uri, mode="r")[level].attrs
        assert "imagecodecs.zarr.register_codecs()" in attributes["opened_by"]


@pytest.mark.parametrize("quality", range(1, 101, 3))
def test_the_quality_of_a_stream_is_that_which_it_was_made_with(quality):
    picture = np.random.default_rng(quality).integers(0, 255, (32, 32, 3), np.uint8)
    assert quality_of(simplejpeg.encode_jpeg(picture, quality)) == quality


@pytest.fixture(scope="module")
def result(tiled, cluster, tmp_path_factory):
    """A whole result, made by two workers."""
    plan = make_plan(str(tiled), source(tiled, shard_px=512))
    return run_plan(plan, tmp_path_factory.mktemp("result") / "field.ome.zarr", cluster)


def test_any_number_of_workers_and_any_order_make_the_same_bytes(result, cluster, tmp_path):
    plan = Plan.from_json(result.get("plan.json"))
    with connect(ClusterSpec(workers=1)) as alone:
        again = run_plan(plan, tmp_path / "field.ome.zarr", ShuffledCluster(alone, seed=2))
    assert digests(again) == digests(result)


def test_killed_while_it_copies_it_goes_on_and_makes_the_same_bytes(tiled, result, tmp_path):
    store = ResultStore(str(tmp_path / "field.ome.zarr"))
    options = ["--precision", "f32", "--shard-size", "512", "--pixels", "source", "--no-tissue"]
    command = [sys.executable, "-m", "microtome", "segment", str(tiled), "-o", str(tmp_path), *options]
    first = subprocess.Popen([*command, "--workers", "2"], start_new_session=True, stderr=subprocess.DEVNULL)
    kill_when(first, lambda: finished(store, "chunk"))
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "resumed" in again.stderr
    assert "pixels  source: asked for; JPEG tiles of 256 px as they are in the slide" in again.stderr
    assert digests(store) == digests(result)


def test_verify_passes_a_copy_and_names_chunks_that_are_no_tiles(result, tiled, tmp_path):
    assert verify_result(result.uri).faults == ()
    assert b"source: asked for; JPEG tiles of 256 px" in result.get("report/index.html")
    assert np.array_equal(zarr.open_group(result.uri, mode="r")["0"][:], pixels_of(tiled))
    copy = ResultStore(str(shutil.copytree(result.uri, tmp_path / "field.ome.zarr")))
    chunks = dict(chunks_of(copy.get("0/c/0/1/1"), (1, 2, 2)))
    chunks[0, 0, 1] = simplejpeg.encode_jpeg(np.zeros((128, 256, 3), np.uint8))
    chunks[0, 1, 0] = chunks[0, 1, 0][:-500]
    rewrite(copy, "0/c/0/1/1", assemble_shard(sorted(chunks.items()), (1, 2, 2)))
    faults = "\n".join(verify_result(copy.uri).faults)
    assert "0/c/0/1/1: the chunk at 0, 1 is a picture of 256 x 128 px" in faults
    assert "0/c/0/1/1: the chunk at 1, 0 cannot be decoded" in faults


UNFIT = {
    "JPEG 2000": (makers.svs_jpeg2000_rgb, "they are not JPEG (Aperio SVS, JPEG 2000"),
    "strips": (makers.striped_lzw, "they are not JPEG"),
    "only by OpenSlide": (makers.vms, "they are not JPEG"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_tiles_that_cannot_be_copied_are_kept_lossless_and_it_is_said(kind, tissue, tmp_path):
    make, reason = UNFIT[kind]
    plan = make_plan(str(make(tmp_path, tissue)), Options(pixels="source", mpp=0.25, no_tissue=True))
    assert plan.pixels == "lossless"
    assert plan.copied is None
    assert "cannot be copied" in plan.why_pixels
    assert reason in plan.why_pixels


@pytest.mark.parametrize(
    ("tile", "shard_px", "reason"),
    [
        ((256, 128), 512, "they are 128 x 256 px, not square"),
        ((1024, 1024), 512, "shards of 512 px do not hold tiles of 1,024 px"),
    ],
)
def test_tiles_that_do_not_fit_a_shard_are_kept_lossless(tile, shard_px, reason, tissue, tmp_path):
    path = tmp_path / "odd.tif"
    tifffile.imwrite(path, tissue, photometric="rgb", **(TILED | {"tile": tile}))
    plan = make_plan(str(path), source(path, mpp=0.25, shard_px=shard_px))
    assert plan.pixels == "lossless"
    assert reason in plan.why_pixels


def test_a_version_of_ngff_without_shards_refuses_a_copy(tiled):
    with pytest.raises(OptionError, match="must be lossless or none with --ngff 0"):
        make_plan(str(tiled), source(tiled, ngff="0.4"))


def test_large_slides_are_copied_and_others_are_not_by_default(tcga_slide, tmp_path):
    pieces = pieces_of(tcga_slide)
    for side_px, kept in ((69_632, "lossless"), (71_680, "source")):
        made = make_slide(tmp_path / f"{side_px}.tif", pieces, side_px=side_px)
        assert (made.side_px**2 >= LARGE_PX) == (kept == "source")
        with open_slide(str(made.path)) as slide:
            assert choose_pixels(slide, Options(), 4096).kept == kept
            assert choose_pixels(slide, Options(pixels="lossless"), 4096).kept == "lossless"
            assert choose_pixels(slide, Options(ngff="0.4"), 4096).kept == "lossless"


def test_a_tile_that_the_file_does_not_hold_is_glass(tiled, tmp_path):
    sparse = tmp_path / "sparse.tif"
    sparse.write_bytes(tiled.read_bytes())
    with tifffile.TiffFile(sparse, mode="r+") as tiff:
        counts = list(tiff.pages[0].databytecounts)
        counts[8] = 0
        tiff.pages[0].tags["TileByteCounts"].overwrite(counts)
    run = convert(sparse, tmp_path / "sparse.ome.zarr", source(sparse, shard_px=512))
    assert run.plan.pixels == "source"
    found = zarr.open_group(run.store.uri, mode="r")["0"][:]
    assert (found[:, 256:512, 512:768] == 255).all()
    assert np.array_equal(found, pixels_of(sparse))


def damage(tiled: Path, path: Path) -> Path:
    data = bytearray(tiled.read_bytes())
    with tifffile.TiffFile(tiled) as tiff:
        offset, count = tiff.pages[0].dataoffsets[8], tiff.pages[0].databytecounts[8]
    data[offset + count // 3 : offset + count] = b"\xff" * (count - count // 3)
    path.write_bytes(data)
    return path


def test_a_damaged_tile_that_may_be_glass_is_glass(tiled, tmp_path):
    damaged = damage(tiled, tmp_path / "damaged.tif")
    run = convert(damaged, tmp_path / "d.ome.zarr", source(damaged, shard_px=512, on_bad_tile="blank"))
    found = zarr.open_group(run.store.uri, mode="r")["0"][:]
    assert (found[:, 256:512, 512:768] == 255).all()
    assert np.array_equal(found[:, :256], pixels_of(tiled)[:, :256])


def test_a_damaged_tile_is_named_and_not_copied(tiled, tmp_path):
    damaged = damage(tiled, tmp_path / "damaged.tif")
    plan, store = (
        make_plan(str(damaged), source(damaged, shard_px=512)),
        ResultStore(str(tmp_path / "d.ome.zarr")),
    )
    store.put("plan.json", plan.to_json())
    report = do_shard(Run(plan, store).ref, chunk.NAME, chunk.WORK, 1)
    assert report.bad_tiles == ((0, 8, 256, 512),)
    assert not store.exists("0/c/0/0/1")


def test_a_tile_of_another_size_than_those_looked_at_stops_the_run(tiled, tmp_path):
    odd = tmp_path / "odd.tif"
    with tifffile.TiffFile(tiled) as tiff:
        place = tiff.pages[0].dataoffsets[8]
    stream = simplejpeg.encode_jpeg(np.zeros((512, 512, 3), np.uint8), 50)
    data = bytearray(tiled.read_bytes())
    data[place : place + len(stream)] = stream
    odd.write_bytes(data)
    command = [sys.executable, "-m", "microtome", "segment", str(odd), "-o", str(tmp_path / "out")]
    options = ["--precision", "f32", "--shard-size", "512", "--pixels", "source", "--no-tissue"]
    run = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "512 x 512 px, but its place in the file has 256 x 256 (at y=256 x=512)" in run.stderr
    assert "--pixels lossless --overwrite" in run.stderr
    assert "Traceback" not in run.stderr
