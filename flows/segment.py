"""One slide, from file to published result: the recipe, as people see it in Prefect."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import PurePosixPath
from typing import Literal

from prefect import flow, get_client
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from flows.own_cluster import OwnCluster, own_cluster
from microtome.claim import claimed
from microtome.cluster import ClusterSpec, connect
from microtome.errors import MicrotomeError, SlideReplaced
from microtome.inbox import look
from microtome.model import find_model, read_card
from microtome.options import Options
from microtome.pipeline import State, guarded, prepare, result_uri
from microtome.report.summary import Summary, read_summary
from microtome.stages.run import Run
from tasks.chunk import chunk
from tasks.engine import StageTask
from tasks.export import export
from tasks.figures import of_plan, write_figures
from tasks.infer import infer
from tasks.publish import publish
from tasks.pyramid import pyramid
from tasks.stitch import stitch
from tasks.summary import show_summary

TASKS: tuple[StageTask, ...] = (chunk, infer, stitch, pyramid, export, publish)


def run_name() -> str:
    """`S-001.svs · he-nuclei 1.0`: by slide and model."""
    parameters = flow_run.parameters
    name = PurePosixPath(str(parameters["slide"]).rstrip("/")).name
    try:
        card = read_card(find_model(parameters.get("model")))
    except MicrotomeError:
        return name  # the run itself will say what is wrong with the model
    return f"{name} · {card.name} {card.version}"


@flow(name="segment-slide", flow_run_name=run_name)
def segment_slide(
    slide: str,
    output: str = "results",
    model: str | None = None,
    mpp: float | None = None,
    precision: Literal["auto", "f32", "bf16", "int8"] = "auto",
    tissue: str | None = None,
    no_tissue: bool = False,
    pixels: Literal["lossless", "source", "none"] | None = None,
    ngff: Literal["0.5", "0.4"] = "0.5",
    shard_size: int | None = None,
    on_bad_tile: Literal["fail", "blank"] = "fail",
    scheduler: str | None = None,
    overwrite: bool = False,
    version: str | None = None,
) -> Summary:
    """Find every nucleus of a slide and publish NAME.ome.zarr.

    Given again, it does only what is missing.

    Args:
        slide: The slide: a path that the workers see too, a folder of DICOM, or s3://...
        output: Folder or s3:// prefix in which NAME.ome.zarr is made.
        model: Folder of a model, s3://... or the name of a shipped one; left out, the default.
        mpp: um/px of the finest level, where the file is silent or wrong.
        precision: What the network computes in; auto takes the fastest on the machine that plans.
        tissue: GeoJSON or mask image that says where the tissue is; left out, it is found.
        no_tissue: Look for nuclei everywhere, glass too.
        pixels: What the result keeps of the pixels; source: the slide's own JPEG tiles, copied, the
            default from 5 gigapixels on.
        ngff: Version of OME-NGFF; 0.4 for older readers, QuPath 0.7 among them.
        shard_size: Side of a shard in px; left out, by the slide's size.
        on_bad_tile: Tiles that cannot be decoded: stop (fail), or take them as glass (blank).
        scheduler: Address of a Dask scheduler, tcp://host:8786; left out, the one of the installation
            (MICROTOME_SCHEDULER), or a cluster on this machine.
        overwrite: Replace a finished result, or one of another plan.
        version: Which version of the slide is meant; filled in by uploads, leave it empty.
    """
    # Google's docstring style, here alone: Prefect makes the help texts of its form of it.
    options = Options(
        model=model,
        mpp=mpp,
        precision=precision,
        tissue=tissue,
        no_tissue=no_tissue,
        ngff=ngff,
        pixels=pixels,
        shard_px=shard_size,
        on_bad_tile=on_bad_tile,
    )
    logger = get_run_logger()
    with claimed(result_uri(slide, output), lambda: logger.info("another run makes this result")) as claim:
        if version is not None and str(look(slide).id) != version:
            raise SlideReplaced(slide)
        prepared = prepare(slide, output, options, overwrite=overwrite, claim=claim)
        run = prepared.run
        logger.info(f"{run.store.uri}: {prepared.state}")
        tag_with(f"model:{run.plan.model.name}-{run.plan.model.version}")
        write_figures(of_plan(run.plan))
        if prepared.state is not State.DONE:
            with (
                scheduler_for(run, scheduler) as address,
                connect(ClusterSpec(scheduler=address)) as cluster,
                guarded(prepared),
            ):
                cluster.at_once([partial(task, run, cluster) for task in TASKS])
        summary = read_summary(run.store)
        show_summary(run, summary)
        return summary


@contextmanager
def scheduler_for(run: Run, told: str | None) -> Iterator[str | None]:
    """Address of the scheduler that a run uses; None for a cluster on this machine."""
    address = told or os.environ.get("MICROTOME_SCHEDULER")
    own = None if address else OwnCluster.of(os.environ)
    if own is None:
        yield address
        return
    with own_cluster(own, str(flow_run.id), len(run.shards_with_tissue())) as address:
        yield address


def tag_with(tag: str) -> None:
    """Add a tag to the flow run that is going on."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, tags={*flow_run.tags, tag})
