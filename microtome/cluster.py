"""The only module that knows Dask: connect or start, fan out, collect small records, cancel."""

import tempfile
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate, repeat
from pathlib import Path
from threading import Event
from typing import Any

import dask
import distributed.utils
from distributed import Client, Future, KilledWorker, LocalCluster, Worker, as_completed, get_worker
from distributed.utils import thread_state  # type: ignore[attr-defined]  # not in its __all__

from microtome import forks
from microtome.beside import Beside
from microtome.cpu import cores
from microtome.errors import ClusterUnreachable, MicrotomeError, OptionError, StoppedBeside, WorkersDied

RETRIES = 2
"""A shard that fails for no fault of the user's runs again this often, on any worker."""

SETTINGS = Path(__file__).with_name("dask.yaml")

COST_S = 1e-6
"""A unit of cost weighs as much as so many seconds of having come earlier."""

CONNECT_S = 20
RECONNECT_S = 300
"""A scheduler that is lost may come back in another pod, on another node, after its image."""

END_WITHIN_S, LOOK_EVERY_S = 120.0, 0.1
"""How long tasks that were cancelled are waited for, and how often workers are asked."""


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


_begun: ContextVar[Event | None] = ContextVar("begun", default=None)
"""Set once a function that runs beside others has fanned out, or waits."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A user's error, returned by a task instead of raised, so that Dask does not retry it."""

    error: MicrotomeError


class Cluster:
    """A Dask cluster that takes tasks. Threads may fan out at once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._began_s = time.time()
        self._running: set[Future[Any]] = set()
        self._cancelled: set[Any] = set()
        self._beside = Beside()

    @property
    def client(self) -> Client:
        return self._client

    def at_once(self, works: Sequence[Callable[[], object]]) -> None:
        """Call functions that fan out, each in a thread of its own, with what the context holds here.

        Each begins once the one before it has fanned out, waits, or has ended: the first has tasks at work
        while the others, which have one interpreter between them, get ready.

        The first error is raised, once tasks of the others that have begun have ended: nothing is written
        any more. What has not begun is cancelled.
        """
        try:
            with self._beside.at_work(len(works)):
                self._do_all(works)
        except Exception:
            self._await_workers()
            raise

    def say_done(self, *things: Hashable) -> None:
        """Let go whatever waits for these things in the same `at_once`."""
        self._beside.say_done(*things)

    def wait_for(self, things: Collection[Hashable], *, name: str) -> None:
        """Until all of these were said to be done by what runs beside it; `name` is that of who waits.

        Raises
        ------
        StoppedBeside
            If another function of the same `at_once` has failed.
        RuntimeError
            If nobody is left to do them.
        """
        _say_begun()
        if not self._beside.wait({"": things}):
            raise RuntimeError(f"{name} waits for what nobody is left to do")
        if self._beside.is_stopped:
            raise StoppedBeside(name)

    def fan_out[T](
        self,
        work: Callable[..., T],
        calls: Sequence[tuple[Any, ...]],
        on_done: Callable[[T], None],
        *,
        name: str,
        costs: Sequence[float] = (),
        needs: Callable[[tuple[Any, ...]], Collection[Hashable]] | None = None,
    ) -> None:
        """Run `work(*call)` for every call; `on_done` gets each result, in order of completion.

        The first error cancels what has not begun and is raised as it came from the worker.
        A worker that dies takes nothing with it: its task runs again elsewhere.

        Clients of one scheduler are served in the order in which they came. Of what a client fans out
        at once, that on which least was spent so far is next, by `costs`: what each call takes, in any
        unit (all in less than 1 million). Calls without costs go first.

        A call waits until all that it `needs` was said to be done, by what runs beside it (`say_done`).

        Raises
        ------
        WorkersDied
            If a task took down as many workers as Dask's `allowed-failures` permits.
        StoppedBeside
            If another function of the same `at_once` has failed.
        RuntimeError
            If a call needs what nobody is left to do.
        """
        by_key = {f"{name}-{call}": call for call in calls}
        held = {key: needs(call) if needs else () for key, call in by_key.items()}
        spent = accumulate(costs, initial=0.0) if costs else repeat(0.0)
        priority = {key: -self._began_s - before * COST_S for key, before in zip(by_key, spent, strict=False)}
        mine: set[Future[Any]] = set()
        running = as_completed(loop=self._client.loop)
        try:
            while True:
                # Together: of tasks that come one by one, Dask gives the first to workers that are busy.
                if ready := self._beside.ready(held):
                    for key in ready:
                        del held[key]
                    tasks = self._submit(work, {key: by_key[key] for key in ready}, priority)
                    mine.update(tasks)
                    running.update(tasks)
                _say_begun()
                if not running.is_empty():
                    future = next(running)
                    if self._beside.is_stopped and future.cancelled():
                        continue
                    on_done(_result_of(future))
                    # A finished future that is held would run again should its worker die.
                    future.release()
                    self._running.discard(future)
                elif self._beside.is_stopped:
                    raise StoppedBeside(name)
                elif not held:
                    return
                elif not self._beside.wait(held):
                    raise RuntimeError(f"{name} waits for what nobody is left to do")
        finally:
            self._running -= mine
            self._cancel([future for future in mine if not future.done()])

    def _submit[T](
        self, work: Callable[..., T], calls: Mapping[str, tuple[Any, ...]], priority: Mapping[str, float]
    ) -> list["Future[Any]"]:
        tasks = self._client.map(
            partial(_attempt, work),
            list(calls.values()),
            key=list(calls),
            pure=False,
            retries=RETRIES,
            priority=priority.__getitem__,  # type: ignore[arg-type]  # of the key, as in dask.annotate
        )
        self._running.update(tasks)
        if self._beside.is_stopped:  # meanwhile: `_stop` may not have seen these
            self._cancel(tasks)
        return tasks

    def _do_all(self, works: Sequence[Callable[[], object]]) -> None:
        if len(works) == 1:
            works[0]()
            return
        with futures.ThreadPoolExecutor(len(works), thread_name_prefix="fan-out") as threads:
            calls = []
            try:
                for work in works:
                    begun = Event()
                    calls.append(threads.submit(copy_context().run, self._do, work, begun))
                    begun.wait()
                for call in futures.as_completed(calls):
                    call.result()
            except BaseException as error:
                self._stop(let_end=isinstance(error, Exception))  # unlike Ctrl-C
                raise

    def _do(self, work: Callable[[], object], begun: Event) -> None:
        _begun.set(begun)
        try:
            work()  # if it fails, `at_once` stops those that wait
        finally:
            begun.set()
        self._beside.say_ended()

    def _stop(self, *, let_end: bool) -> None:
        """Cancel what runs; `let_end`: all but what has begun, which may be writing."""
        self._beside.stop()
        begun = {key for keys in self._client.processing().values() for key in keys} if let_end else set()
        left = [future for future in tuple(self._running) if future.key not in begun]
        # After Ctrl-C those that are done too: it ends the workers, and what they kept would begin again.
        self._cancel([future for future in left if not (let_end and future.done())])

    def _cancel(self, tasks: Sequence["Future[Any]"]) -> None:
        self._cancelled.update(future.key for future in tasks if not future.done())
        self._client.cancel(tasks, force=True)

    def _await_workers(self) -> None:
        """Until no worker is at work on what was cancelled: it would write into another's result.

        A worker is asked by another connection than tasks come by: one that was sent just before it was
        cancelled may arrive after the first look. Hence what two looks have not found is not at work.
        """
        end_s = time.monotonic() + END_WITHIN_S
        missed: set[Any] = set()
        with suppress(OSError, TimeoutError):  # nobody can be asked: what went wrong is told already
            while self._cancelled and time.monotonic() < end_s:
                at_work = set().union(*self._client.run(_keys_at_work, on_error="ignore").values())
                self._cancelled -= missed - at_work
                missed = self._cancelled - at_work
                time.sleep(LOOK_EVERY_S)
        self._cancelled.clear()


def _say_begun() -> None:
    """The function that `at_once` has called here has nothing more to get ready."""
    if (begun := _begun.get()) is not None:
        begun.set()


def _keys_at_work(dask_worker: Worker) -> set[Any]:
    """Of the tasks that the threads of a worker are busy with, cancelled or not."""
    return {task.key for task in dask_worker.state.all_running_tasks}


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


@cache
def use_settings() -> None:
    """Our settings for the schedulers and workers of this process, but where somebody has set others."""
    for settings in dask.config.collect_yaml([str(SETTINGS)]):
        dask.config.update_defaults(settings)


def _configure() -> None:
    """Have Dask use our settings, and fork its workers from the process of `forks`."""
    use_settings()
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
            _configure()
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
