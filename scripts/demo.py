"""The main job on a slide that is drawn here, or on your own: `make demo`, `make demo SLIDE=path`.

It goes through the Prefect flow, with a server that Prefect starts for it and a Dask cluster of
this machine; `microtome segment` does the same without a server.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
from drawn_slide import Truth, draw_slide, score, truth_path
from drawn_slide.file import TILE_PX

from microtome.console import ProgressView
from microtome.costs import estimate
from microtome.cpu import cores, machine_record
from microtome.errors import MicrotomeError, ResultOfAnotherPlan
from microtome.export import TABLE
from microtome.options import Options
from microtome.pipeline import State, result_uri, state_of
from microtome.plan import Plan, make_plan
from microtome.report.summary import Summary, read_summary
from microtome.store import ResultStore
from microtome.testing import verify_result

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("demo")
SIZE_PX, SEED = 10_240, 7

PREFECT = {
    "PREFECT_HOME": str(ROOT / ".state" / "prefect"),
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    # Its server needs 17 s on two cores, more while something else runs.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # The stages show themselves as bars; Prefect keeps its own log all the same.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", help="a slide of yours; without it, one is drawn")
    parser.add_argument("--again", action="store_true", help="do it again, though it is done")
    parser.add_argument("--size-px", type=int, default=SIZE_PX, help="side of the drawn slide (%(default)s)")
    options = parser.parse_args()
    if options.size_px < TILE_PX:
        parser.error(f"--size-px is {options.size_px}, but must be at least {TILE_PX}")
    os.chdir(ROOT)
    try:
        slide = options.slide or str(drawn(options.size_px))
        plan = make_plan(slide, Options())
        store = ResultStore(result_uri(slide, str(FOLDER)))
        overwrite = options.again
        try:
            is_done = state_of(store, plan) is State.DONE and not overwrite
        except ResultOfAnotherPlan:
            if options.slide and not overwrite:
                again = f'make demo SLIDE="{slide}" ARGS=--again'
                print(
                    f"error: {store.uri} holds a result of another plan; replace it: {again}", file=sys.stderr
                )
                return 2
            # What is drawn here can be made again; what was found on a real slide is not thrown away.
            is_done, overwrite = False, True
        if is_done:
            show(store, read_summary(store), slide)
            print("it was done already; to do it again: make demo ARGS=--again")
            return 0
        print(sentence(plan), flush=True)
        summary = run_flow(slide, overwrite=overwrite)
        verification = verify_result(store.uri)
        if not verification.ok:
            print(verification, file=sys.stderr)
            return 1
        print(f"verified: {len(verification.passed)} checks")
        show(store, summary, slide)
    except MicrotomeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("Prefect kept this run: make up, then open the address that it prints")
    return 0


def drawn(size_px: int) -> Path:
    """The drawn slide; made if it is not there yet."""
    path = FOLDER / f"drawn-{size_px * size_px / 1e6:.0f}mp.svs"
    began = time.monotonic()
    if truth_path(path).exists():
        truth, made = Truth.load(truth_path(path)), "made before"
    else:
        truth = draw_slide(path, size_px, SEED)
        made = f"made in {time.monotonic() - began:.0f} s"
    print(
        f"slide  {path}, {size_px:,} x {size_px:,} px at 0.25 um/px, {len(truth):,} drawn nuclei "
        f"({made}, seed {SEED})",
        flush=True,
    )
    return path


def sentence(plan: Plan) -> str:
    with_tissue = sum(plan.tissue_mask.touches(shard.window) for shard in plan.grid)
    share = plan.tissue.area_px / (plan.height_px * plan.width_px)
    costs = estimate(plan, machine_record().instruction_set, cores())
    return (
        f"plan   {len(plan.grid)} shards, {with_tissue} with tissue ({share:.0%} of the slide); "
        f"{plan.model.name} {plan.model.version} in {plan.model.precision}; "
        f"about {costs.duration}, {costs.disk_bytes / 1e9:.2g} GB"
    )


def run_flow(slide: str, *, overwrite: bool) -> Summary:
    """The flow, watched by bars on this terminal."""
    for name, value in PREFECT.items():
        os.environ.setdefault(name, value)
    # Prefect makes this folder, but none above it, and without it its server never answers.
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    from flows.segment import segment_slide  # after its settings are in the environment
    from tasks.engine import watched_by

    with ProgressView(sys.stdout) as view, watched_by(view):
        return segment_slide(slide=slide, output=str(FOLDER), overwrite=overwrite)


def show(store: ResultStore, summary: Summary, slide: str) -> None:
    """What was found and where it lies."""
    line = f"{summary.nuclei:,} nuclei, {summary.nuclei_per_mm2:,.0f} per mm2 of tissue"
    if truth_path(Path(slide)).exists():
        columns = ["centre_y_px", "centre_x_px"]
        table = pyarrow.parquet.read_table(Path(store.uri) / TABLE, columns=columns)
        centres = np.stack([table[column].to_numpy() for column in columns], axis=1)
        found, not_drawn = score(Truth.load(truth_path(Path(slide))), centres)
        line += f"; {found:.1%} of the drawn ones found, {not_drawn:.1%} not drawn"
    result = os.path.relpath(store.uri)
    print(line)
    print(f"result {result}        report {result}/report/index.html")
    print(f"look   napari --plugin napari-ome-zarr {result}")
    print("       QuPath: drag tables/nuclei.geojson.gz onto the slide · browser: make view")


if __name__ == "__main__":
    sys.exit(main())
