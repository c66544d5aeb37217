"""From "somebody says there is a new slide" to an event that Prefect has taken.

Every source of news (webhook, queue, folder) ends here, so all make the same event of a slide.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import anyio.to_thread
import httpx
from prometheus_client import Counter, Histogram

from deployments.notifications import Notification, Upload
from deployments.settings import Settings
from microtome.inbox import Inbox, SlideVersion, look

ARRIVED = "microtome.slide.arrived"
LOOKS_AT_ONCE = 8
logger = logging.getLogger("microtome.intake")

events_total = Counter("microtome_intake_events", "Events that Prefect took.")
refused_total = Counter("microtome_intake_refused", "Notifications refused.", ["why"])
postponed_total = Counter("microtome_intake_postponed", "Notifications that have to be sent again.")
passed_over_total = Counter("microtome_intake_passed_over", "Uploads that make no run.", ["why"])
prefect_seconds = Histogram("microtome_intake_prefect_seconds", "Prefect's answer to an event, seconds.")
store_seconds = Histogram("microtome_intake_store_seconds", "A look at the store, seconds.")

# Prometheus takes no increase from a series' first value: each is there, as 0, before it counts.
for why in ("token", "too large", "malformed", "foreign bucket", "cut short", "queue", "record"):
    refused_total.labels(why)
for why in ("suffix or prefix", "nothing there"):
    passed_over_total.labels(why)


class NotTaken(Exception):
    """Prefect or the store did not do its part: the sender has to try again."""


class ForeignBucket(Exception):
    """A bucket that is no source."""


class Arrivals:
    """Looks at what was announced, and tells Prefect of the slides among it."""

    def __init__(self, settings: Settings, client: httpx.AsyncClient) -> None:
        self._settings, self._client = settings, client
        self._looks = anyio.CapacityLimiter(LOOKS_AT_ONCE)

    async def take(self, notification: Notification) -> None:
        """Make events of the uploads that are slides.

        What is wrong with one record keeps back no other: it is counted and logged, and the rest
        taken. To refuse the whole would make its sender repeat it for ever, or drop it.

        Raises
        ------
        ForeignBucket
            If all are of buckets that are no sources.
        NotTaken
            If any may have been lost. The others were taken.
        """
        buckets = self._settings.inbox.buckets
        ours = [upload for upload in notification.uploads if upload.bucket in buckets]
        if notification.uploads and not ours:
            raise ForeignBucket
        bad = [*notification.bad_records]
        bad += [f"{upload.bucket} is no source" for upload in notification.uploads if upload not in ours]
        for problem in bad:
            refused_total.labels("record").inc()
            logger.warning("a record is refused, the others of its notification are not: %s", problem)
        slides, lost = dict[SlideVersion, None](), list[NotTaken]()
        for upload in ours:
            try:
                if (slide := await self._find(upload)) is not None:
                    slides[slide] = None
            except NotTaken as error:
                lost.append(error)
        await self.announce(list(slides))
        if lost:
            raise lost[0]

    async def announce(self, slides: Sequence[SlideVersion]) -> None:
        """Tell Prefect.

        Raises
        ------
        NotTaken
            If it did not say that it has them.
        """
        if not slides:
            return
        events = [event_of(slide, self._settings.inbox) for slide in slides]
        try:
            with prefect_seconds.time():
                answer = await self._client.post(f"{self._settings.prefect_url}/events", json=events)
        except httpx.HTTPError as error:
            raise NotTaken(f"Prefect cannot be reached: {type(error).__name__}") from error
        if answer.status_code != httpx.codes.NO_CONTENT:
            raise NotTaken(f"Prefect answered {answer.status_code} to an event")
        events_total.inc(len(events))
        for slide in slides:
            logger.info("%s: event %s", slide.uri, slide.id)

    async def _find(self, upload: Upload) -> SlideVersion | None:
        """The slide that an upload names, as it is now; None if there is none to segment."""
        inbox = self._settings.inbox
        uris = [uri for key in upload.keys if inbox.takes(uri := f"s3://{upload.bucket}/{key}")]
        if not uris:
            passed_over_total.labels("suffix or prefix").inc()
            return None
        for uri in uris:
            try:
                with store_seconds.time():
                    slide = await anyio.to_thread.run_sync(look, uri, limiter=self._looks)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise NotTaken(f"the store cannot be asked: {type(error).__name__}: {error}") from error
            if slide.size_bytes:
                return slide
        passed_over_total.labels("nothing there").inc()
        return None


def event_of(slide: SlideVersion, inbox: Inbox) -> dict[str, Any]:
    """The event of one version of a slide: whoever makes it, its id is the same."""
    return {
        "id": str(slide.id),
        "occurred": datetime.now(UTC).isoformat(),
        "event": ARRIVED,
        "resource": {"prefect.resource.id": f"microtome.slide.{slide.id}", "microtome.slide.uri": slide.uri},
        "payload": {
            "slide": slide.uri,
            "output": inbox.output_of(slide),
            "version": str(slide.id),
            "size_bytes": slide.size_bytes,
        },
    }


def prefect_client(settings: Settings) -> httpx.AsyncClient:
    """A client of Prefect's API that keeps its connections."""
    user, _, password = (settings.prefect_auth or "").partition(":")
    return httpx.AsyncClient(
        timeout=10.0,
        auth=httpx.BasicAuth(user, password) if settings.prefect_auth else None,
        headers={"Authorization": f"Bearer {settings.prefect_key}"} if settings.prefect_key else None,
    )
