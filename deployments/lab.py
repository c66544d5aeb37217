"""The installation of a small lab: all services on one machine, all state in one folder.

`up` starts them, `down` stops them, `run NAME` is one of them in the foreground (for systemd), and
`units` prints systemd units for all.
"""

import argparse
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import certifi
import httpx

from deployments import begin
from deployments.settings import number
from microtome import forks
from microtome.cpu import cores
from microtome.errors import MicrotomeError, OptionError

ROOT = Path(__file__).resolve().parent.parent
READY_WITHIN_S = 180.0
STOPS_WITHIN_S = 20.0
AUTHORITY = "one-authority.pem"
POOL = "slides"
QUEUES = {"segment": 1, "chores": None}
"""Runs at once by queue: a slide takes the whole machine."""


@dataclass(frozen=True)
class Lab:
    """Where the state lies and which ports are used."""

    state: Path
    given: Mapping[str, str]
    """The environment, and over it what `lab.env` in the state folder says."""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Lab":
        state = Path(environ.get("MICROTOME_STATE", str(ROOT / ".state"))).absolute()
        return cls(state, {**environ, **_assignments(state / "lab.env")})

    def port(self, name: str, default: int) -> int:
        variable = f"MICROTOME_{name}_PORT"
        port = number(self.given, variable, default)
        if not (port.is_integer() and 0 < port < 1 << 16):
            raise OptionError(variable, f"{port:g}", "the number of a port, 1 to 65,535")
        return int(port)

    @property
    def prefect_port(self) -> int:
        return self.port("PREFECT", 4200)

    @property
    def intake_port(self) -> int:
        return self.port("INTAKE", 9000)

    @property
    def exporter_port(self) -> int:
        return self.port("EXPORTER", 9464)

    @property
    def scheduler(self) -> str:
        return f"tcp://127.0.0.1:{self.port('DASK', 8786)}"

    @property
    def pages(self) -> str:
        return f"http://127.0.0.1:{self.prefect_port}"

    @cached_property
    def environment(self) -> dict[str, str]:
        """What every service gets; what was given goes first, e.g. a database of PostgreSQL."""
        defaults = {
            "PREFECT_HOME": str(self.state / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_METRICS_ENABLED": "true",
            # SQLite has one writer at a time: on a busy machine 10 s are too short to wait for it.
            "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
            # The worker is told of runs; so long it waits for those of which it is not. 10 by default.
            "PREFECT_WORKER_QUERY_SECONDS": "5",
            "PREFECT_WORKER_HEARTBEAT_SECONDS": "15",
            # A run that found no slot tries again; 30 by default.
            "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
            # Runs that died are found by their silence (automations.yaml).
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            # Connections are plain http here. Still each client of Prefect's loads certifi's authorities,
            # 17 ms, eleven times a run: it gets a file with one of them.
            "PREFECT_API_SSL_CERT_FILE": str(self.state / AUTHORITY),
            "DASK_CONFIG": str(ROOT / "microtome" / "dask.yaml"),
            "MICROTOME_SCHEDULER": self.scheduler,
            "MICROTOME_SOURCES": str(self.state / "slides"),
            "MICROTOME_OUTPUT": str(self.state / "results"),
            "MICROTOME_INTAKE_TOKEN_FILE": str(self.state / "intake-token"),
            **forks.ENVIRONMENT,
        }
        if "MICROTOME_PREFECT_RESULTS" in self.given:
            # The block is made when the deployments are registered.
            defaults["PREFECT_RESULTS_PERSIST_BY_DEFAULT"] = "true"
            defaults["PREFECT_DEFAULT_RESULT_STORAGE_BLOCK"] = "remote-file-system/microtome-results"
        ours = {
            # Never a server that the shell happens to know: the deployments would be registered there.
            "PREFECT_API_URL": f"{self.pages}/api",
            begin.VARIABLE: str(self.state / "run" / "starter"),
            # A run is started as `python`.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{self.given.get('PATH', os.defpath)}",
        }
        return {**defaults, **self.given, **ours}

    @cached_property
    def services(self) -> dict[str, list[str]]:
        """The command of each, in the order in which they start."""
        python, port = sys.executable, str(self.port("DASK", 8786))
        prefect = [python, "-m", "prefect", "--no-prompt"]
        host = ["--host", "127.0.0.1"]
        dashboard = f"127.0.0.1:{self.port('DASK_PAGES', 8787)}"
        return {
            "server": [*prefect, "server", "start", *host, "--port", str(self.prefect_port)],
            "dask-scheduler": [
                *(python, "-m", "distributed.cli.dask_scheduler", *host, "--port", port),
                *("--dashboard-address", dashboard),
            ],
            "dask-worker": [
                *(python, "-m", "distributed.cli.dask_worker", self.scheduler, *host, "--nthreads", "1"),
                *("--nworkers", self.given.get("MICROTOME_WORKERS", str(cores()))),
                *("--preload", "microtome.preload", "--local-directory", str(self.state / "dask")),
                "--no-dashboard",
            ],
            "starter": [python, "-m", "deployments.starter"],
            "worker": [python, "-m", "deployments.worker"],
            "intake": [python, "-m", "deployments.intake", "--port", str(self.intake_port)],
            "exporter": [python, "-m", "deployments.exporter", "--port", str(self.exporter_port)],
        }


def up(lab: Lab) -> None:
    """Start what does not run yet, register the deployments, say where everything is."""
    prepare(lab)
    for name in lab.services:
        start(lab, name)
        if name == "server":
            wait_for(f"{lab.pages}/api/health", lab, name)
            register(lab)
    wait_for(f"http://127.0.0.1:{lab.intake_port}/readyz", lab, "intake")
    say(
        f"pages    {lab.pages}\n"
        f"prefect  export PREFECT_API_URL={lab.pages}/api\n"
        f"intake   http://127.0.0.1:{lab.intake_port}/events, token in {lab.state / 'intake-token'}\n"
        f"slides   {lab.environment['MICROTOME_SOURCES']} -> {lab.environment['MICROTOME_OUTPUT']}\n"
        f"logs     {lab.state / 'logs'}        to stop: make down"
    )


def down(lab: Lab) -> None:
    """Stop what runs, the last started first. A run that goes on is resumed by the next."""
    for name in reversed(lab.services):
        if (pid := running(lab, name)) is not None:
            stop(pid)
        _pid_file(lab, name).unlink(missing_ok=True)


def run(lab: Lab, name: str) -> None:
    """Become a service; does not return."""
    prepare(lab)
    os.chdir(ROOT)
    command = lab.services[name]
    os.execve(command[0], command, lab.environment)


def prepare(lab: Lab) -> None:
    """Folders, the authority, and a token that only the owner can read."""
    for folder in ("prefect", "logs", "run", "dask"):
        (lab.state / folder).mkdir(parents=True, exist_ok=True)
    for place in (*lab.environment["MICROTOME_SOURCES"].split(","), lab.environment["MICROTOME_OUTPUT"]):
        if place.strip().startswith(str(lab.state)):
            Path(place.strip()).mkdir(parents=True, exist_ok=True)
    if not (lab.state / AUTHORITY).exists():
        first, end, _ = certifi.contents().partition("-----END CERTIFICATE-----")
        (lab.state / AUTHORITY).write_text(f"{first}{end}\n")
    token = lab.state / "intake-token"
    if not token.exists():
        with os.fdopen(os.open(token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")


def register(lab: Lab) -> None:
    """Tell the server of pool, queues and deployments; what is there is brought up to date."""
    command = [sys.executable, "-m", "deployments.register"]
    done = subprocess.run(command, cwd=ROOT, env=lab.environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: the deployments cannot be registered\n{done.stdout}{done.stderr}")


def start(lab: Lab, name: str) -> None:
    """In a session of its own: it outlives the terminal."""
    if running(lab, name) is not None:
        return
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's background job does. What it starts would too, and Prefect's worker ends by it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with (lab.state / "logs" / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            lab.services[name],
            cwd=ROOT,
            env=lab.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _pid_file(lab, name).write_text(f"{process.pid} {_began(process.pid)}")


def running(lab: Lab, name: str) -> int | None:
    """Process id of a service that this installation started and that still runs."""
    try:
        pid, began = _pid_file(lab, name).read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    # After a reboot the number may be that of something else.
    return int(pid) if _began(int(pid)) == began else None


def stop(pid: int) -> None:
    """Ask; insist after a while."""
    end_s = time.monotonic() + STOPS_WITHIN_S
    began = _began(pid)
    os.killpg(pid, signal.SIGTERM)
    while _began(pid) == began:
        if time.monotonic() > end_s:
            os.killpg(pid, signal.SIGKILL)
            return
        time.sleep(0.1)


def wait_for(address: str, lab: Lab, name: str) -> None:
    """Until a service answers; ends this program when it has ended or does not answer."""
    end_s = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < end_s and running(lab, name) is not None:
        try:
            if httpx.get(address, timeout=5).is_success:
                return
        except httpx.HTTPError:
            pass  # not listening yet
        time.sleep(0.3)
    sys.exit(f"error: {name} does not answer; its log is {lab.state / 'logs' / name}.log")


def units(lab: Lab) -> str:
    """Every service as a systemd unit of a user, one file after the other."""
    parts = []
    for name in lab.services:
        after = "" if name == "server" else "After=microtome-server.service\n"
        command = shlex.join([sys.executable, "-m", "deployments.lab", "run", name])
        unit = (
            f"[Unit]\nDescription=Microtome: {name}\n{after}\n"
            f'[Service]\nWorkingDirectory={ROOT}\nEnvironment="MICROTOME_STATE={lab.state}"\n'
            f"ExecStart={command}\nRestart=always\nRestartSec=5\n\n"
            "[Install]\nWantedBy=default.target\n"
        )
        # To systemd a % begins a specifier.
        parts.append(f"# ~/.config/systemd/user/microtome-{name}.service\n" + unit.replace("%", "%%"))
    return "\n".join(parts)


def _assignments(path: Path) -> dict[str, str]:
    """NAME=VALUE, one a line, as systemd's EnvironmentFile has them."""
    if not path.is_file():
        return {}
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip().strip('"') for name, _, value in pairs}


def _pid_file(lab: Lab, name: str) -> Path:
    return lab.state / "run" / f"{name}.pid"


def _began(pid: int) -> str | None:
    """When a process began, clock ticks since the boot; None for one that ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else fields[18]


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main() -> None:
    """The command line of the installation."""
    parser = argparse.ArgumentParser(description="A small lab's installation on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start everything")
    commands.add_parser("down", help="stop everything")
    commands.add_parser("units", help="print systemd units")
    one = commands.add_parser("run", help="one service in the foreground")
    one.add_argument("name")
    options = parser.parse_args()
    lab = Lab.of(os.environ)
    try:
        if options.command == "up":
            up(lab)
        elif options.command == "down":
            down(lab)
        elif options.command == "units":
            say(units(lab))
        elif options.name in lab.services:
            run(lab, options.name)
        else:
            parser.error(f"no service {options.name}; there are {', '.join(lab.services)}")
    except MicrotomeError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
