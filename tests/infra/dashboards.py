"""The dashboards as they lie in the chart."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.infra.prometheus import FILES

DASHBOARDS = sorted((FILES / "dashboards").glob("*.json"))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """All that show something: rows are left out."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Every query of every panel, with a name for it, and All chosen for every variable."""
    for path in DASHBOARDS:
        dashboard = read(path)
        for panel in panels(dashboard):
            for target in panel["targets"]:
                query = target["expr"]
                for variable in dashboard["templating"]["list"]:
                    query = query.replace(f"${variable['name']}", variable.get("allValue", ""))
                yield f"{dashboard['title']}, {panel['title']}, {target['refId']}", query
