"""The intake: notifications of uploads in, Prefect events out. A small ASGI service.

`python -m deployments.intake --port 9000`, or any ASGI server with `deployments.intake:from_environment`.
It keeps nothing: what Prefect did not take is answered with 503, and the sender tries again.
"""

import argparse
import base64
import binascii
import hmac
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
import httpx
import prometheus_client
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from deployments.arrivals import (
    Arrivals,
    ForeignBucket,
    NotTaken,
    postponed_total,
    prefect_client,
    refused_total,
)
from deployments.folders import watch_folders
from deployments.notifications import Malformed, read_notification
from deployments.queue import read_queue
from deployments.settings import Settings
from microtome.errors import MicrotomeError

TAKEN, BAD, NO_TOKEN, FOREIGN, TOO_LARGE, LATER = 204, 400, 401, 403, 413, 503
logger = logging.getLogger("microtome.intake")


class TooLarge(ValueError):
    """A body beyond the limit."""


def intake(settings: Settings) -> Starlette:
    """The service."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with prefect_client(settings) as client, anyio.create_task_group() as tasks:
            app.state.settings, app.state.client = settings, client
            app.state.arrivals = Arrivals(settings, client)
            if settings.inbox.folders:
                tasks.start_soon(watch_folders, settings, app.state.arrivals)
            if settings.sqs_url:
                tasks.start_soon(read_queue, settings.sqs_url, app.state.arrivals)
            yield
            tasks.cancel_scope.cancel()

    routes = [
        Route("/events", take_events, methods=["POST"]),
        Route("/healthz", healthy),
        Route("/readyz", ready),
        Route("/metrics", metrics),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def from_environment() -> Starlette:
    """The service as the environment says (`uvicorn --factory`)."""
    return intake(Settings.of(os.environ))


async def take_events(request: Request) -> Response:
    """A notification: 204 and an empty body when Prefect has its slides, 503 when it has not."""
    settings: Settings = request.app.state.settings
    arrivals: Arrivals = request.app.state.arrivals
    if not knows(settings.token, request.headers, request.query_params.get("token")):
        return _refuse(NO_TOKEN, "token")
    try:
        await arrivals.take(read_notification(await _body(request, settings.most_bytes)))
    except TooLarge:
        return _refuse(TOO_LARGE, "too large")
    except Malformed as error:
        logger.warning("refused: %s", error)
        return _refuse(BAD, "malformed")
    except ForeignBucket:
        return _refuse(FOREIGN, "foreign bucket")
    except ClientDisconnect:
        return _refuse(BAD, "cut short")
    except NotTaken as error:
        logger.error("not taken: %s", error)
        postponed_total.inc()
        return Response(status_code=LATER, headers={"Retry-After": "5"})
    # A body would leak a socket in versitygw.
    return Response(status_code=TAKEN)


async def healthy(request: Request) -> Response:
    """This process answers."""
    return Response(status_code=TAKEN)


async def ready(request: Request) -> Response:
    """Prefect would take an event."""
    settings: Settings = request.app.state.settings
    client: httpx.AsyncClient = request.app.state.client
    try:
        answer = await client.get(f"{settings.prefect_url}/health")
    except httpx.HTTPError:
        return PlainTextResponse("Prefect cannot be reached\n", LATER)
    return Response(status_code=TAKEN if answer.is_success else LATER)


async def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(
        prometheus_client.generate_latest(), headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST}
    )


def knows(token: str, headers: Mapping[str, str], in_query: str | None) -> bool:
    """Whether a request carries the token: as Bearer, as Basic's password, or as `?token=`."""
    given = in_query or ""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        given = credentials.strip()
    elif scheme.lower() == "basic":
        try:
            given = base64.b64decode(credentials, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    return hmac.compare_digest(given.encode(), token.encode())


async def _body(request: Request, most_bytes: int) -> bytes:
    """The body, read no further than the limit."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > most_bytes:
        raise TooLarge
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most_bytes:
            raise TooLarge
    return bytes(body)


def _refuse(status: int, why: str) -> Response:
    refused_total.labels(why).inc()
    # The rest of a body that nobody will read is not waited for.
    return Response(status_code=status, headers={"Connection": "close"} if status == TOO_LARGE else None)


def main() -> int:
    """Run until told to stop."""
    parser = argparse.ArgumentParser(description="Takes notifications of uploads and tells Prefect.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        app = from_environment()
    except (MicrotomeError, ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    # The access log would hold tokens that were sent as ?token=...
    uvicorn.run(app, host=options.host, port=options.port, access_log=False, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
