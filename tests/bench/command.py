"""The real command line in a process of its own, with the memory of each process watched."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import psutil

from microtome.plan import Plan
from microtome.records import ShardReport, busy_s
from microtome.store import PLAN, ResultStore

COMMAND = Path(sys.executable).with_name("microtome")
WATCH_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentRun:
    """One `microtome segment`, from the call of the process to its end."""

    began_s: float
    wall_s: float
    client_peak_bytes: int
    """Of the command itself: client and scheduler of the local cluster."""
    worker_peak_bytes: int
    """Of the largest of the other processes."""
    summary: dict[str, Any]
    plan: Plan
    reports: dict[str, list[ShardReport]]
    """Of every shard, by stage."""

    @property
    def nuclei(self) -> int:
        return int(self.summary["nuclei"])

    @property
    def tissue_mp(self) -> float:
        return self.plan.tissue.area_px / 1e6

    @property
    def shard_reports(self) -> list[ShardReport]:
        return [report for reports in self.reports.values() for report in reports]

    @property
    def bytes_written(self) -> int:
        return sum(report.bytes_written for report in self.shard_reports)

    @property
    def network_px_per_tissue_px(self) -> float:
        computed = sum(report.pixels for report in self.reports["infer"])
        return computed / (self.tissue_mp * 1e6 * self.plan.scale.factor**2)

    @property
    def stages_s(self) -> float:
        """In which at least one worker was at work on a shard."""
        return busy_s(self.shard_reports)

    @property
    def cpu_s(self) -> float:
        """Of all shards: what a run costs whatever else the machine does."""
        return sum(report.cpu_s for report in self.shard_reports)

    @property
    def suppression_s(self) -> float:
        """All workers together, at seams too."""
        return sum(report.parts_s.get("suppress", 0.0) for report in self.shard_reports)

    @property
    def first_tile_s(self) -> float:
        """From the call of the process to the end of the first tile, at most.

        What a shard's time holds beside network, decoding, suppression and writing (the model's
        loading, the first read) is counted in full before its first tile.
        """
        ends = []
        for report in self.reports["infer"]:
            after = ("network", "decode", "suppress", "write")
            before_s = report.seconds - sum(report.parts_s.get(part, 0.0) for part in after)
            ends.append(report.began_s + before_s + report.tile_s[0])
        return min(ends) - self.began_s

    @property
    def network_share(self) -> float:
        """Share of the wall time in which the network runs on at least one core.

        A shard's record says for how long, not when: the network is taken to run at any time of it.
        """
        spans = [
            (report.began_s, report.began_s + report.seconds, 1 - report.parts_s["network"] / report.seconds)
            for report in self.reports["infer"]
        ]
        edges = sorted({edge for began_s, ended_s, _ in spans for edge in (began_s, ended_s)})
        runs_s = 0.0
        for first_s, last_s in pairwise(edges):
            idle = prod(
                share for began_s, ended_s, share in spans if began_s <= first_s and last_s <= ended_s
            )
            runs_s += (last_s - first_s) * (1 - idle)
        return runs_s / self.wall_s


def segment(
    slide: Path | str,
    folder: Path | str,
    *options: str,
    environment: Mapping[str, str] | None = None,
    look_in: Path | None = None,
) -> SegmentRun:
    """Run it on a slide and read what it left. Its former result there is removed first, not on the clock.

    `look_in` is where the result's folder is on this machine, if `folder` is not.

    Raises
    ------
    RuntimeError
        If the command fails, with what it said.
    """
    command = [str(COMMAND), "segment", str(slide), "-o", str(folder), "--json", *options]
    result = Path(look_in or folder) / f"{Path(str(slide)).stem}.ome.zarr"
    if result.exists():
        shutil.rmtree(result)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began_s, began = time.time(), time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, **(environment or {})})
        with ThreadPoolExecutor(1, thread_name_prefix="watch") as watcher:
            ended = threading.Event()
            watched = watcher.submit(_watch, process.pid, ended)
            try:
                # Without a limit, for with one Python only looks every 0.05 s.
                process.wait()
                wall_s = time.perf_counter() - began
            except BaseException:
                process.terminate()
                process.wait()
                raise
            finally:
                ended.set()
            client_bytes, worker_bytes = watched.result()
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{err.read().decode()}")
        summary = json.loads(out.read())
    store = ResultStore(str(result))
    reports: dict[str, list[ShardReport]] = {}
    for sweep in store.stages():
        reports.setdefault(sweep.split(".")[0], []).extend(store.recorded(sweep).values())
    return SegmentRun(
        began_s=began_s,
        wall_s=wall_s,
        client_peak_bytes=client_bytes,
        worker_peak_bytes=worker_bytes,
        summary=summary,
        plan=Plan.from_json(store.get(PLAN)),
        reports=reports,
    )


def same_nuclei(runs: Sequence[SegmentRun]) -> int:
    """The number that all runs found; a benchmark of wrong results is none."""
    counts = {run.nuclei for run in runs}
    if len(counts) != 1:
        raise RuntimeError(f"runs of one precision found {sorted(counts)} nuclei")
    return counts.pop()


def _watch(pid: int, ended: threading.Event) -> tuple[int, int]:
    """Peak resident bytes of a process, and of the largest of its children, until it has ended."""
    peaks: dict[int, int] = {}
    while not ended.wait(WATCH_S):
        with suppress(psutil.NoSuchProcess):
            for child in [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]:
                peaks[child] = max(peaks.get(child, 0), _peak_bytes(child))
    client = peaks.pop(pid, 0)
    return client, max(peaks.values(), default=0)


def _peak_bytes(pid: int) -> int:
    """The kernel's own high-water mark, so that looking now and then is enough; 0 once it ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in text.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0
