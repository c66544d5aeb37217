"""A plan, and a small whole result made without a network: drawn nuclei on drawn tissue."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import settings

from microtome.export import FEATURES, TABLE, GeoParquetWriter, geojson_begin, geojson_end, geojson_features
from microtome.grid import Scale, levels_of
from microtome.model import Precision
from microtome.ngff import image_arrays, label_arrays, metadata
from microtome.nuclei import Nuclei
from microtome.plan import ModelRecord, Plan, SlideRecord, TissueRecord
from microtome.pyramid import halve_labels, halve_pixels
from microtome.records import KeyRecord, ShardReport
from microtome.shards import encode
from microtome.slides.base import Level, Mpp
from microtome.store import ResultStore

# The first example waits for a compiler.
settings.register_profile("compiled", deadline=None)
settings.load_profile("compiled")

HEIGHT_PX, WIDTH_PX, SHARD_PX = 1301, 1850, 512
ANGLES = np.linspace(0, 2 * np.pi, 32, endpoint=False)


@pytest.fixture(scope="session")
def plan_of() -> Callable[..., Plan]:
    """Makes a plan for a slide of the given size."""

    def make(
        height_px: int = HEIGHT_PX,
        width_px: int = WIDTH_PX,
        *,
        shard_px: int = SHARD_PX,
        ngff: str = "0.5",
        pixels: str = "lossless",
        mpp: Mpp = Mpp(0.25, 0.26),
    ) -> Plan:
        return Plan(
            version="0",
            slide=SlideRecord(
                name="S-001",
                uri="S-001.svs",
                identity="0" * 32,
                format="drawn",
                reader="none",
                levels=(Level(height_px, width_px, 1.0),),
                mpp=mpp,
                mpp_source="the file",
                on_bad_tile="fail",
            ),
            model=ModelRecord(
                name="none",
                version="0",
                uri="none",
                digest="0",
                precision=Precision.F32,
                why_precision="",
                mpp=0.5,
                grid=2,
                prob_threshold=0.5,
                nms_threshold=0.3,
                low=0.0,
                high=255.0,
            ),
            tissue=TissueRecord(source="all", cell_px=64, mask="", area_px=height_px * width_px),
            scale=Scale(1, 2),
            shard_px=shard_px,
            core_px=1024,
            halo_px=96,
            align_px=16,
            ngff=ngff,
            pixels=pixels,
            levels=levels_of(height_px, width_px),
        )

    return make


def draw_nuclei(plan: Plan, seed: int = 7) -> Nuclei:
    """Lumpy discs on a jittered grid, in raster order; some touch and overlap."""
    rng = np.random.default_rng(seed)
    y, x = (axis.ravel() for axis in np.mgrid[30 : plan.height_px - 30 : 41, 30 : plan.width_px - 30 : 37])
    centres = np.stack([y, x], axis=1) + rng.uniform(-12, 12, (len(y), 2))
    radii = rng.uniform(8, 14, (len(y), 1)) * rng.uniform(0.85, 1.15, (len(y), len(ANGLES)))
    rays = np.stack([np.sin(ANGLES), np.cos(ANGLES)], axis=1)
    outlines = np.round((centres[:, None] + radii[..., None] * rays) * 16) / 16
    polygons = shapely.polygons(outlines[..., ::-1])
    centroids = shapely.get_coordinates(shapely.centroid(polygons))[:, ::-1]
    return Nuclei(
        prob=rng.uniform(0.5, 1, len(y)).astype(np.float32),
        centre_px=centroids,
        area_px=shapely.area(polygons),
        outline_px=outlines.reshape(-1, 2),
        offsets=np.arange(len(y) + 1) * len(ANGLES),
    )


def by_shard(plan: Plan, nuclei: Nuclei) -> list[Nuclei]:
    """The nuclei of each shard of the plan."""
    shards = (nuclei.centre_px // plan.shard_px).astype(np.int64)
    owners = shards[:, 0] * plan.grid.cols + shards[:, 1]
    return [nuclei.take(np.flatnonzero(owners == shard.index)) for shard in plan.grid]


def paint(plan: Plan, nuclei: Nuclei) -> np.ndarray:
    """Labels 1..n where an outline holds or touches a pixel's centre; the more probable is on top."""
    labels = np.zeros((plan.height_px, plan.width_px), np.uint32)
    for row in np.argsort(nuclei.prob, kind="stable"):
        outline = nuclei.outline_px[nuclei.offsets[row] : nuclei.offsets[row + 1]]
        (y0, x0), (y1, x1) = (
            np.floor(outline.min(0)).astype(int),
            np.ceil(outline.max(0)).astype(int),
        )
        y, x = np.mgrid[y0:y1, x0:x1]
        inside = shapely.intersects_xy(shapely.Polygon(outline[:, ::-1]), x + 0.5, y + 0.5)
        labels[y0:y1, x0:x1][inside] = row + 1
    return labels


class Built:
    """A result that was written stage by stage, and what it was written from."""

    def __init__(self, plan: Plan, uri: str, nuclei: Nuclei) -> None:
        self.plan, self.store = plan, ResultStore(uri)
        self.parts = by_shard(plan, nuclei)
        self.nuclei = Nuclei.concatenate(self.parts)
        self.labels = paint(plan, self.nuclei)
        rng = np.random.default_rng(3)
        self.pixels = rng.integers(120, 255, (3, plan.height_px, plan.width_px), np.uint8)
        self.pixels[:, :, plan.shard_px * 2 :] = 255

    def write(self) -> "Built":
        self.store.put("plan.json", self.plan.to_json())
        for key, text in metadata(self.plan).items():
            self.store.put(key, text)
        if self.plan.pixels != "none":
            self._close("chunk", self._levels(image_arrays(self.plan), self.pixels, halve_pixels))
        part = KeyRecord(key="parts/infer/0-0.bin", bytes=1, digest="0")  # removed when a run ends
        self._close("infer", [part])
        self._close("stitch", self._levels(label_arrays(self.plan), self.labels, halve_labels))
        self._close("export", self._tables())
        summary = json.dumps({"nuclei": len(self.nuclei)}).encode()
        self._close("publish", [self.store.put("report/summary.json", summary)])
        return self

    def _levels(self, specs, array, halve) -> list[KeyRecord]:
        records = []
        for spec in specs:
            for shard in spec.grid:
                block = array[..., *shard.window.within(spec.grid.window)]
                records += [self.store.put(*item) for item in encode(spec, shard.row, shard.col, block)]
            array = halve(array)
        return records

    def _tables(self) -> list[KeyRecord]:
        mpp = self.plan.slide.mpp
        firsts = np.cumsum([1] + [len(part) for part in self.parts])
        with self.store.writing(TABLE) as table, GeoParquetWriter(table, mpp) as writer:
            for part, first in zip(self.parts, firsts, strict=False):
                writer.add(part, int(first))
        features = [
            geojson_features(part, int(first), mpp, self.plan.fingerprint)
            for part, first in zip(self.parts, firsts, strict=False)
        ]
        packed = b"".join([geojson_begin(), *features, geojson_end()])
        return [table.record, self.store.put(FEATURES, packed)]

    def _close(self, stage: str, keys: list[KeyRecord]) -> None:
        report = ShardReport(
            stage=stage, shard=0, began_s=0, seconds=1, cpu_s=1, nuclei=len(self.nuclei), keys=tuple(keys)
        )
        self.store.close_stage(stage, [report])


@pytest.fixture(scope="session")
def build() -> Callable[[Plan, str], Built]:
    """Writes a whole result of a plan."""
    return lambda plan, uri: Built(plan, str(uri), draw_nuclei(plan)).write()


@pytest.fixture(scope="session")
def build_empty() -> Callable[[Plan, str], Built]:
    """Writes a whole result in which there is no nucleus."""
    return lambda plan, uri: Built(plan, str(uri), Nuclei.empty()).write()


@pytest.fixture(scope="session")
def built(build, plan_of, tmp_path_factory) -> Built:
    """A whole result, to be read only."""
    return build(plan_of(), tmp_path_factory.mktemp("built") / "S-001.ome.zarr")


@pytest.fixture(scope="session")
def s3(shared_data: Path, tmp_path_factory) -> Iterator[str]:
    """`s3://bucket` on a real server of this machine; the environment names it."""
    programs = subprocess.run(
        [shared_data.parent / "bin" / "unpack"], check=True, capture_output=True, text=True
    ).stdout.strip()
    folder = tmp_path_factory.mktemp("s3")
    (folder / "results").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    keys = {"ROOT_ACCESS_KEY": "testaccess", "ROOT_SECRET_KEY": "testsecret"}
    options = ["--quiet", "--keep-alive", "--port", address, "--region", "us-east-1", "--health", "/health"]
    command = [f"{programs}/versitygw", *options, "posix", str(folder)]
    with subprocess.Popen(command, env=os.environ | keys) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
        patch.setenv("AWS_ACCESS_KEY_ID", keys["ROOT_ACCESS_KEY"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", keys["ROOT_SECRET_KEY"])
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        _wait_for(f"http://{address}/health")
        yield "s3://results"
        server.terminate()


def _wait_for(url: str) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"no S3 server at {url} after 10 s")
