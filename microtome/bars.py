"""Bars of the stages on a terminal. Imported only where there is one: it takes a tenth of a run's imports."""

from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from microtome.stages import NAMES
from microtome.stages.sweep import Progress


class _Rate(ProgressColumn):
    """Nuclei where the stage settles them, MP/s elsewhere."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields["rate"]), justify="right")


class Bars(RichProgress):
    """One a stage, in the order of the stages, in whichever they began."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            _Rate(),
            TimeRemainingColumn(elapsed_when_finished=True, compact=True),
            console=Console(file=stream),
        )
        self._ids: dict[str, TaskID] = {}

    def get_renderables(self) -> Iterable[RenderableType]:
        def place(task: Task) -> tuple[int, str]:
            return NAMES.index(task.description.split(".")[0]), task.description

        yield self.make_tasks_table(sorted(self.tasks, key=place))

    def line(self, text: str) -> None:
        """A line above the bars."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, progress: Progress, rate: str) -> None:
        """Move the bar of a stage; `rate` is in words."""
        if progress.stage not in self._ids:
            # Its bar moves to and fro, and its time does not count, until the first shard is done.
            self._ids[progress.stage] = self.add_task(
                progress.stage, start=False, total=progress.of, rate=rate
            )
        task = self._ids[progress.stage]
        if progress.report:
            self.start_task(task)
        self.update(task, completed=progress.done, rate=rate)
