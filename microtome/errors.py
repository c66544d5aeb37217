"""Every error a user can cause, with the way out in its text. Exit code 2 on the command line.

One class a cause. `super().__init__` gets what `__init__` got, or the error cannot be
unpickled from a worker.
"""

from pathlib import Path


class MicrotomeError(Exception):
    """A mistake in the input or the options: what, where, and what to do about it."""


class MissingExtra(MicrotomeError):
    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(feature, extra)
        self.feature, self.extra = feature, extra

    def __str__(self) -> str:
        return (
            f"{self.feature} needs more packages; `make setup` brings them, or in an environment of your "
            f"own: pip install 'CHECKOUT[{self.extra}]', with the folder of microtome's checkout"
        )


class OptionError(MicrotomeError):
    def __init__(self, option: str, value: object, expected: str) -> None:
        super().__init__(option, value, expected)
        self.option, self.value, self.expected = option, value, expected

    def __str__(self) -> str:
        return f"{self.option} is {self.value}, but must be {self.expected}"


class ClusterUnreachable(MicrotomeError):
    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return (
            f"no Dask scheduler answers at {self.address} ({self.reason}); "
            "check the address, or leave --scheduler out to run on this machine"
        )


class OwnClusterFailed(MicrotomeError):
    def __init__(self, cluster: str, reason: str) -> None:
        super().__init__(cluster, reason)
        self.cluster, self.reason = cluster, reason

    def __str__(self) -> str:
        return (
            f"Kubernetes gave this run no Dask cluster {self.cluster} ({self.reason}); look at "
            f"`kubectl describe daskclusters {self.cluster}` and the log of the Dask operator"
        )


class WorkersDied(MicrotomeError):
    def __init__(self, task: str, deaths: int, worker: str, limit_bytes: int) -> None:
        super().__init__(task, deaths, worker, limit_bytes)
        self.task, self.deaths, self.worker, self.limit_bytes = task, deaths, worker, limit_bytes

    def __str__(self) -> str:
        return (
            f"{self.task} ended {self.deaths} workers, the last of them {self.worker}, which may use "
            f"{self.limit_bytes / 1e9:.1f} GB; most likely that is too little memory. Give each worker more "
            "(fewer --workers, a higher memory limit), or take a smaller --shard-size. What is finished is "
            "kept: run the same command again"
        )


class StoppedBeside(MicrotomeError):
    """A stage that ran beside this one has failed, and says why."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"{self.name} was stopped: what ran beside it has failed. What is finished is kept"


class SlideDamaged(MicrotomeError):
    """All tiles of the slide that cannot be decoded, found by reading it to its end."""

    def __init__(self, uri: str, bad: int, tiles: int, first: tuple[int, int, int, int]) -> None:
        super().__init__(uri, bad, tiles, first)
        self.uri, self.bad, self.tiles, self.first = uri, bad, tiles, first

    def __str__(self) -> str:
        level, index, y, x = self.first
        return (
            f"{self.uri}: {self.bad:,} of {self.tiles:,} tiles cannot be decoded "
            f"(first: level {level}, tile {index:,} at y={y:,} x={x:,}); the scanner's copy is damaged. "
            "Copy it again, or take the damaged tiles as glass: --on-bad-tile blank"
        )


class NoResolution(MicrotomeError):
    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri

    def __str__(self) -> str:
        return f"{self.uri} does not say its resolution; give it in um/px, e.g. --mpp 0.25"


class AbsurdResolution(MicrotomeError):
    def __init__(self, uri: str, mpp: float, source: str, least: float, most: float) -> None:
        super().__init__(uri, mpp, source, least, most)
        self.uri, self.mpp, self.source, self.least, self.most = uri, mpp, source, least, most

    def __str__(self) -> str:
        return (
            f"{self.uri}: {self.mpp:g} um/px (from {self.source}) is no resolution of a pathology slide, "
            f"which is {self.least:g} to {self.most:g}; give the right one, e.g. --mpp 0.25"
        )


class ResultOfAnotherPlan(MicrotomeError):
    def __init__(self, uri: str, differences: str) -> None:
        super().__init__(uri, differences)
        self.uri, self.differences = uri, differences

    def __str__(self) -> str:
        return (
            f"{self.uri} holds a result of another plan ({self.differences}); "
            "keep it and choose another -o, or replace it: --overwrite"
        )


class NotOurFolder(MicrotomeError):
    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri

    def __str__(self) -> str:
        return f"{self.uri} exists and is no result of microtome's; move it away, or choose another -o"


class NoResultHere(MicrotomeError):
    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri

    def __str__(self) -> str:
        if "://" not in self.uri and not Path(self.uri).exists():
            return f"there is no {self.uri}; give the folder of a result, NAME.ome.zarr"
        return f"{self.uri} is no result of microtome's (it has no plan.json); give a NAME.ome.zarr"


class SameResult(MicrotomeError):
    def __init__(self, slide: str, other: str, uri: str) -> None:
        super().__init__(slide, other, uri)
        self.slide, self.other, self.uri = slide, other, uri

    def __str__(self) -> str:
        return f"{self.slide} and {self.other} would both be {self.uri}; give each a folder of its own by -o"


class ModelNotFound(MicrotomeError):
    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.model = model

    def __str__(self) -> str:
        return (
            f"there is no model {self.model}: neither a folder with a model.json, nor the name of a model "
            "that comes with microtome; a StarDist folder becomes one by: "
            "microtome model import FOLDER -o OUT"
        )


class BadModel(MicrotomeError):
    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; copy or import the model again"


class StarDistFileMissing(MicrotomeError):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return (
            f"{self.path} is missing; give the folder that StarDist wrote: config.json, thresholds.json and "
            "weights_best.h5"
        )


class UnsupportedModel(MicrotomeError):
    def __init__(self, path: str, what: str, supported: str) -> None:
        super().__init__(path, what, supported)
        self.path, self.what, self.supported = path, what, supported

    def __str__(self) -> str:
        return f"{self.path}: {self.what}, but microtome runs {self.supported}; choose another model"


class PrecisionMissing(MicrotomeError):
    def __init__(self, model: str, precision: str, available: str) -> None:
        super().__init__(model, precision, available)
        self.model, self.precision, self.available = model, precision, available

    def __str__(self) -> str:
        hint = "; make it: microtome model quantize MODEL --images FOLDER -o OUT" * (self.precision == "int8")
        return f"model {self.model} has no {self.precision} network, but {self.available}{hint}"


class SlideNotFound(MicrotomeError):
    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri

    def __str__(self) -> str:
        return f"{self.uri}: no such file or folder; check the path"


class EmptySlide(MicrotomeError):
    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri

    def __str__(self) -> str:
        return f"{self.uri} is empty (0 bytes); copy it again"


class NoSlideInFolder(MicrotomeError):
    def __init__(self, uri: str, found: str) -> None:
        super().__init__(uri, found)
        self.uri, self.found = uri, found

    def __str__(self) -> str:
        return (
            f"{self.uri} is a folder {self.found}; name one slide, or a folder that holds the parts of one "
            "DICOM or MRXS slide"
        )


class NotASlide(MicrotomeError):
    def __init__(self, uri: str, found: str) -> None:
        super().__init__(uri, found)
        self.uri, self.found = uri, found

    def __str__(self) -> str:
        return (
            f"{self.uri} is not a slide that can be read: {self.found}; "
            "give a TIFF (SVS, NDPI, SCN, BIF, OME), DICOM, MRXS, CZI, PNG or JPEG"
        )


class TruncatedSlide(MicrotomeError):
    def __init__(self, uri: str, size_bytes: int, needed_bytes: int) -> None:
        super().__init__(uri, size_bytes, needed_bytes)
        self.uri, self.size_bytes, self.needed_bytes = uri, size_bytes, needed_bytes

    def __str__(self) -> str:
        return (
            f"{self.uri} ends at byte {self.size_bytes:,}, but its tables point to byte "
            f"{self.needed_bytes:,}: it was cut short; copy it again"
        )


class UnsupportedSlide(MicrotomeError):
    """A slide of a known kind, stored in a way that no reader here takes."""

    def __init__(self, uri: str, has: str, way_out: str) -> None:
        super().__init__(uri, has, way_out)
        self.uri, self.has, self.way_out = uri, has, way_out

    def __str__(self) -> str:
        return f"{self.uri} {self.has}; {self.way_out}"


class NeedsLocalCopy(MicrotomeError):
    def __init__(self, uri: str, kind: str) -> None:
        super().__init__(uri, kind)
        self.uri, self.kind = uri, kind

    def __str__(self) -> str:
        return f"{self.uri}: {self.kind} cannot be read in pieces from there; copy it to a local disk first"


class NoSpaceLeft(MicrotomeError):
    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri

    def __str__(self) -> str:
        return (
            f"no space left for {self.uri}; make room or choose another folder. "
            "What is finished is kept: run the same command again"
        )


class CannotWrite(MicrotomeError):
    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(uri, reason)
        self.uri, self.reason = uri, reason

    def __str__(self) -> str:
        return f"{self.uri} cannot be written to ({self.reason}); choose another folder or ask for access"


class FluorescenceSlide(MicrotomeError):
    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri

    def __str__(self) -> str:
        return (
            f"{self.uri} shows coloured light on black: a fluorescence slide, but the model is for stains in "
            "transmitted light; give a slide stained with H&E"
        )


class TissueFileError(MicrotomeError):
    """The file that says where the tissue is does not fit."""

    def __init__(self, path: str, problem: str, way_out: str) -> None:
        super().__init__(path, problem, way_out)
        self.path, self.problem, self.way_out = path, problem, way_out

    def __str__(self) -> str:
        return f"--tissue {self.path}: {self.problem}; {self.way_out}"


class PrecisionUnsupported(MicrotomeError):
    def __init__(self, precision: str, cpu: str) -> None:
        super().__init__(precision, cpu)
        self.precision, self.cpu = precision, cpu

    def __str__(self) -> str:
        return f"this CPU ({self.cpu}) does not run {self.precision}; use --precision f32, int8 or auto"


class EngineUnsupported(MicrotomeError):
    def __init__(self, engine: str, precision: str, cpu: str) -> None:
        super().__init__(engine, precision, cpu)
        self.engine, self.precision, self.cpu = engine, precision, cpu

    def __str__(self) -> str:
        return (
            f"the plan has its network computed by {self.engine} in {self.precision}, which this CPU "
            f"({self.cpu}) does not run; go on with it on another CPU, or begin anew with --overwrite"
        )


class ResultNotFinished(MicrotomeError):
    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri

    def __str__(self) -> str:
        return f"{self.uri} is not finished: it has no table of nuclei yet; run its segment command again"


class DamagedSlide(MicrotomeError):
    def __init__(self, uri: str, what: str) -> None:
        super().__init__(uri, what)
        self.uri, self.what = uri, what

    def __str__(self) -> str:
        return f"{self.uri} is {self.what}; copy it again"


class SlideUnreachable(MicrotomeError):
    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(uri, reason)
        self.uri, self.reason = uri, reason

    def __str__(self) -> str:
        return (
            f"{self.uri} cannot be reached: {self.reason}; for S3, check AWS_ENDPOINT_URL, AWS_REGION "
            "and the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )


class ModelUnreachable(MicrotomeError):
    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(uri, reason)
        self.uri, self.reason = uri, reason

    def __str__(self) -> str:
        return (
            f"model {self.uri} cannot be reached: {self.reason}; check AWS_ENDPOINT_URL, AWS_REGION and the "
            "credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )


class ResultUnreachable(MicrotomeError):
    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(uri, reason)
        self.uri, self.reason = uri, reason

    def __str__(self) -> str:
        return (
            f"{self.uri} cannot be reached: {self.reason}; check AWS_ENDPOINT_URL, AWS_REGION and the "
            "credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )


class ModelReplaced(MicrotomeError):
    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri

    def __str__(self) -> str:
        return (
            f"model {self.uri} is no longer the one that this result was begun with; put that one back, or "
            "begin again: --overwrite"
        )


class NoLabelledImages(MicrotomeError):
    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path, self.problem = path, problem

    def __str__(self) -> str:
        return (
            f"{self.path} {self.problem}; give a folder with images/NAME.png and masks/NAME.png, or a split "
            "file that names them"
        )


class TrainingFailed(MicrotomeError):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the training ended without a model: {self.reason}; the run's log has all that it said. "
            "Nothing was written to the output"
        )


class TrainingEnvironmentMissing(MicrotomeError):
    def __init__(self, python: str) -> None:
        super().__init__(python)
        self.python = python

    def __str__(self) -> str:
        return (
            f"{self.python} is not there; training needs the official StarDist package in an environment of "
            "its own: make train-env"
        )


class ClaimLost(MicrotomeError):
    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri

    def __str__(self) -> str:
        return f"another run has taken {self.uri} over; this one stops, and the other goes on from here"


class SlideReplaced(MicrotomeError):
    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri

    def __str__(self) -> str:
        return (
            f"{self.uri} is no longer the version that this run was started for; the new one has a run of "
            "its own, or gets one tonight"
        )


class SlideChanged(MicrotomeError):
    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri

    def __str__(self) -> str:
        return (
            f"{self.uri} was replaced while it was being segmented; what was begun is of two slides and is "
            "removed: start it again when the slide rests"
        )


class PrefectUnreachable(MicrotomeError):
    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return (
            f"no Prefect server answers at {self.url} ({self.reason}); start one with `make up`, or set "
            "PREFECT_API_URL. To do without: microtome segment"
        )


class PrefectRefused(MicrotomeError):
    def __init__(self, url: str, status: int, detail: str) -> None:
        super().__init__(url, status, detail)
        self.url, self.status, self.detail = url, status, detail

    def __str__(self) -> str:
        hint = "; register the deployments: `make up`" if self.status == 404 else ""
        return f"Prefect at {self.url} refuses the run ({self.status}): {self.detail}{hint}"


class TileNotCopyable(MicrotomeError):
    """A tile of another kind than those that were looked at when the run was planned."""

    def __init__(self, uri: str, y_px: int, x_px: int, reason: str) -> None:
        super().__init__(uri, y_px, x_px, reason)
        self.uri, self.y_px, self.x_px, self.reason = uri, y_px, x_px, reason

    def __str__(self) -> str:
        return (
            f"{self.uri}: of the tiles of level 0, {self.reason} (at y={self.y_px:,} x={self.x_px:,}): it "
            "cannot be copied; keep the pixels another way: --pixels lossless --overwrite"
        )
