"""The parts that are measured by tools of their own, as rows of the table."""

from collections.abc import Iterator

from microtome.records import busy_s
from tests.bench import bench_network, bench_suppress
from tests.bench.command import segment
from tests.bench.figures import Bench, Figure, figure


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
    """Suppression on one thread, by density."""
    for timing in bench_suppress.run():
        per_mp = timing.median_s / bench_suppress.SIDE_PX**2 * 1e9
        yield figure("suppress", f"{timing.workload}: {timing.kept:,} kept", "ms/MP", per_mp)
