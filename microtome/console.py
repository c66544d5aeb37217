"""What a person sees while a run goes on: a bar a stage on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from microtome.stages.sweep import Progress

if TYPE_CHECKING:
    from microtome.bars import Bars

PLAIN_EVERY_S = 10
"""Where there is no terminal, a line a stage at its end, and one at most this often before."""


class ProgressView:
    """Shows `Progress` records as they come; use it as `on_shard`, in a `with` block."""

    def __init__(self, stream: TextIO | None = None) -> None:
        stream = stream or sys.stderr
        self._stream = stream
        self._bars = _bars_on(stream) if stream.isatty() else None
        self._began: dict[str, tuple[float, int]] = {}
        self._said: dict[str, float] = {}

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
            self._bars.line(text)
        else:
            print(text, file=self._stream, flush=True)

    def __call__(self, progress: Progress) -> None:
        if not progress.of:
            return  # a stage with nothing to do, as `chunk` with `--pixels none`
        now = time.perf_counter()
        began_s, began_px = now, progress.pixels
        if report := progress.report:  # not before: a stage may wait for others
            first = now - report.seconds, progress.pixels - report.pixels
            began_s, began_px = self._began.setdefault(progress.stage, first)
        rate = _rate(progress, now - began_s, progress.pixels - began_px)
        if self._bars is not None:
            self._bars.show(progress, rate)
            return
        is_last = progress.done == progress.of
        if is_last or (progress.report and now - self._said.get(progress.stage, began_s) >= PLAIN_EVERY_S):
            self._said[progress.stage] = now
            parts = [f"{progress.done:,}/{progress.of:,} shards", rate, f"{now - began_s:.0f} s"]
            self.line(f"{progress.stage}: {', '.join(part for part in parts if part)}")


def _bars_on(stream: TextIO) -> "Bars":
    from microtome.bars import Bars

    return Bars(stream)


def _rate(progress: Progress, seconds: float, pixels: int) -> str:
    if progress.nuclei:
        return f"{progress.nuclei:,} nuclei"
    if pixels and seconds > 0:
        return f"{pixels / 1e6 / seconds:,.1f} MP/s"
    return ""
