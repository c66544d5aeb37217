"""What a stage's name for its work stands for, and who imports it."""

import subprocess
import sys
from pkgutil import resolve_name

from microtome import stages
from microtome.stages import stitch

PLAN = """
import sys
import microtome.cli, microtome.batch
from microtome.options import Options
from microtome.plan import make_plan

make_plan(sys.argv[1], Options(mpp=0.25, precision="f32"))
print(*sys.modules)
"""
HEAVY = {"numba", "llvmlite", "pyarrow", "shapely", "openvino", "microtome.work"}
"""A third of the time that all imports take."""


def test_every_stage_names_a_function_for_its_work():
    works = [stage.WORK for stage in stages.STAGES] + [stitch.PAINT_WORK]
    assert all(callable(resolve_name(work)) for work in works)


def test_a_slide_is_planned_without_what_only_workers_need(field):
    command = [sys.executable, "-c", PLAN, str(field)]
    imported = set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert {"microtome", "cv2", "distributed"} <= imported
    assert not HEAVY & imported


def test_the_program_is_small_as_each_worker_imports_it_again():
    command = [sys.executable, "-c", "import sys, microtome.__main__; print(*sys.modules)"]
    imported = set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert "multiprocessing.forkserver" in imported
    assert not {"typer", "numpy"} & imported
