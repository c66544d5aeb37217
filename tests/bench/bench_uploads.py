"""From an upload to its result, on a whole installation; and the intake under load.

A notification makes a run (process pool, worker warm), the run a published result. The intake's own
latency is its answer less Prefect's and the store's, which it measures itself.
"""

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from datetime import datetime

import httpx
import psutil

from deployments import lab as installation
from microtome.submit import FINAL
from tests.bench.figures import Bench, Figure, figure
from tests.deployments.labs import TOKEN, Api, lab_in, notice_of, quoted, send
from tests.deployments.test_notifications import record
from tests.waiting import until

SECONDS, QUICK_SECONDS = 20, 8
GOOD_PER_S, JUNK_PER_S = 50, 200
CMU = "slides/CMU-1-Small-Region.svs"


def figures(bench: Bench) -> Iterator[Figure]:
    """Runs of one small slide after the other, then requests at a steady pace."""
    with lab_in(bench.work, bench.data) as (lab, s3):
        api = Api(lab)
        folder = s3.folder / "slides" / "in"
        folder.mkdir()
        timed = []
        for number in range(bench.rounds):
            shutil.copyfile(bench.data / CMU, folder / f"{number}.svs")
            timed.append(_upload(lab, api, f"in/{number}.svs"))
        what = "notification to"
        yield figure("uploads", f"{what} run made", "s", [run["made_s"] for run in timed])
        yield figure("uploads", f"{what} run started", "s", [run["started_s"] for run in timed], "<= 10")
        yield figure("uploads", f"{what} published, CMU", "s", [run["ended_s"] for run in timed], "<= 40")
        seconds = QUICK_SECONDS if bench.quick else SECONDS
        intake = psutil.Process(installation.running(lab, "intake"))
        folder.joinpath("empty.svs").touch()
        good = notice_of(record("ObjectCreated:Put", "slides", "in/empty.svs"))
        latencies, _ = asyncio.run(_flood(lab, [good], GOOD_PER_S, seconds, 204))
        yield figure(
            "uploads", f"intake at {GOOD_PER_S}/s, p50, store's answer in it", "ms", _at(latencies, 0.5)
        )
        yield figure(
            "uploads",
            f"intake at {GOOD_PER_S}/s, p99, store's answer in it",
            "ms",
            _at(latencies, 0.99),
            "<= 100",
        )
        junk = [b"{", b"x" * (1 << 20) + b"x", _foreign("slides", "../a.svs"), _foreign("other", "in/a.svs")]
        _, between = asyncio.run(_flood(lab, junk, JUNK_PER_S, seconds, None, good))
        yield figure("uploads", f"good one under {JUNK_PER_S}/s of junk, slowest", "s", max(between), "< 1")
        yield figure("uploads", "intake's memory after it", "MB", intake.memory_info().rss / 1e6, "< 150")


def _upload(lab, api: Api, key: str) -> dict[str, float]:
    """Seconds from the notification to each state."""
    sent_s = time.time()
    assert send(lab, notice_of(record("ObjectCreated:Put", "slides", quoted(key))))

    def ended():
        found = [run for run in api.runs("on-upload") if run["parameters"]["slide"].endswith(key)]
        return found[0] if found and found[0]["state"]["type"] in FINAL else None

    run = until(ended, 300, f"the end of {key}")
    if run["state"]["type"] != "COMPLETED":
        raise RuntimeError(run["state"]["message"])
    names = {"made_s": "created", "started_s": "start_time", "ended_s": "end_time"}
    return {name: datetime.fromisoformat(run[field]).timestamp() - sent_s for name, field in names.items()}


async def _flood(lab, bodies, per_s, seconds, expected, good=None):
    """Requests at a steady pace: (latencies of all, of a good one a second in between), s."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    wrong = {"Authorization": "Bearer wrong"}
    all_s, good_s = [], []
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    address = f"http://127.0.0.1:{lab.intake_port}"
    async with httpx.AsyncClient(base_url=address, timeout=30, limits=limits) as client:

        async def one(body, into, wanted, sent=headers):
            began = time.perf_counter()
            try:
                answer = await client.post("/events", content=body, headers=sent)
            except httpx.TransportError:
                return  # refused before it had sent all of a huge body
            into.append(time.perf_counter() - began)
            if wanted is not None and answer.status_code != wanted:
                raise RuntimeError(f"the intake answered {answer.status_code}")
            if wanted is None and answer.status_code < 400:
                raise RuntimeError("the intake took junk")

        async with asyncio.TaskGroup() as tasks:
            began = time.perf_counter()
            for number in range(int(per_s * seconds)):
                await asyncio.sleep(max(0.0, began + number / per_s - time.perf_counter()))
                # A fifth of the junk is a good notification with a wrong token.
                is_wrong = expected is None and number % 5 == 0
                body = good if is_wrong else bodies[number % len(bodies)]
                tasks.create_task(one(body, all_s, expected, wrong if is_wrong else headers))
                if good is not None and number % per_s == 0:
                    tasks.create_task(one(good, good_s, 204))
    return all_s, good_s


def _foreign(bucket: str, key: str) -> bytes:
    return json.dumps({"Records": [record("ObjectCreated:Put", bucket, key)]}).encode()


def _at(latencies: list[float], share: float) -> float:
    """A percentile, ms."""
    return 1000 * sorted(latencies)[min(len(latencies) - 1, int(share * len(latencies)))]
