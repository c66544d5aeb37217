"""Dashboards that a reader understands and that Grafana takes."""

import re

import pytest

from tests.infra.dashboards import DASHBOARDS, panels, queries, read
from tests.infra.prometheus import FILES


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.stem)
def dashboard(request):
    return read(request.param)


def test_every_panel_says_what_it_shows_and_in_which_unit(dashboard):
    for panel in panels(dashboard):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_panels_have_numbers_of_their_own_and_do_not_overlap(dashboard):
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells


def test_every_panel_asks_the_prometheus_that_was_chosen(dashboard):
    for panel in panels(dashboard):
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_no_query_leaves_a_variable_open():
    assert [name for name, query in queries() if "$" in query] == []


def test_every_recorded_series_that_a_dashboard_asks_for_is_recorded():
    recorded = set(re.findall(r"record: (\S+)", (FILES / "recording.yaml").read_text()))
    # The chart says what it allows.
    recorded.add("cluster:microtome_workers:maximum")
    asked = {series for _, query in queries() for series in re.findall(r"\w+:\w+:\w+", query)}
    assert asked <= recorded
    assert len(asked) > 15


def test_a_slide_leads_to_its_report_and_to_its_run():
    results = read(next(path for path in DASHBOARDS if path.stem == "microtome-results"))
    table = next(panel for panel in panels(results) if panel["title"] == "Slides")
    urls = [
        link["url"]
        for override in table["fieldConfig"]["overrides"]
        for found in override["properties"]
        if found["id"] == "links"
        for link in found["value"]
    ]
    assert urls == ["${__data.fields.report}", "${__data.fields.page}"]
