"""A flow run's process as Prefect's worker starts it: the starter forks one that has imported everything.

    python -m deployments.begin

Stands for that process: passes the signals on that it gets, and ends as it ends. Where no starter answers,
it becomes `python -m prefect.engine`, which imports for two seconds. Itself it imports next to nothing.
"""

import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType

VARIABLE = "MICROTOME_STARTER"
"""Path of the starter's socket."""
STATUS = struct.Struct("<i")
"""What the starter answers: the new process' id; when it has ended, its exit code, or minus its signal."""
COLD = ("-m", "prefect.engine")
PASSED_ON = (signal.SIGTERM, signal.SIGINT)
STARTER_GONE = 1
ANSWERS_WITHIN_S = 15.0


def main() -> None:
    """Until the run has ended; ends this process the same way."""
    place = os.environ.get(VARIABLE)
    starter = forked_by(place) if place else None
    if starter is None:
        os.execv(sys.executable, [sys.executable, *COLD])
    status = answer(starter)
    if status is None:
        sys.stderr.write("the starter has ended, and this run with it\n")
        sys.exit(STARTER_GONE)
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def forked_by(place: str) -> socket.socket | None:
    """Connection to the starter that has forked the run's process; or None, and why on stderr."""
    try:
        starter = reached(place)
        starter.settimeout(ANSWERS_WITHIN_S)
        # Before there is somebody to pass a signal on to, it has to wait.
        with held_back(PASSED_ON):
            go = ask(starter)
            if answer(starter) is None:
                raise ConnectionResetError("it hung up")
            for number in PASSED_ON:
                signal.signal(number, partial(pass_on, starter))
            os.write(go, b"!")
        starter.settimeout(None)
    except OSError as error:
        sys.stderr.write(f"no process from the starter at {place}: {error}\n")
        return None
    return starter


def reached(place: str) -> socket.socket:
    """A connection to a socket of the file system, or OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short(place) as name:
            connection.connect(name)
    except OSError:
        connection.close()
        raise
    return connection


@contextmanager
def short(place: str) -> Iterator[str]:
    """Another path to the same: an address takes 107 bytes, and labs have long ones."""
    folder = os.open(os.path.dirname(place), os.O_PATH)
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(place)}"
    finally:
        os.close(folder)


@contextmanager
def held_back(numbers: Iterable[int]) -> Iterator[None]:
    """These signals arrive after the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ask(starter: socket.socket) -> int:
    """For a process with this one's environment, folder, umask, input and outputs.

    It begins when something is written to the file that is returned, and ends if that is closed before.
    """
    os.umask(umask := os.umask(0))
    may_go, go = os.pipe()
    with os.fdopen(os.memfd_create("asked"), "w") as file, os.fdopen(may_go):
        json.dump([sys.executable, os.getcwd(), umask, dict(os.environ)], file)
        file.flush()
        socket.send_fds(starter, [b"?"], [0, 1, 2, file.fileno(), may_go])
    return go


def pass_on(starter: socket.socket, number: int, _: FrameType | None) -> None:
    """A signal; if the starter has ended, so has the run."""
    with suppress(OSError):
        starter.send(bytes([number]))


def answer(starter: socket.socket) -> int | None:
    """The starter's next; None if it hung up."""
    said = starter.recv(STATUS.size, socket.MSG_WAITALL)
    return STATUS.unpack(said)[0] if len(said) == STATUS.size else None


if __name__ == "__main__":
    main()
