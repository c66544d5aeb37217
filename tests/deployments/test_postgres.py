"""PostgreSQL by one setting: a real server of it below a real installation."""

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deployments.labs import OF_AN_INSTALLATION, Api, lab_in
from tests.s3 import free_port

pytestmark = OF_AN_INSTALLATION


@contextmanager
def postgres(folder):
    """A server with a database of its own; its address."""
    # It refuses to run as root.
    user = {"user": "postgres"} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(folder, "postgres")
    port = free_port()

    def run(*words):
        subprocess.run(words, check=True, capture_output=True, cwd=folder, **user)

    run("initdb", "--auth=trust", "--username=microtome", "--no-sync", "-D", str(folder / "data"))
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = ("pg_ctl", "-w", "-D", str(folder / "data"))
    run(*control, "-l", str(folder / "log"), "-o", options, "start")
    try:
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "microtome", "prefect")
        yield f"postgresql+asyncpg://microtome@127.0.0.1:{port}/prefect"
    finally:
        run(*control, "-m", "fast", "stop")


@pytest.fixture(scope="module")
def database():
    if os.environ.get("MICROTOME_TEST_POSTGRES") is None:
        pytest.skip("takes a minute and a PostgreSQL; asked for with MICROTOME_TEST_POSTGRES=1")
    # pytest's own folders are closed to another user.
    with tempfile.TemporaryDirectory(prefix="microtome-postgres-") as folder, postgres(Path(folder)) as url:
        yield url


def test_with_one_setting_the_installation_keeps_its_runs_in_postgresql(
    database, shared_data, slides, tmp_path
):
    told = {"PREFECT_API_DATABASE_CONNECTION_URL": database, "MICROTOME_WORKERS": "1"}
    (tmp_path / "a.tif").write_bytes(slides(0))
    with lab_in(tmp_path / "lab", shared_data, **told) as (lab, _):
        api = Api(lab)
        run = api.start("segment-slide/on-demand", slide=str(tmp_path / "a.tif"), output=str(tmp_path))
        assert api.ended(run)["state"]["type"] == "COMPLETED"
        kept = subprocess.run(
            ["psql", database.replace("+asyncpg", ""), "-Atc", "select id, state_type from flow_run"],
            check=True,
            capture_output=True,
            text=True,
        )
        assert f"{run}|COMPLETED" in kept.stdout.splitlines()
        assert list((tmp_path / "lab").rglob("prefect.db")) == []
