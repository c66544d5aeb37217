"""Rules and alerts, by promtool, and that each alert is shown to fire and not to."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.infra.prometheus import FILES, ROOT

CASES = Path(__file__).parent / "rules"
ALERTS = [rule["alert"] for rule in yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"][0]["rules"]]


@pytest.mark.parametrize("file", ["recording.yaml", "alerts.yaml"])
def test_promtool_takes_the_rules(promtool, file):
    done = subprocess.run([promtool, "check", "rules", FILES / file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", sorted(path.name for path in CASES.iterdir()))
def test_rules_do_what_their_cases_say(promtool, file):
    done = subprocess.run([promtool, "test", "rules", CASES / file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_shown_to_fire_and_to_be_silent():
    shown: dict[str, set[bool]] = {alert: set() for alert in ALERTS}
    for case in yaml.safe_load((CASES / "alerts.yaml").read_text())["tests"]:
        for check in case["alert_rule_test"]:
            shown[check["alertname"]].add(bool(check["exp_alerts"]))
    assert shown == {alert: {True, False} for alert in ALERTS}


def test_what_to_do_on_every_alert_is_written_down():
    headings = re.findall(r"^### (Microtome\w+)$", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(ALERTS)


def test_the_small_labs_configuration_is_taken(promtool, tmp_path):
    """But for workers.json, which a lab writes itself."""
    config = (ROOT / "infra" / "prometheus" / "small-lab.yaml").read_text()
    (tmp_path / "prometheus").mkdir()
    (tmp_path / "prometheus" / "small-lab.yaml").write_text(config)
    (tmp_path / "prometheus" / "workers.json").write_text("[]")
    (tmp_path / "chart").symlink_to(ROOT / "infra" / "chart")
    done = subprocess.run(
        [promtool, "check", "config", tmp_path / "prometheus" / "small-lab.yaml"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
