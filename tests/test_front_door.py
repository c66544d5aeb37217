"""What a newcomer's first commands rest on: lock, declared dependencies, wheel, a cheap import."""

import ast
import re
import subprocess
import sys
import threading
import tomllib
import urllib.error
import urllib.request
import zipfile
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import microtome

ROOT = Path(__file__).resolve().parent.parent
OURS = {"microtome", "tasks", "flows", "deployments", "scripts", "drawn_slide", "tests"}
ELSEWHERE = {"csbdeep", "ngff_zarr", "pyvips", "stardist", "tensorflow"}
"""What we compare with runs in environments of its own."""
TRAINER = ROOT / "microtome" / "train_stardist.py"
"""Runs in an environment of its own: see requirements-train.in."""


def pyproject() -> dict[str, dict]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def names(requirements: list[str]) -> set[str]:
    return {Requirement(line).name.lower().replace("_", "-") for line in requirements}


def declared(*extras: str) -> set[str]:
    project = pyproject()["project"]
    return names(project["dependencies"]).union(*(names(project["optional-dependencies"][e]) for e in extras))


def third_party_imports(folder: Path) -> dict[str, Path]:
    """Top-level modules that the folder's code imports, each with a file that does."""
    beside = {path.stem for path in folder.iterdir() if path.is_dir() or path.suffix == ".py"}
    files = sorted({*folder.rglob("*.py")} - {TRAINER})
    return {m: path for path in files for m in imports(path) - OURS - ELSEWHERE - beside}


def imports(path: Path) -> set[str]:
    """Top-level modules that a file imports, without Python's own."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found - sys.stdlib_module_names


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("microtome", ["quantize"]),
        ("tasks", ["flows"]),
        ("flows", ["flows"]),
        ("deployments", ["flows"]),
        ("scripts", ["flows", "dev"]),
        ("tests", ["flows", "kubernetes", "quantize", "dev"]),
    ],
)
def test_every_import_is_a_declared_dependency(folder, extras):
    distributions = packages_distributions()
    allowed = declared(*extras)
    undeclared = {
        f"{module} ({path.relative_to(ROOT)})"
        for module, path in third_party_imports(ROOT / folder).items()
        if not {name.lower().replace("_", "-") for name in distributions.get(module, [])} & allowed
    }
    assert not undeclared


def test_what_trains_imports_what_its_environment_declares():
    lines = (ROOT / "requirements-train.in").read_text().splitlines()
    modules = {"scikit-image": "skimage", "tensorflow-cpu": "tensorflow"}
    declared_there = names([line for line in lines if not line.startswith("#")])
    # NumPy comes with each of them, in the version that suits them all.
    assert imports(TRAINER) - {"numpy"} == {modules.get(name, name) for name in declared_there}


def test_every_dependency_of_the_library_is_imported():
    distributions = packages_distributions()
    modules = third_party_imports(ROOT / "microtome")
    imported = {name.lower().replace("_", "-") for module in modules for name in distributions[module]}
    by_others = {
        "openslide-bin",  # the C library that openslide-python loads
        "s3fs",  # by which wsidicom reads from buckets
    }
    assert declared("quantize") - by_others <= imported


def test_import_microtome_loads_neither_openvino_nor_dask():
    code = "import sys, microtome; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "microtome" in loaded
    assert not {"openvino", "dask", "distributed", "prefect"} & set(loaded)


def test_prefect_does_not_import_a_grammar_of_addresses():
    # A second of every process of Prefect's: jsonschema takes it where some package has brought it along.
    code = "import sys, prefect.engine; print('rfc3987_syntax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_the_lock_names_no_index_and_hashes_every_package():
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.findall(r"https?://|--(?:extra-)?index-url|--find-links|file:", lock)
    packages = re.findall(r"^[a-z0-9][^\n]*==", lock, re.MULTILINE)
    hashed = re.findall(r"^[a-z0-9][^\n]*== ?[^\n]*\\\n +--hash=sha256:", lock, re.MULTILINE)
    assert len(packages) == len(hashed) > 100


def test_the_lock_holds_every_declared_dependency():
    lock = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*\])?==", lock, re.MULTILINE))
    assert declared(*pyproject()["project"]["optional-dependencies"]) <= locked


def test_the_environment_is_the_one_that_is_locked():
    lock = (ROOT / "requirements.lock").read_text()
    for name in ("zarr", "openvino", "distributed", "prefect"):
        assert re.search(rf"^{name}==(\S+)", lock, re.MULTILINE)[1] == version(name)


def test_the_version_is_written_once():
    assert "version" in pyproject()["project"]["dynamic"]
    assert version("microtome") == microtome.__version__


def test_the_base_install_needs_no_prefect():
    base = {Requirement(line).name for line in requires("microtome") if "extra ==" not in line}
    assert {"zarr", "openvino"} <= base
    assert not {"prefect", "nncf", "pytest"} & base


def test_the_wheel_holds_the_library_and_its_models_alone(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
    assert {"microtome/__init__.py", "microtome/cli.py", "microtome/py.typed"} <= set(files)
    assert {name.split("/")[0] for name in files} == {
        "microtome",
        f"microtome-{microtome.__version__}.dist-info",
    }
    assert [name for name in files if name.startswith("microtome/models/") and name.endswith("model.json")]


def test_a_second_setup_finds_nothing_to_do():
    subprocess.run(["sh", "scripts/setup.sh"], cwd=ROOT, capture_output=True, check=True)
    again = subprocess.run(["sh", "scripts/setup.sh"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert again.stdout == again.stderr == ""


@pytest.fixture
def served(tmp_path):
    from scripts.view import serve

    (tmp_path / "chunk").write_bytes(bytes(range(100)))
    with serve(tmp_path, port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ("bytes=10-19", range(10, 20)),
        ("bytes=90-", range(90, 100)),
        ("bytes=-4", range(96, 100)),
        ("bytes=95-200", range(95, 100)),
    ],
)
def test_view_serves_byte_ranges_to_any_origin(served, span, expected):
    request = urllib.request.Request(f"{served}/chunk", headers={"Range": span})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 206
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Content-Range"] == f"bytes {expected[0]}-{expected[-1]}/100"
        assert answer.read() == bytes(expected)


@pytest.mark.parametrize(
    ("path", "span", "status"), [("/chunk", "bytes=100-", 416), ("/missing", "bytes=0-1", 404)]
)
def test_view_refuses_what_is_not_there(served, path, span, status):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(served + path, headers={"Range": span}))
    refused.value.close()
    assert refused.value.code == status
