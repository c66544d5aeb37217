"""A real S3 server (versitygw) for tests: one process, one folder, one free loopback port."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.needs import lacking

REGION, ACCESS_KEY, SECRET_KEY = "eu-test-1", "testaccess", "a-secret-of-the-tests"
START_S = 20.0


def find_versitygw(shared_data: Path) -> Path:
    """The S3 server's program. Skips without it."""
    return find_program("versitygw", shared_data)


def find_program(name: str, shared_data: Path) -> Path:
    """A program of the tests: on PATH, or unpacked from beside the shared data. Skips without it."""
    if found := shutil.which(name):
        return Path(found)
    unpack = shared_data.parent / "bin" / "unpack"
    if unpack.is_file():
        folder = subprocess.run([unpack], check=True, capture_output=True, text=True).stdout.strip()
        return Path(folder) / name
    lacking(f"no {name} on PATH, and none to unpack in {unpack.parent}")


class S3Server:
    """Serves `folder`, whose subfolders are buckets, until the `with` block ends.

    `environment` holds what clients need (AWS_ENDPOINT_URL, region, credentials). `webhook` gets a
    notification of every change; it must answer before the server starts. `host` is an address of
    this machine: loopback, or where pods see it. With a certificate and its key, both PEM files, it
    speaks HTTPS.
    """

    def __init__(
        self,
        program: Path,
        folder: Path,
        webhook: str | None = None,
        host: str = "127.0.0.1",
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self._program, self.folder, self._webhook = program, folder, webhook
        self._at = f"{host}:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        self._certificate = certificate
        self.endpoint = f"{'https' if certificate else 'http'}://{self._at}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    def make_bucket(self, name: str) -> Path:
        """An empty bucket. Files put into its folder by hand are objects as well."""
        bucket = self.folder / name
        bucket.mkdir()
        return bucket

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        keys = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
        self._process = subprocess.Popen(
            [
                *(self._program, "--quiet", "--keep-alive", "--port", self._at),
                *(("--event-webhook-url", self._webhook) if self._webhook else ()),
                *self._encryption(),
                *("--region", REGION, "--health", "/health", "posix", *self._metadata(), self.folder),
            ],
            env={**os.environ, **keys},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait()
        return self

    def _encryption(self) -> tuple[str | Path, ...]:
        return ("--cert", self._certificate[0], "--key", self._certificate[1]) if self._certificate else ()

    def _metadata(self) -> tuple[str | Path, ...]:
        """What it knows of an object is in its file's attributes; where there are none, in files beside."""
        try:
            os.setxattr(self.folder, "user.microtome", b"")
        except OSError:
            # Beside the folder; the server takes a name that begins like the folder's for one inside of it.
            beside = self.folder.with_name(f"metadata-of-{self.folder.name}")
            beside.mkdir(exist_ok=True)
            return ("--sidecar", beside)
        os.removexattr(self.folder, "user.microtome")
        return ()

    def _wait(self) -> None:
        assert self._process is not None
        # Whether clients believe its certificate is their tests' business.
        trusted = ssl._create_unverified_context() if self._certificate else None
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.endpoint}/health", timeout=1, context=trusted) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.05)
        self.stop()
        pytest.fail(f"versitygw did not answer on {self.endpoint} within {START_S:.0f} s")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=1)
            except subprocess.TimeoutExpired:  # it waits for clients that keep a connection open
                self._process.kill()
                self._process.wait()
            self._process = None

    @contextmanager
    def silent(self) -> Iterator[None]:
        """It answers nothing until the block ends; whoever has asked waits."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@contextmanager
def asked_by_this_process(server: S3Server) -> Iterator[S3Server]:
    """Clients of this process, and of those it starts, ask the server until the block ends."""
    import s3fs  # half a second, which most tests need not wait for

    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        # By which wsidicom reads: it keeps file systems by their arguments, and their addresses with them.
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            yield server
        finally:
            s3fs.S3FileSystem.clear_instance_cache()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
