"""Shards and metadata, validated and opened by software made by others."""

import json
import shutil
from dataclasses import replace

import numpy as np
import ome_zarr.io
import ome_zarr.reader
import ome_zarr_models
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from microtome.export import TABLE
from microtome.grid import Window
from microtome.ngff import Jpeg, image_arrays, label_arrays, metadata
from microtome.shards import assemble_shard, decode, encode, keys_in
from microtome.store import ResultStore

VERSIONS = ["0.5", "0.4"]


@pytest.fixture(scope="module", params=VERSIONS)
def either(request, build, plan_of, tmp_path_factory):
    """A whole result in each version."""
    folder = tmp_path_factory.mktemp("ngff") / "S-001.ome.zarr"
    return build(plan_of(ngff=request.param), folder)


def test_pixels_and_labels_read_back_by_zarr_python(either):
    root = zarr.open_group(either.store.uri, mode="r")
    assert np.array_equal(root["0"][:], either.pixels)
    assert np.array_equal(root["labels/nuclei/0"][:], either.labels)
    window = Window(100, 400, 1301, 777)
    spec = label_arrays(either.plan)[0]
    assert np.array_equal(either.store.read_array(spec, window), either.labels[100:1301, 400:777])


@pytest.mark.parametrize("ngff", VERSIONS)
def test_memory_layout_of_the_pixels_does_not_show_in_the_bytes(plan_of, ngff):
    spec = image_arrays(plan_of(ngff=ngff))[0]
    planar = np.random.default_rng(0).integers(0, 255, (3, 512, 300), np.uint8)
    interleaved = np.ascontiguousarray(planar.transpose(1, 2, 0)).transpose(2, 0, 1)
    assert list(encode(spec, 0, 3, planar)) == list(encode(spec, 0, 3, interleaved))


@pytest.mark.parametrize("ngff", VERSIONS)
def test_glass_and_background_are_not_written_and_read_as_such(plan_of, tmp_path, ngff):
    plan = plan_of(1024, 2048, shard_px=1024, ngff=ngff)
    store = ResultStore(str(tmp_path))
    for spec in (image_arrays(plan)[0], label_arrays(plan)[0]):
        block = np.full((*spec.shape[:-2], 1024, 1024), spec.fill, spec.dtype)
        assert list(encode(spec, 0, 0, block)) == []
        block[..., 700, 3] = 7
        for key, text in encode(spec, 0, 1, block):
            store.put(key, text)
        assert store.size(spec.path) < 3000
        assert (store.read_array(spec, Window(0, 0, 1024, 1024)) == spec.fill).all()
        assert np.array_equal(store.read_array(spec, Window(0, 1024, 1024, 2048)), block)


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    chunk=st.sampled_from((4, 8, 16)),
    seed=st.integers(0, 99),
)
def test_any_cut_of_an_array_reads_back(plan_of, tmp_path_factory, size, chunk, seed):
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 3, size, np.uint32) * (rng.random(size) < 0.05)
    spec = replace(
        label_arrays(plan_of())[0], shape=size, shard_shape=(16, 16), chunk_shape=(chunk, chunk), path="a"
    )
    store = ResultStore(str(tmp_path_factory.mktemp("cut")))
    for shard in spec.grid:
        for key, text in encode(spec, shard.row, shard.col, array[shard.window.within(spec.grid.window)]):
            store.put(key, text)
    assert np.array_equal(store.read_array(spec, spec.grid.window), array)
    y0, x0 = size[0] // 3, size[1] // 2
    for window in (spec.grid.window, Window(y0, x0, *size)):
        texts = store.get_existing(list(keys_in(spec, window)))
        assert np.array_equal(decode(spec, window, texts), array[window.y0 :, window.x0 :])


@pytest.mark.parametrize("kind", [*VERSIONS, "jpeg"])
def test_what_is_read_back_is_what_zarr_python_reads(plan_of, tmp_path, kind):
    plan = plan_of(1000, 1500, shard_px=512, ngff="0.5" if kind == "jpeg" else kind)
    spec = image_arrays(plan)[1]
    if kind == "jpeg":
        spec = replace(spec, jpeg=Jpeg(quality=80, subsampling="420"), chunk_shape=(3, 128, 128))
    store = ResultStore(str(tmp_path))
    coarse = np.random.default_rng(1).integers(0, 255, (3, 50, 75), np.uint8)
    pixels = coarse.repeat(10, axis=1).repeat(10, axis=2)
    for shard in list(spec.grid)[1:]:
        for key, text in encode(
            spec, shard.row, shard.col, pixels[:, *shard.window.within(spec.grid.window)]
        ):
            store.put(key, text)
    window = Window(100, 30, 433, 699)
    found = decode(spec, window, store.get_existing(list(keys_in(spec, window))))
    assert np.array_equal(found, store.read_array(spec, window))
    assert (found[:, :156, :226] == 255).all()
    assert found[:, 200:, 300:].min() < 100


def test_a_shard_whose_index_is_damaged_is_not_read(plan_of):
    spec = label_arrays(plan_of(512, 512, shard_px=512))[0]
    ((key, text),) = encode(spec, 0, 0, np.ones((512, 512), np.uint32))
    damaged = text[:-10] + bytes([text[-10] ^ 1]) + text[-9:]
    with pytest.raises(ValueError, match="index of a shard is damaged"):
        decode(spec, spec.grid.window, {key: damaged})


def test_a_shard_can_be_put_together_from_chunks_that_are_encoded_already(plan_of, tmp_path):
    spec = replace(label_arrays(plan_of(1024, 1024, shard_px=1024))[0], path="a")
    block = np.zeros((1024, 1024), np.uint32)
    block[512:, :512] = 9
    ((_, whole),) = encode(spec, 0, 0, block)
    table = np.frombuffer(whole[-4 - 64 : -4], "<u8").reshape(2, 2, 2)
    offset, size = table[1, 0]
    assert assemble_shard([((1, 0), whole[offset : offset + size])], (2, 2)) == whole
    assert assemble_shard([], (2, 2)) is None


def test_every_group_is_valid_by_ome_zarr_models(either, tmp_path):
    # Its model of a labels group of 0.5 takes labels without colours for an error, so groups go one by one.
    copy = shutil.copytree(either.store.uri, tmp_path / "pixels", ignore=shutil.ignore_patterns("labels"))
    version = {"0.5": ome_zarr_models.v05, "0.4": ome_zarr_models.v04}[either.plan.ngff]
    image = version.Image.from_zarr(zarr.open_group(copy, mode="r"))
    root = zarr.open_group(either.store.uri, mode="r")
    label = version.ImageLabel.from_zarr(root["labels/nuclei"])
    version.labels.LabelsAttrs.model_validate(ome_of(root["labels"]))
    assert ome_of(root["labels"])["labels"] == ["nuclei"]
    if either.plan.ngff == "0.5":
        image, label = (found.attributes.ome for found in (image, label))
    else:
        image, label = (found.attributes for found in (image, label))
    assert len(image.multiscales[0].datasets) == len(label.multiscales[0].datasets) == 3
    assert label.image_label.source.image == "../../"


def ome_of(group: zarr.Group) -> dict:
    """Attributes of OME-NGFF of a group, in whichever version."""
    attributes = group.attrs.asdict()
    return attributes.get("ome", attributes)


def test_levels_lie_on_one_another_to_the_corner(either):
    """The corner of a level is half a pixel from the centre of its first pixel."""
    root = zarr.open_group(either.store.uri, mode="r")
    for group, rank in ((root, 3), (root["labels/nuclei"], 2)):
        for level, dataset in enumerate(ome_of(group)["multiscales"][0]["datasets"]):
            scale, translation = dataset["coordinateTransformations"]
            assert len(scale["scale"]) == rank
            um = np.asarray(scale["scale"][-2:])
            assert np.allclose(um, np.array([0.25, 0.26]) * 2**level)
            corner_um = np.asarray(translation["translation"][-2:]) - um / 2
            assert np.allclose(corner_um, [-0.125, -0.13])


def ome_zarr_node(result, path: str):
    """What ome-zarr-py finds at a path of a result; with labels it finds the image that they belong to."""
    nodes = ome_zarr.reader.Reader(ome_zarr.io.parse_url(result.store.uri + path))()
    return next(node for node in nodes if node.data and node.data[0].ndim == (2 if path else 3))


def test_ome_zarr_py_opens_the_image_and_its_labels(either):
    image, labels = (ome_zarr_node(either, path) for path in ("", "/labels/nuclei"))
    assert [level.shape for level in image.data] == [spec.shape for spec in image_arrays(either.plan)]
    assert np.array_equal(image.data[0].compute(), either.pixels)
    assert np.array_equal(labels.data[0].compute(), either.labels)
    assert image.metadata["channel_names"] == ["R", "G", "B"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_spatialdata_takes_pixels_labels_and_outlines(either):
    import geopandas  # together these warn of what is deprecated in one another
    import spatialdata

    image, labels = (ome_zarr_node(either, path).data for path in ("", "/labels/nuclei"))
    table = geopandas.read_parquet(f"{either.store.uri}/{TABLE}").set_index("label")
    data = spatialdata.SpatialData(
        images={"slide": spatialdata.models.Image2DModel.parse(image[0], dims=("c", "y", "x"))},
        labels={"nuclei": spatialdata.models.Labels2DModel.parse(labels[0], dims=("y", "x"))},
        shapes={"outlines": spatialdata.models.ShapesModel.parse(table)},
    )
    assert spatialdata.get_extent(data["outlines"])["x"][1] <= either.plan.width_px
    assert len(data["outlines"]) == len(either.nuclei)


@pytest.mark.parametrize("ngff", VERSIONS)
def test_without_pixels_the_labels_stand_alone_on_the_same_grid(build, plan_of, tmp_path, ngff):
    result = build(plan_of(ngff=ngff, pixels="none"), tmp_path / "r.ome.zarr")
    root = zarr.open_group(result.store.uri, mode="r")
    assert "0" not in root
    assert "multiscales" not in json.dumps(dict(root.attrs))
    version = {"0.5": ome_zarr_models.v05, "0.4": ome_zarr_models.v04}[ngff]
    version.ImageLabel.from_zarr(root["labels/nuclei"])
    assert np.array_equal(ome_zarr_node(result, "/labels/nuclei").data[0].compute(), result.labels)


def test_metadata_holds_no_clock_and_no_address_of_this_machine(plan_of):
    assert metadata(plan_of()) == metadata(plan_of())
    assert b"colors" not in b"".join(metadata(plan_of()).values())
