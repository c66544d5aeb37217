"""What a process has imported, and whether one that is forked from it is as a new one would be."""

import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from prefect.settings import get_current_settings

OURS = frozenset({"deployments", "flows", "tasks", "microtome", "__main__"})
OF_ONE_RUN = ("PREFECT__", "MICROTOME_", "AWS_")
OF_ONE_SESSION = (
    *("PWD", "OLDPWD", "SHLVL", "_", "TERM", "TMUX", "SSH_", "XDG_SESSION", "WINDOWID", "COLORTERM"),
    *("INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "MEMORY_PRESSURE_", "MANAGERPID"),
)
"""So begin the names of variables that nothing looks at while it is imported."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run's process begins with."""

    python: str
    folder: str
    umask: int
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Imported:
    """What this process has imported, and what it was told before."""

    environment: dict[str, str]
    written_ns: dict[str, int]
    """When our modules were changed last, Dask's settings, and the folder of packages; by path."""

    @classmethod
    def here(cls) -> "Imported":
        """By this process."""
        # Not os.environ: OpenCV adds to it. Prefect's worker adds its settings, in its own spelling.
        lines = Path("/proc/self/environ").read_bytes().split(b"\0")
        told = {name: value for name, _, value in (os.fsdecode(line).partition("=") for line in lines)}
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        ours = [module for name, module in sys.modules.items() if name.partition(".")[0] in OURS]
        paths = [file for module in ours if (file := getattr(module, "__file__", None))]
        paths += [sysconfig.get_path("purelib"), told.get("DASK_CONFIG", "")]
        return cls(_read_once({**told, **settings}), {path: _written_ns(path) for path in paths})

    def lacks(self, asked: Asked) -> str | None:
        """What a new process would have instead, for people; None where that is nothing."""
        if _interpreter(asked.python) != _interpreter(sys.executable):
            return asked.python
        for path, written_ns in self.written_ns.items():
            if _written_ns(path) != written_ns:
                return f"what has changed in {path}"
        # Names alone: values may be secret.
        others = self.environment.items() ^ _read_once(asked.environment).items()
        return ", ".join(sorted({name for name, _ in others})) or None


def _read_once(environment: dict[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name and not name.startswith(OF_ONE_RUN + OF_ONE_SESSION)
    }


def _interpreter(python: str) -> tuple[str, str]:
    """python3 of an environment is its python; that of another one is not, though both are links to one."""
    return os.path.dirname(python), os.path.realpath(python)


def _written_ns(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
