"""The process that flow runs are forked from: it has imported Prefect, Dask, numba and the flow, for all.

A run whose process is new imports for two seconds and more; one that is forked here begins at once, and
shares the memory that the imports have taken. begin.py asks for it, and passes on what a process gets:
environment, folder, input and outputs, signals. Where a new process would be another one than this, the run
gets a new one (`Imported.lacks`).
"""

import ctypes
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import prefect.deployments
import prefect.engine
import prefect.flow_engine
import prefect.runner
import prefect.task_engine
import prefect.utilities.visualization

import flows.segment
import microtome.preload
import microtome.slides.tiff
from deployments.begin import COLD, STATUS, VARIABLE, short
from deployments.imported import Asked, Imported

WARM = (
    prefect.deployments,
    prefect.engine,
    prefect.flow_engine,
    prefect.runner,
    prefect.task_engine,
    prefect.utilities.visualization,
    flows.segment,
    microtome.preload,
    microtome.slides.tiff,
)
"""Not for this process, but for those that it forks: some would be imported late, 0.1 s in all."""
ASKED_WITHIN_S = 1.0
FILES = 5
"""From begin.py: input, output, errors, what it asks for, and a pipe that says when to begin."""
PR_SET_PDEATHSIG = 1

type Become = Callable[[Sequence[int]], NoReturn]


@dataclass(frozen=True, slots=True, eq=False)
class Forked:
    """A run's process, and the one who asked for it."""

    pid: int
    pidfd: int
    asker: socket.socket

    def tell(self, status: int) -> None:
        """The one who asked; who is no longer there needs no answer."""
        with suppress(OSError):
            self.asker.send(STATUS.pack(status))

    def close(self) -> None:
        self.asker.close()
        os.close(self.pidfd)


class Starter:
    """Forks, passes signals on, and says how a process ended: nothing else, so that nothing can stop it.

    Parameters
    ----------
    place
        Path of the socket.
    become
        What a new process does, given the files that begin.py sent: its input, its outputs, what it asks for.
    """

    def __init__(self, place: str, become: Become) -> None:
        self._become = become
        self._forked: set[Forked] = set()
        self._listener = listening(place)
        # Not epoll: what is registered there is shared with what is forked.
        self._selector = selectors.PollSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)

    def serve(self) -> NoReturn:
        """For good; a new process leaves it by `SystemExit`, or becomes another program."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj == key.data.pidfd:
                    self._tell_end(key.data)
                elif key.data in self._forked:  # it has not ended in this very round
                    self._pass_on(key.data)

    def _accept(self) -> None:
        """Fork a process for one who asks; if that cannot be, hang up: they start their own."""
        files: list[int] = []
        asker = pid = None
        try:
            asker, _ = self._listener.accept()
            asker.settimeout(ASKED_WITHIN_S)
            _, files, _, _ = socket.recv_fds(asker, 1, FILES)
            if len(files) < FILES:
                raise ConnectionAbortedError(f"{len(files)} files instead of {FILES}")
            starter, pid = os.getpid(), os.fork()
        except OSError as error:
            say(f"no process: {error}")
        if asker and pid == 0:  # outside of the try: what a run raises is the run's
            end_with(starter)
            self._leave(asker)
            self._become(files)
        for file in files:
            os.close(file)
        if asker and pid:
            self._stand_by(pid, asker)
        elif asker:
            asker.close()

    def _stand_by(self, pid: int, asker: socket.socket) -> None:
        try:
            forked = Forked(pid, os.pidfd_open(pid), asker)
        except OSError as error:
            say(f"process {pid} cannot be watched: {error}")
            asker.close()  # so it ends before it has begun
            os.waitpid(pid, 0)
            return
        self._forked.add(forked)
        self._selector.register(forked.pidfd, selectors.EVENT_READ, forked)
        self._selector.register(asker, selectors.EVENT_READ, forked)
        say(f"process {pid} for a run")
        forked.tell(pid)

    def _leave(self, asker: socket.socket) -> None:
        """Close in a new process what is the starter's."""
        self._listener.close()
        asker.close()
        for other in self._forked:
            other.close()

    def _pass_on(self, forked: Forked) -> None:
        """Signals; who hangs up was killed, and kills so."""
        try:
            numbers = forked.asker.recv(64)
        except OSError:
            numbers = b""
        if not numbers:
            self._selector.unregister(forked.asker)
        for number in numbers or [signal.SIGKILL]:
            with suppress(OSError):  # it has just ended by itself, or there is no such signal
                signal.pidfd_send_signal(forked.pidfd, number)

    def _tell_end(self, forked: Forked) -> None:
        _, status = os.waitpid(forked.pid, 0)
        forked.tell(os.waitstatus_to_exitcode(status))
        for registered in (forked.pidfd, forked.asker):
            with suppress(KeyError):  # who hung up is no longer there
                self._selector.unregister(registered)
        self._forked.remove(forked)
        forked.close()


def listening(place: str) -> socket.socket:
    """A socket that only this user can reach; what a starter before has left in its place is removed."""
    Path(place).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with short(place) as name:
            listener.bind(name)
    finally:
        os.umask(before)
    listener.listen()
    return listener


def end_with(parent: int) -> None:
    """Kill this process when its parent ends: nobody could say then how it ended, or pass signals on."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def run_of_prefect(imported: Imported, files: Sequence[int]) -> NoReturn:
    """Be `python -m prefect.engine`, as begin.py would be; new, where what is imported does not do."""
    asked = taken_over(files)
    if (lacking := imported.lacks(asked)) is not None:
        os.write(2, f"a process of its own: the starter's lacks {lacking}\n".encode())
        os.execve(asked.python, [asked.python, *COLD], asked.environment)
    runpy.run_path(prefect.engine.__file__, run_name="__main__")
    sys.exit()


def taken_over(files: Sequence[int]) -> Asked:
    """What begin.py asked for, once it says so; from here on this process has its files and environment."""
    *inputs, asked_for, may_go = files
    if not os.read(may_go, 1):
        sys.exit()  # it no longer waits
    os.close(may_go)
    for number, file in enumerate(inputs):
        os.dup2(file, number)
        os.close(file)
    with os.fdopen(asked_for) as text:
        text.seek(0)
        asked = Asked(*json.load(text))
    os.chdir(asked.folder)
    os.umask(asked.umask)
    sys.path[0] = asked.folder
    os.environ.clear()
    os.environ.update(asked.environment)
    # Else all runs would draw the same. Python's own generator is seeded anew by itself.
    np.random.seed()  # noqa: NPY002
    return asked


def say(text: str) -> None:
    """In the log, if there is room for it."""
    with suppress(OSError):
        sys.stderr.write(f"{text}\n")


def main() -> None:
    """Import, then serve."""
    # pyarrow's jemalloc has a thread, which is made for forks; nothing else that is imported has one.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    gc.collect()
    gc.freeze()  # else the first collection of each run would copy all of it
    Starter(os.environ[VARIABLE], partial(run_of_prefect, Imported.here())).serve()


if __name__ == "__main__":
    main()
