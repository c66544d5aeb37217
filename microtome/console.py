"""What a person sees while a run goes on: a bar a stage on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from microtome.stages.sweep import Progress

PLAIN_EVERY_S = 10
"""Where there is no terminal, a line a stage at its end, and one at most this often before."""


class _Rate(ProgressColumn):
    """Nuclei where the stage settles them, MP/s elsewhere."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields["rate"]), justify="right")


class ProgressView:
    """Shows `Progress` records as they come; use it as `on_shard`, in a `with` block."""

    def __init__(self, stream: TextIO | None = None) -> None:
        stream = stream or sys.stderr
        self._stream = stream
        self._bars = (
            Bars(
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
        self._ids: dict[str, int] = {}

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
        began_s, began_px = self._began.setdefault(progress.stage, (now, progress.pixels))
        rate = _rate(progress, now - began_s, progress.pixels - began_px)
        if self._bars is not None:
            self._bar(progress, rate)
            return
        is_last = progress.done == progress.of
        if is_last or (progress.report and now - self._said.get(progress.stage, began_s) >= PLAIN_EVERY_S):
            self._said[progress.stage] = now
            self.line(
                f"{progress.stage}: {progress.done:,}/{progress.of:,} shards, {rate}, {now - began_s:.0f} s"
            )

    def _bar(self, progress: Progress, rate: str) -> None:
        assert self._bars is not None
        if progress.stage not in self._ids:
            self._ids[progress.stage] = self._bars.add_task(progress.stage, total=progress.of, rate=rate)
        self._bars.update(self._bars.task_ids[self._ids[progress.stage]], completed=progress.done, rate=rate)


def _rate(progress: Progress, seconds: float, pixels: int) -> str:
    if progress.nuclei:
        return f"{progress.nuclei:,} nuclei"
    if pixels and seconds > 0:
        return f"{pixels / 1e6 / seconds:,.1f} MP/s"
    return ""
