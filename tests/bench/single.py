"""The parts that are measured by tools of their own, as rows of the table."""

import json
import shutil
from collections.abc import Iterator

from microtome.model import find_model
from microtome.records import busy_s
from tests.bench import bench_network, bench_suppress
from tests.bench.command import segment
from tests.bench.figures import Bench, Figure, figure

LOW_THRESHOLD = 0.2
"""With it the model finds some 30,000 candidates per MP of the shared slide's tissue, not 3,000."""


def network(bench: Bench) -> Iterator[Figure]:
    """The network at its limit: MP/s of its input, all processes together."""
    limits: dict[str, float] = {}
    for timing in bench_network.timings(quick=bench.quick):
        layout = f"{timing.processes} x {timing.threads}"
        what = f"{timing.precision}, {timing.side_px} px, {layout} (processes x threads)"
        rates = (timing.lowest_mp_per_s, timing.mp_per_s, timing.highest_mp_per_s)
        yield figure("network", what, "MP/s", rates)
        limits[timing.precision] = max(limits.get(timing.precision, 0.0), timing.mp_per_s)
    run = segment(bench.slide, bench.work / "whole")
    computed = sum(report.pixels for report in run.reports["infer"]) / 1e6
    for name, seconds in (("the whole run", run.wall_s), ("its stage infer", busy_s(run.reports["infer"]))):
        share = 100 * computed / seconds / limits[run.plan.model.precision]
        yield figure("network", f"{run.plan.model.precision}: {name} reaches of the limit", "%", share)


def suppress(bench: Bench) -> Iterator[Figure]:
    """Suppression on one thread, by density; and its share of a run whose network finds ten times as many."""
    for timing in bench_suppress.run():
        per_mp = timing.median_s / bench_suppress.SIDE_PX**2 * 1e9
        yield figure("suppress", f"{timing.workload}: {timing.kept:,} kept", "ms/MP", per_mp)
    model = bench.work / "low-threshold"
    shutil.copytree(find_model(None), model)
    card = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(card | {"prob_threshold": LOW_THRESHOLD}))
    runs = [segment(bench.slide, bench.work / "dense", "--model", str(model)) for _ in range(bench.rounds)]
    per_mp = sum(report.candidates for report in runs[0].reports["infer"]) / runs[0].tissue_mp
    shares = [100 * run.suppression_s / run.cpu_s for run in runs]
    yield figure("suppress", f"a run with {per_mp:,.0f} candidates per MP", "% of CPU time", shares, "<= 25")
