"""One slide, one result, whoever else is at work: a second start, and somebody who replaces the slide."""

import shutil
import subprocess

import pytest
import tifffile

from microtome.claim import Claim
from microtome.errors import ClaimLost, SlideChanged, SlideDamaged
from microtome.options import Options
from microtome.pipeline import finish, prepare
from microtome.store import ResultStore
from tests.damaged import damaged_copy
from tests.pipeline.runs import digests
from tests.pipeline.test_crash import SWEEPS, command, finished


def test_two_starts_of_one_result_compute_it_once(field, undisturbed, tmp_path):
    runs = [
        subprocess.Popen(command(field, tmp_path), stderr=subprocess.PIPE, text=True, start_new_session=True)
        for _ in range(2)
    ]
    said = [run.communicate(timeout=200)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert sum("another run is making this result; waiting for its end" in text for text in said) == 1
    assert sum("done already" in text for text in said) == 1
    store = ResultStore(str(tmp_path / "field.ome.zarr"))
    # A shard that were computed by both would have been recorded by the workers of both.
    assert len({report.worker for sweep in SWEEPS for report in finished(store, sweep).values()}) <= 2
    assert digests(store) == digests(undisturbed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["field.ome.zarr"], "the claim is gone"


def another_slide(path, tissue):
    tifffile.imwrite(path.with_suffix(".new"), tissue[::-1], tile=(256, 256), photometric="rgb")
    path.with_suffix(".new").replace(path)


def other_pixels_in_its_middle(path, tissue):
    """Size, first and last MiB stay as they were."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(4096))


@pytest.mark.parametrize(
    ("replace", "stage"),
    [(another_slide, "infer"), (other_pixels_in_its_middle, "infer"), (another_slide, "export")],
)
def test_a_slide_that_is_replaced_meanwhile_is_not_published(replace, stage, tissue, cluster, tmp_path):
    slide = tmp_path / "a.tif"
    tifffile.imwrite(slide, tissue, tile=(256, 256), photometric="rgb")
    options = Options(mpp=0.25, precision="f32", shard_px=512)
    prepared = prepare(str(slide), str(tmp_path / "out"), options)
    seen = []

    def at_the_first_record(progress):
        if progress.stage == stage and progress.report is not None and not seen:
            seen.append(progress)
            replace(slide, tissue)

    with pytest.raises(SlideChanged, match="start it again when the slide rests"):
        finish(prepared, cluster, at_the_first_record)
    assert seen
    assert list((tmp_path / "out").rglob("*.json")) == [], "what is of two slides is not resumed either"


def test_a_repaired_copy_is_read_by_workers_that_had_the_damaged_one_open(tcga_slide, cluster, tmp_path):
    slide = damaged_copy(tcga_slide, tmp_path / "a.tif", 700)
    options = Options(precision="int8", pixels="none")
    prepared = prepare(str(slide), str(tmp_path / "out"), options)
    with pytest.raises(SlideDamaged):
        finish(prepared, cluster, lambda progress: None)
    shutil.copyfile(tcga_slide, tmp_path / "b.tif").replace(slide)
    again = prepare(str(slide), str(tmp_path / "out"), options)
    assert again.run.plan.fingerprint == prepared.run.plan.fingerprint, "by size, first and last MiB"
    assert finish(again, cluster, lambda progress: None).nuclei > 10_000


def test_a_run_that_lost_its_claim_leaves_the_result_to_the_other(field, cluster, tmp_path):
    options = Options(mpp=0.25, precision="f32", shard_px=512)
    claim = Claim()
    prepared = prepare(str(field), str(tmp_path), options, claim=claim)

    def lost_at_the_first_pixels(progress):
        if progress.report is not None:
            claim.lose()

    with pytest.raises(ClaimLost):
        finish(prepared, cluster, lost_at_the_first_pixels)
    store = prepared.run.store
    assert not any(store.is_closed(stage) for stage in store.stages()), "it stops at the next shard"
    assert "stitch.paint" not in store.stages()
