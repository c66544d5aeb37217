"""The users' door: every mistake is one sentence with a way out, exit code 2, nothing lost or left."""

import json
import shutil

import numpy as np
import pytest
import tifffile

from microtome import cli
from microtome.grid import Window
from microtome.model import default_model
from microtome.ngff import image_arrays
from microtome.plan import Plan
from microtome.store import ResultStore
from tests.damaged import damaged_copy
from tests.pipeline.conftest import write_png
from tests.pipeline.runs import digests

FAST = ("--mpp", "0.25", "--precision", "f32", "--shard-size", "1024")


@pytest.fixture
def microtome(monkeypatch, capsys):
    """Calls the command line in this process: (exit code, stdout, stderr)."""

    def call(*words):
        monkeypatch.setattr("sys.argv", ["microtome", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        printed = capsys.readouterr()
        return (0 if code is None else code), printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def scene(tissue, tmp_path_factory):
    """Slides with something wrong about them, by what it is."""
    folder = tmp_path_factory.mktemp("scene")
    write_png(folder / "small.png", tissue[:600, :700])
    (folder / "words.svs").write_text("this is no slide")
    (folder / "empty.svs").touch()
    whole = folder / "tiled.tif"
    tifffile.imwrite(whole, tissue, tile=(256, 256), compression="jpeg", photometric="rgb")
    (folder / "cut.tif").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    tifffile.imwrite(folder / "grey.tif", tissue[:, :, 0])
    tifffile.imwrite(
        folder / "absurd.tif", tissue, tile=(256, 256), resolution=(10, 10), resolutionunit="CENTIMETER"
    )
    damaged_copy(whole, folder / "damaged.tif", 7)
    (folder / "model").mkdir()
    (folder / "model" / "model.json").write_text('{"name": "broken"}')
    return folder


MISTAKES = {
    "no such file": (["nothing.svs"], "nothing.svs: no such file"),
    "no bucket": (["s3://"], "s3://: no such file"),
    "not a slide": (["words.svs"], "words.svs"),
    "empty file": (["empty.svs"], "empty.svs"),
    "cut short": (["cut.tif"], "copy it again"),
    "no resolution": (["small.png"], "does not say its resolution; give it in um/px, e.g. --mpp 0.25"),
    "absurd resolution": (["absurd.tif"], "1000 um/px (from the file) is no resolution"),
    "absurd --mpp": (["small.png", "--mpp", "40"], "40 um/px (from --mpp)"),
    "one channel": (["grey.tif", "--mpp", "0.25"], "grey.tif"),
    "no such model": (["small.png", "--mpp", "0.25", "--model", "nowhere"], "nowhere"),
    "broken model": (["small.png", "--mpp", "0.25", "--model", "{folder}/model"], "model.json"),
    "odd shard size": (["small.png", "--mpp", "0.25", "--shard-size", "1000"], "--shard-size is 1000"),
    "no workers": (["small.png", "--mpp", "0.25", "--workers", "0"], "--workers is 0, but must be"),
    "both tissue options": (["small.png", "--tissue", "mask.png", "--no-tissue"], "--tissue"),
    "no such mask": (["small.png", "--mpp", "0.25", "--tissue", "{folder}/mask.png"], "mask.png"),
    "unknown precision": (["small.png", "--precision", "f64"], "f64"),
    "no such scheduler": (
        ["small.png", "--mpp", "0.25", "--scheduler", "tcp://127.0.0.1:9"],
        "no Dask scheduler",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(mistake, scene, microtome, tmp_path, monkeypatch):
    monkeypatch.setattr("microtome.cluster.CONNECT_S", 1)
    (slide, *options), sentence = MISTAKES[mistake]
    options = [option.format(folder=scene) for option in options]
    slide = slide if "://" in slide else scene / slide
    code, out, err = microtome("segment", slide, "-o", tmp_path / "out", "--json", *options)
    assert code == 2
    assert sentence in " ".join(err.split())
    assert "Traceback" not in err
    assert out == ""
    if mistake != "no such scheduler":
        assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused(scene, microtome, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    code, _, err = microtome("segment", scene / "small.png", "-o", tmp_path / "notes.txt", *FAST)
    assert code == 2
    assert "notes.txt, but must be a folder; this is a file" in err
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_of_two_slides_of_one_name_the_second_is_refused(scene, small_result, microtome, tmp_path):
    (tmp_path / "small.tif").write_bytes((scene / "small.png").read_bytes())
    both = [scene / "small.png", tmp_path / "small.tif"]
    code, _, err = microtome("segment", *both, "-o", small_result, "--overwrite", *FAST)
    assert code == 2
    words = " ".join(err.split())
    assert (
        f"{both[1]} and {both[0]} would both be {small_result / 'small.ome.zarr'}; give each a folder"
        in words
    )
    assert microtome("verify", small_result / "small.ome.zarr")[0] == 0


@pytest.mark.parametrize("asked", ["verify", "export"])
def test_a_result_that_is_not_there_is_said_not_to_be(asked, microtome, tmp_path):
    code, _, err = microtome(asked, tmp_path / "nope", *(["-o", tmp_path / "n.csv"] * (asked == "export")))
    assert code == 2
    assert f"there is no {tmp_path / 'nope'}; give the folder of a result" in " ".join(err.split())


@pytest.mark.parametrize("nowhere", ["", "s3://"])
def test_an_output_that_names_no_place_is_refused(nowhere, scene, microtome, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = microtome("segment", scene / "small.png", "-o", nowhere, *FAST)
    assert code == 2
    assert f"-o is '{nowhere}', but must be a folder" in err
    assert list(tmp_path.iterdir()) == []


def test_a_fluorescence_slide_is_refused(dapi_slide, microtome, tmp_path):
    code, _, err = microtome("segment", dapi_slide, "-o", tmp_path)
    assert code == 2
    assert "fluorescence" in err
    assert list(tmp_path.iterdir()) == []


def test_damaged_tiles_are_counted_and_nothing_is_left_behind(scene, microtome, tmp_path):
    code, _, err = microtome("segment", scene / "damaged.tif", "-o", tmp_path, *FAST, "--workers", 1)
    assert code == 2
    assert "1 of 30 tiles cannot be decoded (first: level 0, tile 7 at y=256 x=256)" in err
    assert list(tmp_path.iterdir()) == []


def test_damaged_tiles_can_be_taken_as_glass(scene, microtome, tmp_path):
    options = [*FAST, "--on-bad-tile", "blank", "--json", "--workers", 1]
    for more in ([], ["--pixels", "none", "--overwrite"]):
        code, out, _ = microtome("segment", scene / "damaged.tif", "-o", tmp_path, *options, *more)
        assert code == 0
        assert json.loads(out)["nuclei"] > 100
        assert told_of_tiles(out).startswith("1 tiles of the slide cannot be decoded"), more
        assert microtome("verify", tmp_path / "damaged.ome.zarr")[0] == 0


def told_of_tiles(out):
    """What the report says of damaged tiles."""
    (finding,) = [one["finding"] for one in json.loads(out)["cautions"] if one["check"] == "Damaged tiles"]
    return finding


def test_a_damaged_tile_of_a_coarse_level_hides_no_tissue_without_a_word(tcga_slide, microtome, tmp_path):
    slide = damaged_copy(tcga_slide, tmp_path / "a.tif", 0, level=2)
    options = ["--precision", "int8", "--pixels", "none", "--json", "--workers", 2]
    code, _, err = microtome("segment", slide, "-o", tmp_path, *options)
    assert code == 2
    assert "first: level 2, tile 0 at y=0 x=0" in err
    assert "--on-bad-tile blank" in err
    assert microtome("inspect", slide)[0] == 2
    assert microtome("inspect", slide, "--on-bad-tile", "blank")[0] == 0
    code, out, _ = microtome("segment", slide, "-o", tmp_path, *options, "--on-bad-tile", "blank")
    assert code == 0
    assert told_of_tiles(out).startswith("1 tiles of the overview in which tissue is sought")


@pytest.fixture(scope="module")
def small_result(scene, tmp_path_factory):
    """A finished result of the small field, made on the command line."""
    folder = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.argv", ["microtome", "segment", str(scene / "small.png"), "-o", str(folder), *FAST]
        )
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code in (0, None)
    return folder


def test_a_result_that_is_there_is_not_made_again(scene, small_result, microtome):
    before = ResultStore(str(small_result / "small.ome.zarr")).recorded("infer")
    code, _, err = microtome("segment", scene / "small.png", "-o", small_result, *FAST)
    assert code == 0
    assert "done already" in err
    assert ResultStore(str(small_result / "small.ome.zarr")).recorded("infer") == before


def test_a_result_of_another_plan_is_kept_unless_told_otherwise(scene, small_result, microtome, tmp_path):
    shutil.copytree(small_result, tmp_path, dirs_exist_ok=True)
    store = ResultStore(str(tmp_path / "small.ome.zarr"))
    before = digests(store)
    words = ["segment", scene / "small.png", "-o", tmp_path, *FAST, "--mpp", "0.3", "--workers", 1]
    code, _, err = microtome(*words)
    assert code == 2
    assert "slide.mpp" in err
    assert "--overwrite" in err
    assert digests(store) == before
    assert microtome(*words, "--overwrite")[0] == 0
    assert digests(store) != before


def test_a_damaged_plan_can_be_replaced(scene, small_result, microtome, tmp_path):
    shutil.copytree(small_result, tmp_path, dirs_exist_ok=True)
    plan = tmp_path / "small.ome.zarr" / "plan.json"
    plan.write_bytes(plan.read_bytes()[:100])
    words = ["segment", scene / "small.png", "-o", tmp_path, *FAST, "--workers", 1]
    code, _, err = microtome(*words)
    assert code == 2
    assert "its plan.json cannot be read" in err
    assert microtome(*words, "--overwrite")[0] == 0
    assert microtome("verify", tmp_path / "small.ome.zarr")[0] == 0


@pytest.mark.parametrize("key", ["0/c/0/0/0", "tables/nuclei.parquet"])
def test_what_a_crash_of_the_machine_left_empty_is_made_again(key, scene, small_result, microtome, tmp_path):
    shutil.copytree(small_result, tmp_path, dirs_exist_ok=True)
    store = ResultStore(str(tmp_path / "small.ome.zarr"))
    before = digests(store)
    (tmp_path / "small.ome.zarr" / key).write_bytes(b"")
    code, _, err = microtome("segment", scene / "small.png", "-o", tmp_path, *FAST, "--workers", 1)
    assert code == 0
    assert "resumed" in err
    assert digests(store) == before
    assert microtome("verify", tmp_path / "small.ome.zarr")[0] == 0


def test_the_command_of_a_report_names_the_folder_of_a_model_that_is_not_shipped(scene, microtome, tmp_path):
    shutil.copytree(default_model(), tmp_path / "ours")
    words = ["segment", scene / "small.png", "-o", tmp_path, *FAST, "--json", "--workers", 1]
    for model, named in ((tmp_path / "ours", f"--model {tmp_path}/ours"), ("he-nuclei", "--model he-nuclei")):
        code, out, _ = microtome(*words, "--model", model, "--overwrite")
        assert code == 0
        assert f"{named} --precision" in json.loads(out)["command"]


def test_a_folder_of_somebody_elses_is_never_touched(scene, microtome, tmp_path):
    (tmp_path / "small.ome.zarr").mkdir()
    (tmp_path / "small.ome.zarr" / "thesis.txt").write_text("the only copy")
    code, _, err = microtome("segment", scene / "small.png", "-o", tmp_path, *FAST, "--overwrite")
    assert code == 2
    assert "is no result of microtome's" in err
    assert (tmp_path / "small.ome.zarr" / "thesis.txt").read_text() == "the only copy"


def test_a_bad_slide_does_not_stop_the_others(scene, microtome, tmp_path):
    slides = [scene / "words.svs", scene / "small.png"]
    code, out, err = microtome("segment", *slides, "-o", tmp_path, *FAST, "--workers", 1)
    assert code == 2, err
    assert "words.svs" in err
    table = {line.split()[0]: line.split()[-1] for line in out.splitlines()[1:]}
    assert table == {"words.svs": "refused", "small.png": "done"}


def test_the_summary_is_all_that_json_prints(scene, small_result, microtome):
    code, out, _ = microtome("segment", scene / "small.png", "-o", small_result, *FAST, "--json")
    assert code == 0
    summary = json.loads(out)
    assert summary["slide"] == "small.png"
    assert summary["mpp_source"] == "--mpp"
    assert summary["nuclei"] > 50


def test_inspect_tells_what_a_run_would_cost(scene, microtome):
    code, out, _ = microtome("inspect", scene / "small.png", *FAST)
    assert code == 0
    assert "700 x 600" in out
    assert "0.25 um/px (from --mpp)" in out
    assert "tiles" in out
    assert "pixels     lossless" in out
    code, out, _ = microtome("inspect", scene / "small.png", *FAST, "--pixels", "none")
    assert (code, "pixels     none" in out) == (0, True)


def test_verify_names_what_is_wrong(small_result, microtome, tmp_path):
    shutil.copytree(small_result, tmp_path, dirs_exist_ok=True)
    result = tmp_path / "small.ome.zarr"
    assert microtome("verify", result)[0] == 0
    key = result / "labels" / "nuclei" / "0" / "c" / "0" / "0"
    key.write_bytes(key.read_bytes()[:-1])
    code, out, _ = microtome("verify", result)
    assert code == 1
    assert "labels/nuclei/0/c/0/0" in out


@pytest.mark.parametrize("format", ["geojson", "geoparquet", "csv"])
def test_export_writes_every_nucleus(format, small_result, microtome, tmp_path):
    result = small_result / "small.ome.zarr"
    count = json.loads((result / "report" / "summary.json").read_text())["nuclei"]
    path = tmp_path / f"nuclei.{format}"
    code, out, _ = microtome("export", result, "--format", format, "-o", path)
    assert (code, out) == (0, f"{count:,} nuclei in {path}\n")
    if format == "geojson":
        assert len(json.loads(path.read_text())["features"]) == count
    elif format == "csv":
        assert len(path.read_text().splitlines()) == count + 1
    else:
        geopandas = pytest.importorskip("geopandas")
        assert len(geopandas.read_parquet(path)) == count


@pytest.mark.parametrize(
    ("name", "begins"),
    [("n.csv", b"label,"), ("n.CSV.gz", b"\x1f\x8b"), ("n.parquet", b"PAR1"), ("n.geojson", b'{"type"')],
)
def test_a_file_is_exported_as_its_name_ends(name, begins, small_result, microtome, tmp_path):
    assert microtome("export", small_result / "small.ome.zarr", "-o", tmp_path / name)[0] == 0
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_a_name_that_no_format_is_known_by_is_refused(small_result, microtome, tmp_path):
    code, _, err = microtome("export", small_result / "small.ome.zarr", "-o", tmp_path / "n.shp")
    assert code == 2
    assert "a name that ends in .geojson" in " ".join(err.split())
    assert not (tmp_path / "n.shp").exists()


def test_doctor_says_which_precision_will_be_used(microtome):
    code, out, _ = microtome("doctor")
    assert code == 0
    assert any(line.startswith("precision  ") for line in out.splitlines())
    assert "openvino" in out


def test_a_stardist_folder_becomes_a_model(shared_data, microtome, tmp_path):
    folder = shared_data / "models" / "stardist-reference"
    code, out, _ = microtome("model", "import", folder, "-o", tmp_path / "m", "--percentiles", "none,99.8")
    assert code == 0
    assert "0.25 um/px" in out
    assert (tmp_path / "m" / "model.json").is_file()
    code, _, err = microtome("model", "import", folder, "-o", tmp_path / "n", "--percentiles", "99,1")
    assert code == 2
    assert "--percentiles is 99,1" in err
    code, _, err = microtome("model", "import", folder, "-o", tmp_path / "n", "--mpp", "-1")
    assert (code, "--mpp is -1.0, but must be above 0" in err) == (2, True)
    code, _, err = microtome("model", "import", folder, "-o", "/proc/n")
    assert (code, "/proc/n cannot be written to" in err) == (2, True)


def test_lossless_pixels_are_those_of_the_slide(tissue, small_result):
    store = ResultStore(str(small_result / "small.ome.zarr"))
    level0 = image_arrays(Plan.from_json(store.get("plan.json")))[0]
    pixels = store.read_array(level0, Window(0, 0, 600, 700))
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), tissue[:600, :700])
