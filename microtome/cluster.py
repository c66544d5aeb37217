"""The only module that knows Dask: connect or start, fan out, collect small records, cancel."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import dask
import distributed.utils
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed, get_worker
from distributed.utils import thread_state  # type: ignore[attr-defined]  # not in its __all__

from microtome import forks
from microtome.cpu import cores
from microtome.errors import ClusterUnreachable, MicrotomeError, OptionError, WorkersDied

RETRIES = 2
"""A shard that fails for no fault of the user's runs again this often, on any worker."""

CONNECT_S = 20
RECONNECT_S = 300
"""A scheduler that is lost may come back in another pod, on another node, after its image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterSpec:
    """Where Dask tasks run: on a cluster that exists, or on one of our own on this machine."""

    scheduler: str | None = None
    """Address of a scheduler, `tcp://host:8786`."""
    workers: int | None = None
    """Processes of one thread each, of our own; one a core when None."""

    def __post_init__(self) -> None:
        if self.scheduler is not None and self.workers is not None:
            raise OptionError("--workers", self.workers, "left out where --scheduler names a cluster")
        if self.workers is not None and not 1 <= self.workers <= 1024:
            raise OptionError("--workers", self.workers, "between 1 and 1,024")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A user's error, returned by a task instead of raised, so that Dask does not retry it."""

    error: MicrotomeError


class Cluster:
    """A Dask cluster that takes tasks. Threads may fan out at once."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def slots(self) -> int:
        """Tasks that can run at once now."""
        return sum(self._client.nthreads().values())

    @property
    def client(self) -> Client:
        return self._client

    def fan_out[T](
        self,
        work: Callable[..., T],
        calls: Sequence[tuple[Any, ...]],
        on_done: Callable[[T], None],
        *,
        name: str,
        priority: int = 0,
    ) -> None:
        """Run `work(*call)` for every call; `on_done` gets each result, in order of completion.

        The first error cancels what has not begun and is raised as it came from the worker.
        A worker that dies takes nothing with it: its task runs again elsewhere.

        Raises
        ------
        WorkersDied
            If a task took down as many workers as Dask's `allowed-failures` permits.
        """
        with self._client.as_current():
            futures = [
                self._client.submit(
                    _attempt, work, call, key=f"{name}-{call}", pure=False, retries=RETRIES, priority=priority
                )
                for call in calls
            ]
            try:
                for future in as_completed(futures):
                    on_done(_result_of(future))
                    # A finished future that is held would run again should its worker die.
                    future.release()
            finally:
                self._client.cancel([future for future in futures if not future.done()], force=True)


class Abandoned(BaseException):
    """Nobody waits for the task any more. No fault that anybody counts: hence no Exception."""


def stop_if_abandoned() -> None:
    """End the Dask task of this thread if it was cancelled meanwhile; without one, nothing happens.

    A thread cannot be stopped from outside: long tasks ask between two steps. Dask drops the error,
    as it would drop the result.

    Raises
    ------
    Abandoned
        If the client has gone or has cancelled the task.
    """
    key = getattr(thread_state, "key", None)
    if key is None:
        return
    task = get_worker().state.tasks.get(key)
    if task is None or task.state == "cancelled":
        raise Abandoned(str(key))


def _attempt[T](work: Callable[..., T], call: tuple[Any, ...]) -> T | _Refusal:
    try:
        return work(*call)
    except MicrotomeError as error:
        return _Refusal(error)


def _result_of(future: "Future[Any]") -> Any:  # Any: Dask does not type its futures
    try:
        result = future.result()
    except KilledWorker as error:
        last = error.last_worker
        deaths = error.allowed_failures + 1
        raise WorkersDied(str(error.task), deaths, str(last.name), last.memory_limit) from error
    if isinstance(result, _Refusal):
        raise result.error
    return result


def _fork_workers() -> None:
    """Have Dask fork its workers from the process of `forks`."""
    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    # Dask would preload pandas and whatever else it knows, and import it here too.
    distributed.utils._forkserver_preload_set = True
    forks.start()


@contextmanager
def connect(spec: ClusterSpec) -> Iterator[Cluster]:
    """The cluster of the spec; one of our own ends with the block.

    Raises
    ------
    ClusterUnreachable
        If no scheduler answers at the address within 20 s.
    """
    with ExitStack() as stack:
        if spec.scheduler is not None:
            try:
                client = Client(spec.scheduler, set_as_default=False, timeout=CONNECT_S)
            except (OSError, ValueError) as error:
                raise ClusterUnreachable(spec.scheduler, str(error)) from error
            # Dask has one timeout for both; a wrong address is told soon, a lost scheduler is waited for.
            client._timeout = RECONNECT_S
        else:
            _fork_workers()
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="microtome-dask-"))
            own = LocalCluster(
                n_workers=spec.workers or cores(),
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
                local_directory=scratch,
                silence_logs=50,
            )
            stack.enter_context(own)
            client = Client(own, set_as_default=False, timeout=CONNECT_S)
        stack.enter_context(client)
        yield Cluster(client)
