"""The process that workers of our own are forked from: it imports once what each of them needs.

Two workers are ready a second sooner than if each imported for itself, with 90 MB less memory each; and the
imports go on while the command line imports and plans.
"""

import multiprocessing
import os
from multiprocessing import forkserver

PRELOAD = ["distributed.nanny", "distributed.worker", "microtome.preload"]

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""Dask sets these for each worker it starts: too late for one that is forked."""


def start() -> None:
    """Start it, unless it runs; it ends with this process."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    ours = {name: os.environ[name] for name in ONE_THREAD if name in os.environ}
    os.environ.update(ONE_THREAD)
    try:
        forkserver.ensure_running()
    finally:
        for name in ONE_THREAD:
            del os.environ[name]
        os.environ.update(ours)
