"""The command line: parse, call, show; no logic of its own."""

import gc
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from microtome import __version__
from microtome.errors import MicrotomeError
from microtome.importing import without_collector
from microtome.options import BadTileOption, Ngff, Options, PixelsOption, PrecisionOption

app = typer.Typer(
    help="A pathology slide in; every nucleus found and outlined, and a labelled OME-Zarr pyramid out. "
    "For research, not for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models = typer.Typer(help="Import a model, make its int8 twin, score it.", no_args_is_help=True)
app.add_typer(models, name="model")

USERS_MISTAKE, OURS, INTERRUPTED = 2, 1, 130

Slides = Annotated[list[str], typer.Argument(metavar="SLIDE", help="Path, folder of DICOM, or s3://…")]
Out = Annotated[str, typer.Option("-o", "--output", metavar="OUTDIR", help="Makes OUTDIR/NAME.ome.zarr.")]
MODEL_HELP = "Folder of a model, s3://…, or the name of a shipped one"
Model = Annotated[str | None, typer.Option(metavar="MODEL", help=f"{MODEL_HELP}; by default he-nuclei.")]
MppOption = Annotated[
    float | None, typer.Option("--mpp", help="um/px of level 0, if the file is silent or wrong.")
]
PrecisionChoice = Annotated[
    PrecisionOption,
    typer.Option(help="What the network computes in; auto: the fastest here that the card shows exact."),
]
Tissue = Annotated[
    str | None, typer.Option(metavar="FILE", help="GeoJSON or mask image that says where the tissue is.")
]
NoTissue = Annotated[bool, typer.Option("--no-tissue", help="Look for nuclei everywhere, glass too.")]
GivenModel = Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODEL_HELP}.")]
Result = Annotated[str, typer.Argument(metavar="RESULT", help="NAME.ome.zarr: a folder, or s3://…")]
ShardSize = Annotated[
    int | None, typer.Option("--shard-size", metavar="PX", help="Side of a shard; by the slide's size.")
]
PixelsChoice = Annotated[
    PixelsOption | None,
    typer.Option(
        help="What the result keeps of the pixels; source: the slide's own JPEG tiles, copied, "
        "the default from 5 gigapixels on.",
    ),
]
NgffChoice = Annotated[Ngff, typer.Option(help="0.4 for older readers, QuPath 0.7 among them.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a finished result, or one of another plan.")
]
OnBadTile = Annotated[
    BadTileOption,
    typer.Option("--on-bad-tile", help="Tiles that cannot be decoded: stop, or glass."),
]


@app.callback(invoke_without_command=True)
def top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"microtome {__version__}")
        raise typer.Exit


@app.command()
def segment(
    slides: Slides,
    output: Out,
    model: Model = None,
    mpp: MppOption = None,
    precision: PrecisionChoice = "auto",
    tissue: Tissue = None,
    no_tissue: NoTissue = False,
    ngff: NgffChoice = "0.5",
    pixels: PixelsChoice = None,
    workers: Annotated[int | None, typer.Option(help="Processes here; one a core by default.")] = None,
    scheduler: Annotated[str | None, typer.Option(metavar="tcp://…", help="A Dask cluster.")] = None,
    overwrite: Overwrite = False,
    shard_size: ShardSize = None,
    on_bad_tile: OnBadTile = "fail",
    json: Annotated[bool, typer.Option("--json", help="The summary on stdout, and nothing else.")] = False,
) -> None:
    """Find every nucleus of one slide or many."""
    with without_collector():
        from microtome.batch import segment_slides
        from microtome.cluster import ClusterSpec

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
    spec = ClusterSpec(scheduler=scheduler, workers=workers)
    raise typer.Exit(segment_slides(slides, output, options, spec, overwrite=overwrite, as_json=json))


@app.command()
def submit(
    slide: Annotated[str, typer.Argument(metavar="SLIDE", help="Path that the worker sees too, or s3://…")],
    output: Out,
    model: Model = None,
    mpp: MppOption = None,
    precision: PrecisionChoice = "auto",
    tissue: Tissue = None,
    no_tissue: NoTissue = False,
    ngff: NgffChoice = "0.5",
    pixels: PixelsChoice = None,
    overwrite: Overwrite = False,
    shard_size: ShardSize = None,
    on_bad_tile: OnBadTile = "fail",
    wait: Annotated[
        bool, typer.Option("--wait", help="Until the run ends: exit 0 if it was completed.")
    ] = False,
) -> None:
    """Give a slide to Prefect; print the run's address.

    The server is the one of PREFECT_API_URL, http://127.0.0.1:4200/api by default.
    """
    from microtome.submit import PrefectApi

    api = PrefectApi()
    run = api.submit(
        slide,
        output,
        {
            "model": model,
            "mpp": mpp,
            "precision": precision,
            "tissue": tissue,
            "no_tissue": no_tissue,
            "ngff": ngff,
            "pixels": pixels,
            "overwrite": overwrite,
            "shard_size": shard_size,
            "on_bad_tile": on_bad_tile,
        },
    )
    print(run.url, flush=True)
    if wait:
        completed, message = api.wait(run)
        print(message, file=sys.stdout if completed else sys.stderr)
        raise typer.Exit(0 if completed else OURS)


@app.command()
def inspect(
    slide: Annotated[str, typer.Argument(metavar="SLIDE", help="Path, folder of DICOM, or s3://…")],
    model: Model = None,
    mpp: MppOption = None,
    precision: PrecisionChoice = "auto",
    tissue: Tissue = None,
    no_tissue: NoTissue = False,
    pixels: PixelsChoice = None,
    shard_size: ShardSize = None,
    on_bad_tile: OnBadTile = "fail",
) -> None:
    """Format, levels, um/px, tissue, and what a run would cost."""
    from microtome.inspection import inspect_slide

    options = Options(
        model=model,
        mpp=mpp,
        precision=precision,
        tissue=tissue,
        no_tissue=no_tissue,
        pixels=pixels,
        shard_px=shard_size,
        on_bad_tile=on_bad_tile,
    )
    print(inspect_slide(slide, options))


@app.command()
def verify(result: Result) -> None:
    """Is this result whole and valid? Exit 1 and every reason if not."""
    from microtome.testing import verify_result

    verification = verify_result(result)
    print(verification)
    raise typer.Exit(0 if verification.ok else OURS)


@app.command()
def export(
    result: Result,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help="Replaced if it is there; .gz is compressed."),
    ],
    format: Annotated[
        Literal["geojson", "geoparquet", "csv"] | None, typer.Option(help="By default as FILE ends.")
    ] = None,
) -> None:
    """Write the nuclei of a result in another format."""
    from microtome.export import Format, export_result

    print(f"{export_result(result, Format(format) if format else None, output):,} nuclei in {output}")


@app.command()
def doctor() -> None:
    """CPU features, precision that is used, versions, memory, disk."""
    from microtome.doctor import examine

    print(examine())


@models.command("import")
def import_model(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A StarDist model folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Folder to make.")],
    name: Annotated[str | None, typer.Option(help="By default the folder's name.")] = None,
    mpp: Annotated[float | None, typer.Option(help="um/px that the network was trained at.")] = None,
    percentiles: Annotated[
        str | None,
        typer.Option(metavar="LOW,HIGH", help="Of the slide's pixels, seen as 0 and 1; LOW `none`: 0 is 0."),
    ] = None,
) -> None:
    """Turn a StarDist model folder into one of microtome's.

    TensorFlow is not needed.
    """
    from microtome.stardist_import import About, import_stardist, parse_percentiles

    normalisation = parse_percentiles(percentiles) if percentiles is not None else None
    card = import_stardist(
        folder, output, About(name=name or folder.name, mpp=mpp, normalisation=normalisation)
    )
    for assumption in card.assumptions:
        print(f"taken for granted: {assumption}")
    print(f"{card.name} {card.version} in {output}: {', '.join(card.precisions)}")


@models.command()
def quantize(
    model: GivenModel,
    images: Annotated[Path, typer.Option(metavar="FOLDER", help="Labelled images: images/ and masks/.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Folder to make.")],
    split: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON that names the images to train and to validate on."),
    ] = None,
) -> None:
    """Make a model's int8 twin and measure what it costs in accuracy."""
    from microtome.model import find_model
    from microtome.quantize import quantize as quantize_model

    print(quantize_model(find_model(model), images, output, split))


@models.command("evaluate")
def evaluate_model(
    model: GivenModel,
    images: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Labelled images: images/ and masks/, or sets of them.")
    ],
    split: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON that names the images to validate on.")
    ] = None,
    precision: PrecisionChoice = "auto",
    json: Annotated[bool, typer.Option("--json", help="All scores on stdout, and nothing else.")] = False,
) -> None:
    """How many known nuclei a model finds, by set of images."""
    from microtome.evaluation import evaluate
    from microtome.model import Precision

    chosen = None if precision == "auto" else Precision(precision)
    evaluation = evaluate(model, images, split, chosen)
    print(evaluation.to_json() if json else evaluation)


def main() -> None:
    """Errors of the user's become one sentence and exit code 2."""
    with _interruptible():
        try:
            app()
        except MicrotomeError as error:
            _fail(f"error: {error}", USERS_MISTAKE)
        except Interrupted:
            _fail("interrupted; what is finished is kept: to go on, give the same command again", INTERRUPTED)
        finally:
            gc.freeze()  # or the interpreter looks through a million objects before it ends: 0.2 s


def _fail(sentence: str, code: int) -> NoReturn:
    print(sentence, file=sys.stderr, flush=True)
    sys.exit(code)


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM; typer would swallow a KeyboardInterrupt and say `Aborted.`"""


@contextmanager
def _interruptible() -> Iterator[None]:
    def interrupt(signum: int, frame: object) -> None:
        for name in before:
            signal.signal(name, signal.SIG_IGN)  # once is enough: what is under way is ended in order
        raise Interrupted

    before = {name: signal.signal(name, interrupt) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
