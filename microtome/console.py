"""What a person sees while a run goes on: a bar a stage on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from microtome.stages import NAMES
from microtome.stages.sweep import Progress

PLAIN_EVERY_S = 10
"""Where there is no terminal, a line a stage at its end, and one at most this often before."""


class _Rate(ProgressColumn):
    """Nuclei where the stage settles them, MP/s elsewhere."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields["rate"]), justify="right")


class _Bars(Bars):
    """In the order of the stages, in whichever they began."""

    def get_renderables(self) -> Iterable[RenderableType]:
        def place(task: Task) -> tuple[int, str]:
            return NAMES.index(task.description.split(".")[0]), task.description

        yield self.make_tasks_table(sorted(self.tasks, key=place))


class ProgressView:
    """Shows `Progress` records as they come; use it as `on_shard`, in a `with` block."""

    def __init__(self, stream: TextIO | None = None) -> None:
        stream = stream or sys.stderr
        self._stream = stream
        self._bars = (
            _Bars(
                TextColumn("{task.description:<14}"),
                BarColumn(bar_width=20),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                _Rate(),
                TimeRemainingColumn(elapsed_when_finished=True, compact=True),
                console=Console(file=stream),
            )
            if stream.isatty()
            else None
        )
        self._began: dict[str, tuple[float, int]] = {}
        self._said: dict[str, float] = {}
        self._ids: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def line(self, text: str) -> None:
        """A line above the bars."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def __call__(self, progress: Progress) -> None:
        now = time.perf_counter()
        began_s, began_px = now, progress.pixels
        if report := progress.report:  # not before: a stage may wait for others
            first = now - report.seconds, progress.pixels - report.pixels
            began_s, began_px = self._began.setdefault(progress.stage, first)
        rate = _rate(progress, now - began_s, progress.pixels - began_px)
        if self._bars is not None:
            self._bar(progress, rate)
            return
        is_last = progress.done == progress.of
        if is_last or (progress.report and now - self._said.get(progress.stage, began_s) >= PLAIN_EVERY_S):
            self._said[progress.stage] = now
            parts = [f"{progress.done:,}/{progress.of:,} shards", rate, f"{now - began_s:.0f} s"]
            self.line(f"{progress.stage}: {', '.join(part for part in parts if part)}")

    def _bar(self, progress: Progress, rate: str) -> None:
        assert self._bars is not None
        if progress.stage not in self._ids:
            # Its bar moves to and fro, and its time does not count, until the first shard is done.
            self._ids[progress.stage] = self._bars.add_task(
                progress.stage, start=False, total=progress.of, rate=rate
            )
        task = self._ids[progress.stage]
        if progress.report:
            self._bars.start_task(task)
        self._bars.update(task, completed=progress.done, rate=rate)


def _rate(progress: Progress, seconds: float, pixels: int) -> str:
    if progress.nuclei:
        return f"{progress.nuclei:,} nuclei"
    if pixels and seconds > 0:
        return f"{pixels / 1e6 / seconds:,.1f} MP/s"
    return ""
