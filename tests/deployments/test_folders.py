"""Slides that a scanner writes into a folder."""

import os
import shutil
import time

import pytest
from prometheus_client import REGISTRY

from deployments.folders import Watch, missing_part
from microtome.inbox import Inbox, SlideVersion, look, slides_in
from tests.deployments.conftest import serving
from tests.waiting import until


def version(name, stamp="1"):
    return SlideVersion(name, 1, stamp)


def test_a_slide_counts_when_it_has_rested():
    watch = Watch(rest_s=30)
    assert watch.rested([version("a")], 0) == []
    assert watch.rested([version("a", "2")], 20) == [], "it grew"
    assert watch.rested([version("a", "2")], 49) == []
    assert watch.rested([version("a", "2")], 50) == [version("a", "2")]
    watch.settle(version("a", "2"))
    assert watch.rested([version("a", "2")], 99) == []


def test_a_slide_that_went_and_came_back_is_looked_at_again():
    watch = Watch(rest_s=0)
    watch.settle(version("a"))
    watch.rested([], 1)
    assert watch.rested([version("a")], 2) == [version("a")]


def test_parts_of_a_slide_make_one_version(cmu_dicom, tmp_path):
    shutil.copytree(cmu_dicom, tmp_path / "in" / "S-1")
    inbox = Inbox(sources=(str(tmp_path / "in"),), output=str(tmp_path / "out"))
    (before,) = slides_in(inbox, inbox.sources[0])
    assert before.uri == str(tmp_path / "in" / "S-1")
    (tmp_path / "in" / "S-1" / "late.dcm").write_bytes(b"late")
    assert look(before.uri).id != before.id


def test_an_mrxs_slide_waits_for_all_its_parts(tmp_path):
    slide, folder = tmp_path / "a.mrxs", tmp_path / "a"
    slide.touch()
    assert "Slidedat.ini" in missing_part(slide)
    folder.mkdir()
    (folder / "Slidedat.ini").write_text(
        "\ufeff[DATAFILE]\nFILE_COUNT = 2\nFILE_0 = Data0000.dat\nFILE_1 = Data0001.dat\n"
    )
    (folder / "Data0000.dat").touch()
    assert "Data0001.dat" in missing_part(slide)
    (folder / "Data0001.dat").touch()
    assert missing_part(slide) is None


def test_links_lead_nowhere_and_results_are_no_slides(cmu_slide, tmp_path):
    place = tmp_path / "in"
    (place / "S.ome.zarr" / "report").mkdir(parents=True)
    (place / "S.ome.zarr" / "report" / "x.tif").touch()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "s.svs").touch()
    os.symlink(tmp_path / "secret", place / "linked")
    inbox = Inbox(sources=(str(place),), output=str(tmp_path / "out"))
    assert list(slides_in(inbox, str(place))) == []


@pytest.mark.slow
def test_a_slide_that_is_being_written_is_announced_once_when_it_is_whole(
    cmu_slide, tmp_path, prefect, settings_for
):
    place = tmp_path / "in"
    place.mkdir()
    data = cmu_slide.read_bytes()
    with serving(settings_for(str(place), rest_s=0.6, poll_s=0.1)):
        (place / "cut.svs").write_bytes(data[: len(data) // 2])
        with (place / "a.svs").open("wb") as file:
            for part in range(8):
                file.write(data[part * len(data) // 8 : (part + 1) * len(data) // 8])
                file.flush()
                time.sleep(0.2)
                assert prefect.events == []
        until(lambda: prefect.events, 60)
        time.sleep(1)
        assert [event["payload"]["slide"] for event in prefect.events] == [str(place / "a.svs")]
        (place / "cut.svs").write_bytes(data)
        until(lambda: len(prefect.events) == 2, 60)


@pytest.mark.slow
def test_a_slide_waits_while_the_store_of_the_results_is_away(cmu_slide, tmp_path, s3, prefect, settings_for):
    place = tmp_path / "in"
    place.mkdir()
    shutil.copyfile(cmu_slide, place / "a.svs")

    def postponed():
        return REGISTRY.get_sample_value("microtome_intake_postponed_total")

    before = postponed()
    s3.stop()
    with serving(settings_for(str(place), output="s3://slides/out", rest_s=0.1, poll_s=0.1)):
        until(lambda: postponed() > before, 60, "a word about it")
        assert prefect.events == []
        with s3:
            until(lambda: prefect.events, 60, "the slide's turn")
