"""The command, `microtome` or `python -m microtome`: what workers are forked from, then the command line.

Workers' processes import this module again, as multiprocessing does with a program's main one: it is small.
"""

import atexit
import os
import sys

from microtome import forks


def main() -> None:
    """Entry point."""
    words = {word.partition("=")[0] for word in sys.argv[1:]}
    if "segment" in words:
        # Its threads turn for 0.1 s before they rest, and have nothing to do in the process of a run.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if "segment" in words and not words & {"--help", "--scheduler"}:
        forks.start()  # it imports for as long as the command line does that and plans: beside all of it
    from microtome.cli import main as command_line

    try:
        command_line()
    except SystemExit as end:
        if "segment" in words and isinstance(end.code, int):
            _leave(end.code)
        raise


def _leave(code: int) -> None:
    """End at once, as mypy does: Python would free all that a run has imported, one by one, for 0.04 s."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return  # nobody reads any more: Python itself knows what to say of that
    atexit._run_exitfuncs()
    os._exit(code)


if __name__ == "__main__":
    main()
