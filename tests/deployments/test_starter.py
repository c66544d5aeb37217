"""What begin.py stands for is as a process of its own would be; forked, killed, or without a starter."""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from prefect.settings import get_current_settings

from deployments import starter as starter_module
from deployments.begin import reached
from deployments.imported import Asked, Imported
from deployments.lab import ROOT
from tests.waiting import until

BECOMES_CODE = """
import os, sys
from deployments.starter import Starter, taken_over

def become(files):
    asked = taken_over(files)
    exec(asked.environment["CODE"])
    sys.exit()

Starter(sys.argv[1], become).serve()
"""
"""A starter whose processes do not run flows of Prefect's, but what the variable CODE says."""
BEGIN = [sys.executable, "-m", "deployments.begin"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Of the starter's socket; longer than an address of a socket can be."""
    folder = tmp_path_factory.mktemp("a long name" * 10)
    return folder / "starter"


@pytest.fixture(scope="module")
def starter(place):
    """Its process."""
    with started(place, [sys.executable, "-c", BECOMES_CODE, str(place)]) as process:
        yield process


@contextmanager
def started(place, command, environment=None, **options):
    """A starter for the block: its process."""
    process = psutil.Popen(command, cwd=ROOT, env=environment, **options)
    try:
        until(lambda: answers(place), 60, "the starter")
        yield process
    finally:
        process.kill()
        process.wait(30)


def answers(place):
    try:
        reached(str(place)).close()
    except OSError:
        return False
    return True


def begin(place, code, **options):
    """`python -m deployments.begin`, running, with its output piped."""
    environment = {**os.environ, "MICROTOME_STARTER": str(place), "CODE": textwrap.dedent(code)}
    return subprocess.Popen(BEGIN, env=environment, stdout=subprocess.PIPE, text=True, **options)


def test_it_gets_environment_folder_input_and_outputs(starter, place, tmp_path):
    code = """
        os.umask(umask := os.umask(0))
        print(os.environ["ONE_MORE"], os.getcwd(), sys.stdin.read(), os.getppid(), oct(umask))
        print("an error", file=sys.stderr)
    """
    environment = {**os.environ, "MICROTOME_STARTER": str(place), "CODE": textwrap.dedent(code)}
    environment["ONE_MORE"] = "é = ü\n"
    done = subprocess.run(
        BEGIN,
        env=environment,
        cwd=tmp_path,
        input="what comes in",
        capture_output=True,
        text=True,
        umask=0o027,
    )
    assert done.stdout.rstrip() == f"é = ü\n {tmp_path} what comes in {starter.pid} 0o27"
    assert done.stderr == "an error\n"
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("sys.exit(7)", 7),
        ("raise ConnectionError('as Python ends by it')", 1),
        ("os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("os.abort()", -signal.SIGABRT),
    ],
)
def test_it_ends_as_the_run_does(starter, place, code, status):
    with begin(place, code, stderr=subprocess.DEVNULL) as process:
        assert process.wait(30) == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on(starter, place, number):
    code = """
        import signal, time
        def told(number, frame):
            print("told", number, flush=True)
            sys.exit(3)
        signal.signal(signal.SIGTERM, told)
        signal.signal(signal.SIGINT, told)
        print("ready", flush=True)
        time.sleep(60)
    """
    with begin(place, code) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == f"told {number}\n"
        assert process.wait(30) == 3


ENDLESS = """
    import time
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


def test_who_is_killed_kills_its_run_and_no_other(starter, place):
    files = starter.num_fds()
    with begin(place, ENDLESS) as killed, begin(place, ENDLESS) as other:
        mine, others = (int(process.stdout.readline()) for process in (killed, other))
        killed.kill()
        until(lambda: not psutil.pid_exists(mine), 10, "the end of its run")
        assert psutil.pid_exists(others)
        other.terminate()
        assert other.wait(30) == -signal.SIGTERM
    until(lambda: starter.num_fds() == files, 10, "that nothing is kept open")
    assert not starter.children(), "nor any process that has ended"


def test_a_starter_that_is_stuck_is_not_waited_for_and_starts_nothing_when_it_goes_on(
    starter, place, tmp_path
):
    began, said = tmp_path / "began", tmp_path / "said"
    starter.suspend()
    try:
        # Not piped: the starter holds what was sent to it.
        with said.open("w") as stderr:
            subprocess.run(
                [
                    sys.executable,
                    "-c",
                    "from deployments import begin; begin.ANSWERS_WITHIN_S = 1; begin.main()",
                ],
                env={**os.environ, "MICROTOME_STARTER": str(place), "CODE": f"open({str(began)!r}, 'x')"},
                stderr=stderr,
            )
    finally:
        starter.resume()
    assert "timed out" in said.read_text()
    assert "Invalid flow run id" in said.read_text()
    until(lambda: not starter.children(), 10, "the end of the process that nobody waits for")
    with begin(place, "sys.exit(5)") as process:
        assert process.wait(30) == 5
    assert not began.exists()


def test_what_is_no_signal_stops_nobody(starter, place):
    with begin(place, ENDLESS) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        with reached(str(place)) as connection:
            read, write = os.pipe()
            socket.send_fds(connection, [b"?"], [read] * 5)
            connection.recv(4)
            connection.send(bytes([200]))
            for file in (read, write):
                os.close(file)
        assert process.wait(30) == -signal.SIGTERM
    with begin(place, "sys.exit(5)") as process:
        assert process.wait(30) == 5


def test_one_who_asks_for_nothing_gets_nothing_and_the_next_is_served(starter, place):
    with reached(str(place)) as connection:
        connection.send(b"?")
        assert connection.recv(1) == b""
    with begin(place, "sys.exit(5)") as process:
        assert process.wait(30) == 5


def test_only_its_user_reaches_it(starter, place):
    assert place.stat().st_mode & 0o777 == 0o600


def test_a_starter_that_is_killed_takes_its_runs_along(tmp_path):
    place = tmp_path / "starter"
    with started(place, [sys.executable, "-c", BECOMES_CODE, str(place)]) as starter:
        with begin(place, ENDLESS, stderr=subprocess.PIPE) as process:
            run = int(process.stdout.readline())
            until(lambda: handles_signals(process.pid), 10, "that it stands for the run")
            starter.kill()
            assert process.wait(30) == 1
            assert process.stderr.read() == "the starter has ended, and this run with it\n"
        until(lambda: not psutil.pid_exists(run), 10, "the end of the run")


def handles_signals(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(re.search(r"^SigCgt:\s+([0-9a-f]+)$", status, re.MULTILINE)[1], 16)
    return caught >> (signal.SIGTERM - 1) & 1


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """(the lab's starter, running; the environment of one who asks it)."""
    place = tmp_path_factory.mktemp("real") / "starter"
    told = {"MICROTOME_STARTER": str(place), "PREFECT__FLOW_RUN_ID": "no id", "OPENBLAS_NUM_THREADS": "1"}
    # As Prefect's worker does.
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    environment = {**os.environ, **told, **settings}
    with (place.parent / "log").open("w") as log:
        command = [sys.executable, "-m", "deployments.starter"]
        with started(place, command, environment, stderr=log) as process:
            yield process, environment


def engine(environment):
    """Prefect's engine by way of begin.py, which refuses the id of the run: its stderr."""
    done = subprocess.run(BEGIN, env=environment, capture_output=True, text=True)
    assert "Invalid flow run id" in done.stderr
    assert done.returncode == 1
    return done.stderr


def test_it_is_prefects_engine_that_runs(real):
    _, environment = real
    log = Path(environment["MICROTOME_STARTER"]).parent / "log"
    before = log.read_text().count("for a run")
    assert "of its own" not in engine(environment)
    assert log.read_text().count("for a run") == before + 1


def test_python3_of_the_same_environment_is_the_same(real):
    _, environment = real
    command = [str(Path(sys.executable).with_name("python3")), *BEGIN[1:]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "Invalid flow run id" in done.stderr
    assert "of its own" not in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "9s"),
        ("PREFECT_LOGGING_LEVEL", "DEBUG"),
        ("FSSPEC_S3_ANON", "1"),
    ],
)
def test_a_run_with_other_settings_has_a_process_of_its_own(real, name, value):
    _, environment = real
    assert f"lacks {name}\n" in engine({**environment, name: value})


def test_without_a_starter_there_is_a_process_of_its_own(tmp_path):
    told = {"MICROTOME_STARTER": str(tmp_path / "nothing"), "PREFECT__FLOW_RUN_ID": "no id"}
    assert f"no process from the starter at {tmp_path / 'nothing'}" in engine({**os.environ, **told})


def test_nothing_that_is_imported_has_a_thread_but_arrow(real):
    # A lock that another thread holds when a process is forked stays locked there for good.
    process, _ = real
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    names = sorted((task / "comm").read_text().strip() for task in tasks)
    assert [name for name in names if name != "jemalloc_bg_thd"] == ["python"]


def test_what_has_changed_on_the_disk_is_imported_anew(tmp_path):
    module = tmp_path / "module.py"
    module.touch()
    imported = Imported({}, {str(module): module.stat().st_mtime_ns})
    asked = Asked(sys.executable, str(tmp_path), 0, {})
    assert imported.lacks(asked) is None
    os.utime(module, ns=(0, 1))
    assert str(module) in imported.lacks(asked)
    module.unlink()
    assert str(module) in imported.lacks(asked)


def test_it_looks_after_our_modules_and_knows_its_interpreter():
    paths = ("flows/segment.py", "tasks/infer.py", "microtome/plan.py")
    ours = {starter_module.__file__, *(str(ROOT / path) for path in paths)}
    assert ours <= Imported.here().written_ns.keys()
    assert Imported.here().lacks(Asked("/usr/bin/python", "/", 0, {})) == "/usr/bin/python"
