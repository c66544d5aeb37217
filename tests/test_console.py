"""What a person sees of the stages while they run."""

import io

from microtome.console import ProgressView
from microtome.records import ShardReport
from microtome.stages.sweep import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress(stage, done, of, **more):
    """Of a stage of which `done` shards are done, a minute each."""
    report = ShardReport(stage=stage, shard=0, began_s=0.0, seconds=60.0, cpu_s=60.0) if done else None
    return Progress(stage, done, of, **{"pixels": 0, "nuclei": 0, "resumed": 0, "report": report, **more})


def test_a_stage_that_waited_for_others_took_no_longer_than_its_shards():
    stream = io.StringIO()
    with ProgressView(stream) as view:
        view(progress("export", 0, 1))
        view(progress("export", 1, 1, pixels=0))
    assert stream.getvalue() == "export: 1/1 shards, 60 s\n"


def test_on_a_terminal_stages_stand_in_their_order_whichever_began():
    stream = Terminal()
    with ProgressView(stream) as view:
        for stage in ("export", "stitch.paint", "chunk", "stitch"):
            view(progress(stage, 0, 9))
    last = stream.getvalue().rsplit("\x1b[2K", 1)[-1]
    places = [last.index(f"{stage} ") for stage in ("chunk", "stitch", "stitch.paint", "export")]
    assert places == sorted(places)


def test_a_stage_with_nothing_to_do_is_not_shown():
    stream = io.StringIO()
    with ProgressView(stream) as view:
        view(progress("chunk", 0, 0))
    assert stream.getvalue() == ""
