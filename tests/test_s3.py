"""The client of S3 stores against a real one: its settings, its patience, and what it says of faults."""

import json
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from microtome import s3 as client
from microtome.errors import SlideUnreachable
from microtome.keyspace import Bucket
from microtome.s3 import PART_BYTES, Patience, bucket_of
from microtome.slides import open_slide
from microtome.slides.source import BLOCK_BYTES, RemoteSource, SourceFile
from tests.needs import lacking
from tests.s3 import ACCESS_KEY, SECRET_KEY, S3Server, find_program, free_port

ODD_KEYS = ["in/A+b%2Bc%25d+%C3%A9.svs", "S 001+ä.tif", "x#y?z&.svs", "{a}~b`|c^.svs", "a=b;c,'d'.svs"]
SIZE = 3 * PART_BYTES // 2


@pytest.fixture
def there(s3):
    """The bucket `lab` of the server."""
    s3.make_bucket("lab")
    return bucket_of("s3://lab")[0]


class Proxy:
    """toxiproxy between this process and the server."""

    def __init__(self, api: str) -> None:
        self._api = api

    def ask(self, path: str, body: dict | None = None, method: str | None = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self._api + path, data, method=method)) as answer:
            return json.loads(answer.read() or "{}")

    def disturb(self, kind: str, toxicity: float = 1.0, **attributes: int) -> None:
        toxic = {"name": kind, "type": kind, "toxicity": toxicity, "attributes": attributes}
        self.ask("/proxies/s3/toxics", toxic)

    @property
    def sent_bytes(self) -> int:
        """What the server has sent to clients so far."""
        with urllib.request.urlopen(f"{self._api}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        sent = [line for line in lines if line.startswith("toxiproxy_proxy_sent_bytes_total")]
        return sum(int(float(line.split()[-1])) for line in sent if 'direction="downstream"' in line)

    def calm(self) -> None:
        self.ask("/reset", {}, "POST")


@pytest.fixture
def proxied(s3: S3Server, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The server behind a proxy that breaks connections; this process asks the proxy."""
    api, listen = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    host, port = api.split(":")
    program = find_program("toxiproxy-server", shared_data)
    process = subprocess.Popen(
        [program, "-host", host, "-port", port, "-proxy-metrics"], env={**os.environ, "LOG_LEVEL": "error"}
    )
    proxy = Proxy(f"http://{api}")
    try:
        for _ in range(100):
            try:
                proxy.ask("/proxies")
                break
            except OSError:
                time.sleep(0.05)
        upstream = s3.endpoint.removeprefix("http://")
        proxy.ask("/proxies", {"name": "s3", "listen": listen, "upstream": upstream})
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{listen}")
        yield proxy
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("key", ODD_KEYS)
def test_any_key_is_written_listed_and_read_as_it_is(there, key):
    there.put(f"odd/{key}", b"here")
    assert there.get(f"odd/{key}") == b"here"
    assert [about.key for about in there.below("odd")] == [f"odd/{key}"]
    found, path = bucket_of(f"s3://lab/odd/{key}")
    assert found.head(path).size_bytes == 4


def test_a_folder_of_keys_holds_no_key_that_only_begins_like_it(there):
    for key in ("a/1", "a/b/2", "ab/3", "a.txt"):
        there.put(key, b"")
    assert [about.key for about in there.below("a")] == ["a/1", "a/b/2"]
    assert list(there.below("nothing")) == []
    there.delete(["a/1", "never/was"])
    assert [about.key for about in there.below("a")] == ["a/b/2"]


def test_an_object_of_many_parts_comes_back_by_ranges(there):
    data = os.urandom(5 * PART_BYTES)
    there.put("large", data)
    starts, ends = [0, 5, PART_BYTES - 3], [1, 5000, 3 * PART_BYTES]
    found = there.get_ranges("large", starts, ends)
    assert found == [data[start:end] for start, end in zip(starts, ends, strict=True)]


def test_what_lies_between_ranges_is_not_fetched(there, proxied):
    data = os.urandom(8 << 20)
    there.put("large", data)
    far = bucket_of("s3://lab")[0]
    before = proxied.sent_bytes
    starts = [number * 900_000 for number in range(8)]
    found = far.get_ranges("large", starts, [start + 1000 for start in starts])
    assert found == [data[start : start + 1000] for start in starts]
    assert proxied.sent_bytes - before < 50_000


@pytest.mark.parametrize("size", [0, 1000, 2 * BLOCK_BYTES])
def test_an_object_is_read_as_a_file_to_its_end_and_no_further(there, size):
    data = os.urandom(size)
    there.put("a", data)
    source = RemoteSource("s3://lab/a")
    file = SourceFile(source)
    assert file.read() == data
    assert file.seek(size + 5) == size + 5
    assert file.read(10) == b""
    assert source.read([(size, 5), (0, 3), (size + 7, 1)]) == [b"", data[:3], b""]


def test_what_a_console_makes_to_show_a_folder_is_no_object(there):
    maker = boto3.client("s3")
    for key in ("in/", "in/deep/"):
        maker.put_object(Bucket="lab", Key=key, Body=b"")
    assert not there.has_below("in/deep")
    there.put("in/deep/a.svs", b"slide")
    there.put("in/empty.svs", b"")
    assert [about.key for about in there.below("")] == ["in/deep/a.svs", "in/empty.svs"]
    assert [about.key for about in there.below("in")] == ["in/deep/a.svs", "in/empty.svs"]
    assert there.has_below("in")
    assert not there.has_below("i")


def test_a_fault_of_the_block_that_writes_is_not_told_as_one_of_the_store(there):
    with (
        pytest.raises(FileNotFoundError, match="NoSuchKey"),
        Bucket("s3://lab/result").writing("table"),
    ):
        there.get("part that is missing")
    assert there.below("") == []


def write_half(there):
    with there.writing("large") as file:
        for _ in range(3):
            file.write(os.urandom(PART_BYTES))
        time.sleep(1)  # a part that is still under way may stay: the store's business, says S3's manual too
        raise RuntimeError("half-way")


def test_a_file_whose_block_raises_leaves_no_parts_behind(there):
    with pytest.raises(RuntimeError, match="half-way"):
        write_half(there)
    assert list(there.below("")) == []
    assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket="lab")


def test_errors_are_pythons_own_in_one_line_with_the_words_of_the_store(there, s3, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"^NoSuchKey: .*$"):
        there.get("nothing")
    for ask in (lambda bucket: bucket.put("a", b""), lambda bucket: list(bucket.below("a"))):
        with pytest.raises(FileNotFoundError, match=r"^NoSuchBucket: .*$"):
            ask(bucket_of("s3://nowhere")[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(PermissionError, match=r"^SignatureDoesNotMatch: .*$"):
        bucket_of("s3://lab")[0].put("a", b"")
    s3.stop()
    with pytest.raises(OSError, match=r"^Error performing GET .* \(Connection refused\)$"):
        bucket_of("s3://lab", is_patient=False)[0].get("a")


def test_a_store_that_comes_back_is_waited_for(there, s3):
    s3.stop()
    back = threading.Timer(2.0, s3.__enter__)
    back.start()
    there.put("a", b"kept")
    back.join()
    assert there.get("a") == b"kept"


def test_a_store_that_says_nothing_is_asked_again(proxied, s3, monkeypatch):
    monkeypatch.setattr(client, "PATIENT", Patience(silent_s=0.5, retry_s=10))
    s3.make_bucket("lab")
    there = bucket_of("s3://lab")[0]
    proxied.disturb("timeout", timeout=0)
    calm = threading.Timer(2.0, proxied.calm)
    calm.start()
    there.put("a", b"at last")
    calm.join()
    assert there.get("a") == b"at last"


@pytest.mark.parametrize(
    ("kind", "attributes"), [("reset_peer", {"timeout": 0}), ("limit_data", {"bytes": 700_000})]
)
def test_connections_that_break_off_change_nothing(proxied, s3, kind, attributes):
    """Half of the connections, for a second: in mid-answer, or before it."""
    s3.make_bucket("lab")
    there = bucket_of("s3://lab")[0]
    data = os.urandom(SIZE)
    there.put("before", data)
    proxied.disturb(kind, toxicity=0.5, **attributes)
    calm = threading.Timer(1.0, proxied.calm)
    calm.start()
    ends = list(range(PART_BYTES // 4, SIZE + 1, PART_BYTES // 4))
    starts = [end - PART_BYTES // 4 for end in ends]
    for number in range(5):
        there.put(f"during/{number}", data)
        assert there.get("before") == data
        assert b"".join(there.get_ranges("before", starts, ends)) == data
    calm.join()
    assert [about.size_bytes for about in there.below("during")] == [SIZE] * 5
    assert all(there.get(f"during/{number}") == data for number in range(5))


def test_a_profile_names_the_key_where_the_environment_names_none(there, s3, tmp_path, monkeypatch):
    there.put("a", b"by profile")
    credentials, settings = tmp_path / "credentials", tmp_path / "config"
    credentials.write_text(f"[lab]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
    settings.write_text(f"[profile lab]\nregion = eu-test-1\nendpoint_url = {s3.endpoint}\n")
    for name in list(s3.environment):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(settings))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert bucket_of("s3://lab")[0].get("a") == b"by profile"


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """That of an authority, one of its own for this machine, and the latter's key."""
    if shutil.which("openssl") is None:
        lacking("no openssl on PATH")
    ours = {name: folder / f"{name}.pem" for name in ("authority", "secret", "asked", "certificate", "key")}
    names = folder / "names"
    names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    new = ["-newkey", "rsa:2048", "-nodes"]
    sign = ["-days", "2", "-CA", "authority", "-CAkey", "secret", "-CAcreateserial"]
    for words in (
        ["req", "-x509", *new, "-days", "2", "-subj", "/CN=lab", "-keyout", "secret", "-out", "authority"],
        ["req", *new, "-subj", "/CN=localhost", "-keyout", "key", "-out", "asked"],
        ["x509", "-req", *sign, "-in", "asked", "-extfile", str(names), "-out", "certificate"],
    ):
        command = ["openssl", *(str(ours.get(word, word)) for word in words)]
        subprocess.run(command, check=True, capture_output=True)
    return ours["authority"], ours["certificate"], ours["key"]


def test_a_certificate_of_an_authority_of_ones_own_is_believed_where_it_is_named(
    shared_data, tmp_path, monkeypatch
):
    authority, *certificate = certificates(tmp_path)
    with S3Server(find_program("versitygw", shared_data), tmp_path / "s3", certificate=certificate) as server:
        server.make_bucket("lab")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(OSError, match=r"(?i)certificate"):
            bucket_of("s3://lab", is_patient=False)[0].put("a", b"")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
        there = bucket_of("s3://lab")[0]
        there.put("a", b"told in secret")
        assert there.get("a") == b"told in secret"


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("AWS_CA_BUNDLE", "/nowhere/lab.pem", "AWS_CA_BUNDLE names /nowhere/lab.pem"),
        ("AWS_ENDPOINT_URL", "s3.example.org", "has to begin with https://"),
        ("AWS_PROFILE", "nolab", "nolab"),
    ],
)
def test_settings_that_make_no_sense_are_named(there, tmp_path, monkeypatch, name, value, complaint):
    (tmp_path / "config").write_text("[profile lab]\nregion = eu-test-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv(name, value)
    with pytest.raises(SlideUnreachable, match=complaint):
        open_slide("s3://lab/a.svs")


def test_the_region_of_the_environment_goes_before_that_of_a_profile(there, tmp_path, monkeypatch):
    there.put("a", b"of the region")
    (tmp_path / "config").write_text("[profile lab]\nregion = eu-other-9\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert bucket_of("s3://lab")[0]._store.config.get("region") != "eu-other-9"
