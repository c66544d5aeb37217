"""Waiting for other processes."""

import time
from collections.abc import Callable

import pytest


def until[T](look: Callable[[], T], within_s: float, what: str = "") -> T:
    """What a look finds once that is true; fails when time is up."""
    end_s = time.monotonic() + within_s
    while not (found := look()):
        if time.monotonic() > end_s:
            pytest.fail(f"not within {within_s} s: {what or look}")
        time.sleep(0.2)
    return found
