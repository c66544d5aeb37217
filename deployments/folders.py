"""Folders that a scanner writes to: a slide counts when it is whole.

Scanners write for minutes, copies break off. Whole is a slide whose files' sizes and times have
rested, whose parts are all there, and whose header opens.
"""

import configparser
import logging
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import anyio
import anyio.to_thread

from deployments.arrivals import Arrivals, NotTaken, postponed_total
from deployments.settings import Settings
from microtome.errors import ResultUnreachable
from microtome.inbox import Inbox, SlideVersion, slides_in
from microtome.store import is_published

OPENS = "import sys; from microtome.slides import open_slide; open_slide(sys.argv[1]).close()"
OPENS_WITHIN_S = 120.0
logger = logging.getLogger("microtome.intake")


@dataclass(slots=True)
class Watch:
    """What was seen of the slides in a folder, look by look."""

    rest_s: float
    _since: dict[UUID, float] = field(default_factory=dict)
    """When each version was first seen; another size or time makes another version."""
    _settled: set[UUID] = field(default_factory=set)

    def rested(self, seen: list[SlideVersion], now_s: float) -> list[SlideVersion]:
        """Those that have not changed for `rest_s` and were not settled before."""
        ids = {slide.id for slide in seen}
        self._since = {slide.id: self._since.get(slide.id, now_s) for slide in seen}
        self._settled &= ids
        return [
            slide
            for slide in seen
            if slide.id not in self._settled and now_s - self._since[slide.id] >= self.rest_s
        ]

    def settle(self, slide: SlideVersion) -> None:
        """This version needs no further look."""
        self._settled.add(slide.id)


async def watch_folders(settings: Settings, arrivals: Arrivals) -> None:
    """Look at every folder of the inbox again and again, and announce what is new and whole."""
    watch = Watch(settings.rest_s)
    while True:
        seen = await anyio.to_thread.run_sync(_seen, settings.inbox)
        for slide in watch.rested(seen, anyio.current_time()):
            try:
                await _settle(slide, settings.inbox, arrivals, watch)
            except (NotTaken, ResultUnreachable) as error:
                logger.error("%s will be tried again: %s", slide.uri, error)
                postponed_total.inc()
        await anyio.sleep(settings.poll_s)


async def _settle(slide: SlideVersion, inbox: Inbox, arrivals: Arrivals, watch: Watch) -> None:
    """Announce a slide that has rested, if it is whole and not done already."""
    if await anyio.to_thread.run_sync(is_published, slide.uri, inbox.output_of(slide)):
        watch.settle(slide)
        return
    reason = missing_part(Path(slide.uri)) or await does_not_open(slide.uri)
    if reason:
        # Another look when it changes.
        logger.warning("%s is left alone: %s", slide.uri, reason)
        watch.settle(slide)
        return
    await arrivals.announce([slide])
    watch.settle(slide)


def _seen(inbox: Inbox) -> list[SlideVersion]:
    return [slide for folder in inbox.folders for slide in slides_in(inbox, str(folder))]


def missing_part(slide: Path) -> str | None:
    """Which file of a MRXS slide is not there yet; None when all are, or there is one file only."""
    if slide.suffix.lower() != ".mrxs":
        return None
    folder = slide.with_suffix("")
    index = folder / "Slidedat.ini"
    if not index.is_file():
        return f"no {index.name} yet"
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(index.read_text(encoding="utf-8-sig", errors="replace"))
    except configparser.Error as error:
        return f"{index.name} cannot be read: {error}"
    section = dict(parser.items("DATAFILE")) if parser.has_section("DATAFILE") else {}
    names = [name for key, name in section.items() if key.startswith("file_") and key != "file_count"]
    return next((f"no {name} yet" for name in names if not (folder / name).is_file()), None)


async def does_not_open(uri: str) -> str | None:
    """Why a slide's header does not open; None when it does.

    In a process of its own: on a broken file, a C library may end the process that it is in.
    """
    command = [sys.executable, "-c", OPENS, uri]
    with anyio.move_on_after(OPENS_WITHIN_S):
        ended = await anyio.run_process(command, check=False, cwd=os.getcwd())
        if ended.returncode == 0:
            return None
        lines = ended.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"its reader ended with {ended.returncode}"
    return f"it took longer than {OPENS_WITHIN_S:.0f} s to open"
