"""Environments of other packages, made once under the cache folder and never mixed with ours."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.figures import Skipped

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "1"}


def environment(folder: Path, python: str, packages: Sequence[str]) -> Path:
    """The environment's Python; made and filled if it is not there.

    Raises
    ------
    Skipped
        If that Python or one of the packages cannot be had.
    """
    program, complete = folder / "bin" / "python", folder / "complete"
    wanted = "\n".join(packages)
    if complete.is_file() and complete.read_text() == wanted:
        return program
    uv = [sys.executable, "-m", "uv"]
    _attempt([*uv, "venv", "--quiet", "--clear", "--python", python, str(folder)])
    _attempt([*uv, "pip", "install", "--quiet", "--python", str(program), *packages])
    complete.write_text(wanted)
    return program


def call(python: Path, script: str, *arguments: str) -> list[float]:
    """Run a script of this folder in another environment: the numbers of its last line.

    Raises
    ------
    Skipped
        If it fails, with what it said last.
    """
    command = [str(python), str(Path(__file__).with_name(script)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **QUIET}, check=False)
    if done.returncode != 0:
        raise Skipped(f"{script}: {_last_line(done.stderr)}")
    return [float(word) for word in done.stdout.strip().splitlines()[-1].split()]


def _attempt(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Skipped(f"`{' '.join(command[1:])}`: {_last_line(done.stderr)}")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it ended without a word"])[-1]
