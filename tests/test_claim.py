"""Claims of results: one run at a time, whatever happens to the one before."""

import subprocess
import sys
import threading
import time

import pytest

from microtome import claim
from microtome.claim import claimed
from microtome.errors import CannotWrite, ClaimLost
from microtome.s3 import bucket_of

HOLD = """
import sys, time
from microtome.claim import claimed
with claimed(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def quick(monkeypatch):
    for name, seconds in (("WAIT_S", 0.05), ("RENEW_S", 0.2), ("SILENT_S", 1.5)):
        monkeypatch.setattr(claim, name, seconds)


@pytest.fixture(params=["disk", "bucket"])
def result(request, tmp_path, quick):
    """Address of a result, on disk and on S3."""
    if request.param == "disk":
        return str(tmp_path / "out" / "a.ome.zarr")
    request.getfixturevalue("s3").make_bucket("results")
    return "s3://results/out/a.ome.zarr"


def test_runs_of_one_result_follow_each_other(result):
    inside, most = [], []

    def run():
        with claimed(result):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.1)
            inside.pop()

    threads = [threading.Thread(target=run) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 5


def test_the_claim_of_a_killed_run_is_taken_over(result):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, result], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.communicate()
    with claimed(result) as ours:
        ours.check(result)


def test_a_claim_lasts_as_long_as_it_is_renewed(s3, quick):
    s3.make_bucket("results")
    uri, order = "s3://results/a.ome.zarr", []

    def second():
        with claimed(uri):
            order.append("second")

    waiting = threading.Thread(target=second)
    with claimed(uri) as first:
        waiting.start()
        time.sleep(3)
        first.check(uri)
        order.append("first")
    waiting.join(30)
    assert order == ["first", "second"]


def test_who_lost_the_claim_stops(s3, quick):
    s3.make_bucket("results")
    uri = "s3://results/a.ome.zarr"
    with claimed(uri) as ours:
        other = claim._Lease(uri + claim.CLAIM)
        assert other.replace(other._etag_there())
        time.sleep(0.6)
        with pytest.raises(ClaimLost):
            ours.check(uri)


def test_who_may_not_renew_the_claim_any_more_loses_it(s3, quick, monkeypatch):
    s3.make_bucket("results")
    uri = "s3://results/a.ome.zarr"
    lease, ours = claim._Lease(uri + claim.CLAIM), claim.Claim()
    assert lease.replace(None)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    lease._bucket, _ = bucket_of(uri, is_patient=False)
    renewing = threading.Thread(target=claim._renew, args=(lease, ours, threading.Event()))
    renewing.start()
    time.sleep(0.6)
    ours.check(uri)  # nobody may take it yet
    renewing.join(30)
    with pytest.raises(ClaimLost):
        ours.check(uri)


def test_an_answer_that_was_lost_does_not_cost_the_claim(s3, quick, monkeypatch):
    s3.make_bucket("results")
    lease = claim._Lease("s3://results/a.ome.zarr" + claim.CLAIM)
    real = lease._bucket.put_if

    def unanswered(*words):
        real(*words)

    with monkeypatch.context() as patch:
        patch.setattr(lease._bucket, "put_if", unanswered)
        assert lease.replace(None)
    assert lease.replace(lease.etag), "it has the ETag of what it wrote"
    other = claim._Lease("s3://results/a.ome.zarr" + claim.CLAIM)
    assert not other.replace(None)
    assert other.replace(other._etag_there())
    assert not lease.replace(lease.etag), "another's is not ours"


def test_a_store_that_is_away_for_a_while_ends_neither_who_waits_nor_who_is_done(tmp_path, s3, quick):
    s3.make_bucket("results")
    uri, inside, waits = "s3://results/a.ome.zarr", threading.Event(), threading.Event()

    def second():
        with claimed(uri, waits.set):
            inside.set()

    waiting = threading.Thread(target=second)
    with claimed(uri):
        waiting.start()
        assert waits.wait(30)
        s3.stop()
        time.sleep(1)
    assert not inside.is_set()
    s3.__enter__()
    waiting.join(60)
    assert inside.is_set(), "the claim of the first, which could not be given up, ran out"


def test_a_claim_leaves_nothing_behind(tmp_path):
    with claimed(str(tmp_path / "new" / "folders" / "a.ome.zarr")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_no_folder_can_be_made_is_said():
    with pytest.raises(CannotWrite, match="/proc/nowhere"), claimed("/proc/nowhere/a.ome.zarr"):
        pass


def test_a_bucket_that_is_not_there_is_said(s3):
    with pytest.raises(CannotWrite, match="nowhere"), claimed("s3://nowhere/a.ome.zarr"):
        pass
