"""One contract for every store: a local folder and a bucket of a real S3 server."""

import errno
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO

import pytest

from microtome.errors import CannotWrite, NoSpaceLeft
from microtome.keyspace import Bucket
from microtome.records import ShardReport
from microtome.store import ResultStore, digest


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ResultStore:
    if request.param == "folder":
        return ResultStore(str(tmp_path / "S 1+é.ome.zarr"))
    return ResultStore(f"{request.getfixturevalue('s3')}/{tmp_path.name}/S 1+é.ome.zarr")


def report_of(store: ResultStore, shard: int, *keys: str) -> ShardReport:
    """A shard of stage `infer` whose keys were written."""
    records = tuple(store.put(key, key.encode()) for key in keys)
    return ShardReport(stage="infer", shard=shard, began_s=0, seconds=1, cpu_s=1, keys=records)


def test_a_key_reads_back_with_its_size_and_digest(store):
    record = store.put("0/c/0/1/2", b"pixels")
    assert store.get("0/c/0/1/2") == b"pixels"
    assert (record.key, record.bytes, record.digest) == ("0/c/0/1/2", 6, digest(b"pixels"))
    assert store.exists("0/c/0/1/2")
    assert not store.exists("0/c/0/1")
    with pytest.raises(FileNotFoundError):
        store.get("0/c/0/9/9")


def test_several_keys_are_written_with_a_record_each(store):
    data = {f"0/c/0/{number}": b"pixels" * number for number in range(40)}
    records = store.put_each(data)
    assert store.get_each(list(data)) == data
    assert [(r.key, r.bytes, r.digest) for r in records] == [(k, len(d), digest(d)) for k, d in data.items()]
    assert store.put_each({}) == []


def test_of_several_keys_those_that_are_there_are_read(store):
    store.put("a/1", b"one")
    store.put("a/3", b"")
    assert store.get_existing(["a/3", "a/2", "a/1"]) == {"a/3": b"", "a/1": b"one"}
    with pytest.raises(FileNotFoundError):
        store.get_each(["a/1", "a/2"])


def test_a_bucket_is_sent_several_keys_at_once():
    together, sent = threading.Barrier(3), []

    class Waiting(Bucket):
        def put(self, key: str, data: bytes) -> None:
            together.wait(timeout=30)  # until three are under way
            sent.append(key)

    Waiting("s3://results/any").put_each({"a": b"", "b": b"", "c": b""})
    assert sorted(sent) == ["a", "b", "c"]


def test_where_one_of_several_keys_fails_all_have_ended_before_it_is_said():
    sent = []

    class Failing(Bucket):
        def put(self, key: str, data: bytes) -> None:
            if key == "a":
                raise OSError("refused")
            time.sleep(0.2)
            sent.append(key)

    with pytest.raises(OSError, match="refused"):
        Failing("s3://results/any").put_each({"a": b"", "b": b"", "c": b""})
    assert sorted(sent) == ["b", "c"], "they would be written after the shard was given up"


def test_one_of_several_keys_that_cannot_be_written_is_an_error(s3):
    with pytest.raises(CannotWrite, match="no-such-bucket"):
        ResultStore("s3://no-such-bucket/any").put_each({"a": b"1", "b": b"2"})


def test_a_key_is_replaced_whole(store):
    store.put("a", b"long, long ago")
    store.put("a", b"now")
    assert store.get("a") == b"now"


def test_keys_are_listed_by_folder_and_not_by_prefix_of_a_name(store):
    for key in ("1/x", "10/x", "1/y/z"):
        store.put(key, b"12")
    assert store.keys("1") == ("1/x", "1/y/z")
    assert store.sizes("10") == {"10/x": 2}
    assert store.size() == 6
    assert store.keys("nothing") == ()


def test_delete_removes_a_key_or_a_folder_and_nothing_beside_it(store):
    for key in ("1/x", "10/x", "1/y/z", "1.json"):
        store.put(key, b"1")
    store.delete("1/y/z")
    assert store.keys("1") == ("1/x",)
    store.delete("1")
    assert store.keys() == ("1.json", "10/x")
    store.delete("1")
    store.delete("")
    assert store.keys() == ()


def test_the_plan_is_the_last_that_goes(store, monkeypatch):
    for key in ("plan.json", "0/c/0/0/0", "manifest/publish.json", "manifest/chunk.json", "zarr.json"):
        store.put(key, b"1")
    gone, real = [], type(store).delete
    monkeypatch.setattr(type(store), "delete", lambda self, key: (gone.append(key), real(self, key)))
    store.remove()
    assert store.keys() == ()
    assert gone[0] == "manifest/publish.json"
    assert gone[-1] == ""
    assert {"0", "manifest", "zarr.json"} == set(gone[1:-1])


def test_a_key_larger_than_memory_likes_is_streamed_and_digested(store):
    with store.writing("tables/t") as sink:
        for part in range(13):
            sink.write(bytes([part]) * 1_000_000)
    whole = b"".join(bytes([part]) * 1_000_000 for part in range(13))
    assert store.get("tables/t") == whole
    assert (sink.record.bytes, sink.record.digest) == (len(whole), digest(whole))
    with store.reading("tables/t") as file:
        file.seek(12_500_000)
        assert file.read(3) == b"\x0c\x0c\x0c"


@pytest.mark.parametrize("bytes_before", [3, 12_000_000])
def test_a_key_whose_writing_fails_stays_as_it_was(store, bytes_before):
    store.put("tables/t", b"old")

    def write() -> None:
        with store.writing("tables/t") as sink:
            sink.write(b"1" * bytes_before)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        write()
    assert store.get("tables/t") == b"old"
    assert store.keys() == ("tables/t",)


def test_a_store_travels_to_another_process(store):
    store.put("a", b"1")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(pickle.loads(pickle.dumps(store)).get, "a").result() == b"1"


def test_a_shard_counts_only_with_every_key_at_its_size(store):
    for shard in range(4):
        store.put_report(report_of(store, shard, f"0/c/0/0/{shard}", f"labels/nuclei/0/c/0/{shard}"))
    store.put("labels/nuclei/0/c/0/1", b"")
    store.delete("0/c/0/0/2")
    assert list(store.reports("infer")) == [0, 3]
    assert sorted(store.recorded("infer")) == [0, 1, 2, 3]
    assert store.reports("stitch") == {}


def test_a_report_that_a_power_cut_left_empty_is_not_believed(store):
    store.put_report(report_of(store, 0, "a/0"))
    store.put_report(report_of(store, 1, "a/1"))
    store.put("manifest/infer/0.json", b"")
    store.put("manifest/infer/1.json", store.get("manifest/infer/1.json")[:-20])
    assert store.reports("infer") == {}


def test_a_closed_stage_keeps_its_reports_in_one_key(store):
    reports = [report_of(store, shard, f"parts/infer/{shard}") for shard in (1, 0)]
    for report in reports:
        store.put_report(report)
    assert not store.is_closed("infer")
    store.close_stage("infer", reports)
    assert store.is_closed("infer")
    assert store.keys("manifest") == ("manifest/infer.json",)
    assert store.reports("infer") == {0: reports[1], 1: reports[0]}
    assert store.stages() == ("infer",)


def test_a_shard_lost_after_its_stage_was_closed_can_be_done_again(store):
    store.close_stage("infer", [report_of(store, shard, f"parts/infer/{shard}") for shard in (0, 1)])
    store.delete("parts/infer/1")
    assert list(store.reports("infer")) == [0]
    again = report_of(store, 1, "parts/infer/one")
    store.put_report(again)
    assert store.reports("infer")[1] == again


def test_half_written_files_of_dead_writers_are_removed_and_those_of_the_living_kept(tmp_path):
    store = ResultStore(str(tmp_path))
    script = (
        "import os, sys; from microtome.store import ResultStore\n"
        "with ResultStore(sys.argv[1]).writing('0/c/0/0/0') as sink: sink.write(b'x'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    with store.writing("0/c/0/0/1") as sink:
        sink.write(b"12345")
        assert len(list((tmp_path / "0/c/0/0").iterdir())) == 2
        assert store.keys() == ()
        store.clean()
        assert len(list((tmp_path / "0/c/0/0").iterdir())) == 1
    assert store.sizes() == {"0/c/0/0/1": 5}


def test_a_full_disk_is_one_clear_sentence(tmp_path, monkeypatch):
    """The full disk is a fake: `write` of every file raises what a full disk raises."""

    class Full:
        def __init__(self, file: BinaryIO) -> None:
            self.file = file

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *exc: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened = Path.open
    store = ResultStore(str(tmp_path / "r"))
    store.put("a", b"old")
    monkeypatch.setattr(Path, "open", lambda path, mode="r": Full(opened(path, mode)))
    with pytest.raises(NoSpaceLeft, match=r"no space left for .*make room"):
        store.put("a", b"new")
    monkeypatch.undo()
    assert store.keys() == ("a",)
    assert store.get("a") == b"old"


def test_a_place_that_cannot_be_written_to_is_named(tmp_path, s3):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match="cannot be written to"):
        ResultStore(str(tmp_path / "file" / "r")).put("a", b"1")
    with pytest.raises(CannotWrite, match="s3://nobucket/r cannot be written to"):
        ResultStore("s3://nobucket/r").put("a", b"1")


def test_errors_of_a_store_survive_the_way_from_a_worker():
    for error in (NoSpaceLeft("r"), CannotWrite("r", "why")):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
