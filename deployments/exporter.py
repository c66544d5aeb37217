"""The figures of runs for Prometheus: a small service beside Prefect's server.

`python -m deployments.exporter --port 9464`; who Prefect is says its own environment (PREFECT_API_URL).

A flow run lives for minutes in a pod that nobody scrapes, so it writes its figures to its flow run
(`tasks/figures.py`), and this service shows those of the last days. It keeps nothing that Prefect's
database does not: started anew, or twice, it shows the same. It is not part of the intake, which
listens to the outside: the names of slides are nobody's business there.
"""

import argparse
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from urllib.parse import quote

import prometheus_client
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deployments.runs import FlowRun, Runs, Seen
from microtome.errors import PrefectRefused, PrefectUnreachable
from microtome.submit import PrefectApi
from tasks.labels import CPU, PREFIX, SECONDS

RUN = ("run", "slide", "deployment", "model", "precision")
SLIDE = ("run", "slide", "model", "precision")
ALWAYS = ("Scheduled", "Late", "Pending", "Running")
"""States that are shown also when no run is in them."""
HEARD = "When a Prefect worker of a pool was last heard of."
FIGURES = {
    "nuclei": "Nuclei of a slide.",
    "nuclei_per_mm2": "Nuclei per mm2 of tissue.",
    "tissue_mm2": "Tissue of a slide, mm2.",
    "tissue_pixels": "Tissue of a slide, pixels of its finest level.",
    "median_area_um2": "Median area of a slide's nuclei, um2.",
    "seconds": "Seconds from a slide's first stage to its report.",
}
BY_STAGE = {
    CPU: ("microtome_slide_cpu_seconds", "Core-seconds that a slide took, by stage."),
    SECONDS: ("microtome_slide_stage_seconds", "Seconds that a slide took, by stage."),
}
logger = logging.getLogger("microtome.exporter")

read_at = prometheus_client.Gauge(
    "microtome_exporter_read_timestamp_seconds", "When the exporter last read Prefect, Unix time."
)


@dataclass(frozen=True, slots=True)
class Links:
    """From a figure to what people look at."""

    page: Callable[[str], str]
    """Of a run's id: its page in Prefect."""
    output: str = ""
    """Where results are written, and ..."""
    served_at: str = ""
    """... the address at which a browser finds the same; empty if there is none."""

    def report(self, result: str) -> str:
        """Address of a result's report."""
        output, served_at = self.output.rstrip("/"), self.served_at.rstrip("/")
        if served_at and result.startswith(f"{output}/"):
            return f"{served_at}{quote(result.removeprefix(output))}/report/index.html"
        return f"{result}/report/index.html"


class RunFigures(Collector):
    """The runs as metrics. Empty until they were read."""

    def __init__(self, links: Links) -> None:
        self.seen: Seen | None = None
        self._links = links

    def collect(self) -> Iterator[Metric]:
        if self.seen is not None:
            yield from _waiting(self.seen)
            yield from _ended(self.seen, self._links)
            yield from _slides(self.seen, self._links)


def _waiting(seen: Seen) -> Iterator[Metric]:
    """Runs by state, the times of those that go on, and whether somebody would take the next."""
    counted: Counter[tuple[str, ...]] = Counter()
    counted.update({(state, name, "", ""): 0 for name in seen.deployments for state in ALWAYS})
    counted.update((run.state, *_run_labels(run)[2:]) for run in seen.under_way)
    runs = _gauge("microtome_runs", "Flow runs that are due or go on, by state.", ("state", *RUN[2:]))
    for state_and_kind, count in counted.items():
        runs.add_metric(state_and_kind, count)

    heartbeat = _gauge("microtome_run_heartbeat_timestamp_seconds", "A running run's last sign of life.", RUN)
    started = _gauge("microtome_run_start_timestamp_seconds", "When a run that goes on started.", RUN)
    for run in seen.under_way:
        if run.id in seen.heartbeats:
            heartbeat.add_metric(_run_labels(run), seen.heartbeats[run.id])
        if run.started_at:
            started.add_metric(_run_labels(run), run.started_at)

    heard = _gauge("microtome_pool_heartbeat_timestamp_seconds", HEARD, ("pool",))
    for pool, at in seen.pools.items():
        heard.add_metric((pool,), at)
    yield from (runs, heartbeat, started, heard)


def _ended(seen: Seen, links: Links) -> Iterator[Metric]:
    """What became of the runs."""
    ended = _gauge("microtome_run_end_timestamp_seconds", "When a run ended.", (*RUN, "state", "page"))
    took = _gauge("microtome_run_seconds", "Seconds that a run's process took.", RUN)
    waited = _gauge("microtome_run_wait_seconds", "Seconds from when a run was due to its start.", RUN)
    for run in seen.ended:
        labels = _run_labels(run)
        if run.ended_at:
            ended.add_metric((*labels, run.state, links.page(run.id)), run.ended_at)
        if run.started_at:
            took.add_metric(labels, run.seconds)
        if run.started_at and run.due_at:
            waited.add_metric(labels, run.started_at - run.due_at)
    yield from (ended, took, waited)


def _slides(seen: Seen, links: Links) -> Iterator[Metric]:
    """The figures of every result, once each: a run that found it done says them again."""
    first: dict[tuple[str, str], FlowRun] = {}
    for run in seen.ended:  # newest first: the oldest of a result stays
        if result := _label(run, "result"):
            first[result, _label(run, "made_at")] = run
    told = (*SLIDE, "model_version", "microtome_version", "page", "report")
    info = _gauge("microtome_slide_info", "A finished slide: versions, its run's page, its report.", told)
    figures = {name: _gauge(f"microtome_slide_{name}", help_, SLIDE) for name, help_ in FIGURES.items()}
    stages = {prefix: _gauge(*named, (*SLIDE, "stage")) for prefix, named in BY_STAGE.items()}
    for (result, _), run in first.items():
        labels = _slide_labels(run)
        versions = (_label(run, "model_version"), _label(run, "microtome_version"))
        info.add_metric((*labels, *versions, links.page(run.id), links.report(result)), 1)
        for key, value in run.labels.items():
            name = key.removeprefix(PREFIX)
            kind, dot, stage = name.partition(".")
            if name in figures:
                figures[name].add_metric(labels, float(value))
            elif kind + dot in stages:
                stages[kind + dot].add_metric((*labels, stage), float(value))
    yield from (info, *figures.values(), *stages.values())


def _run_labels(run: FlowRun) -> tuple[str, ...]:
    id_, slide, model, precision = _slide_labels(run)
    return id_, slide, run.deployment, model, precision


def _slide_labels(run: FlowRun) -> tuple[str, str, str, str]:
    """Model and precision are empty until a run has its plan; the slide, where it is about none."""
    slide = PurePosixPath(run.slide.rstrip("/")).name
    return run.id, slide, _label(run, "model"), _label(run, "precision")


def _label(run: FlowRun, name: str) -> str:
    return str(run.labels.get(PREFIX + name, ""))


def _gauge(name: str, help_: str, labels: Sequence[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_, labels=labels)


def watch(runs: Runs, figures: RunFigures, every_s: float) -> None:
    """Read for ever. What was read last is shown until Prefect answers again."""
    while True:
        began = time.monotonic()
        try:
            figures.seen = runs.read(datetime.now(UTC))
            read_at.set_to_current_time()
        except (PrefectRefused, PrefectUnreachable) as error:
            logger.warning("%s", error)
        time.sleep(max(0.0, every_s - (time.monotonic() - began)))


def main() -> int:
    """Run until told to stop."""
    parser = argparse.ArgumentParser(description="Shows the figures of Prefect's runs to Prometheus.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9464)
    parser.add_argument("--every", type=float, default=15.0, help="seconds between two looks (%(default)s)")
    parser.add_argument("--runs", type=int, default=1000, help="the most ended runs shown (%(default)s)")
    parser.add_argument("--days", type=float, default=7.0, help="how long they are shown (%(default)s)")
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    api = PrefectApi()
    links = Links(
        api.page, os.environ.get("MICROTOME_OUTPUT", ""), os.environ.get("MICROTOME_RESULTS_URL", "")
    )
    figures = RunFigures(links)
    # The first process of a container is not ended by a signal that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    prometheus_client.REGISTRY.register(figures)
    prometheus_client.start_http_server(options.port, options.host)
    watch(Runs(api, options.runs, timedelta(days=options.days)), figures, options.every)
    return 0


if __name__ == "__main__":
    sys.exit(main())
