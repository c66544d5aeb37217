"""What functions that run beside each other tell each other: what is done, and that all is to stop."""

import threading
from collections.abc import Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager


class Beside:
    """What those that are at work at once have said; any thread may say and ask."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._done: set[Hashable] = set()
        self._stopped = False
        self._at_work = 0
        self._waiting: list[Mapping[str, Collection[Hashable]]] = []
        """What those who wait hold back."""

    @property
    def is_stopped(self) -> bool:
        return self._stopped

    @contextmanager
    def at_work(self, functions: int) -> Iterator[None]:
        """A block in which so many functions run; what they said is forgotten at its end."""
        self._at_work = functions
        try:
            yield
        finally:
            self._stopped = False
            self._done.clear()
            self._at_work = 0

    def say_done(self, *things: Hashable) -> None:
        """Let go what waits for these things."""
        with self._changed:
            self._done.update(things)
            self._changed.notify_all()

    def say_ended(self) -> None:
        """A function has come to its end: nobody needs to wait for what it might say."""
        with self._changed:
            self._at_work -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Let nothing go any more, and nobody wait."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def ready(self, held: Mapping[str, Collection[Hashable]]) -> list[str]:
        """Keys of what is held back by its needs, but needs nothing more; none after a stop."""
        with self._changed:
            return self._ready(held)

    def wait(self, held: Mapping[str, Collection[Hashable]]) -> bool:
        """Until some of it is ready or all is to stop; false if nobody is left who could say more."""
        with self._changed:
            self._waiting.append(held)
            try:
                self._changed.wait_for(lambda: self._stopped or self._ready(held) or self._is_stuck())
                return self._stopped or bool(self._ready(held))
            finally:
                self._waiting = [other for other in self._waiting if other is not held]

    def _is_stuck(self) -> bool:
        """Whether all wait, for what none of them will say: who is let go, but not awake yet, may."""
        return len(self._waiting) >= self._at_work and not any(map(self._ready, self._waiting))

    def _ready(self, held: Mapping[str, Collection[Hashable]]) -> list[str]:
        return [] if self._stopped else [key for key, needs in held.items() if self._done.issuperset(needs)]
