"""Compiles once what would otherwise be compiled in the first run: numba's kernels.

    python -m microtome.warmup

Segments a small field of drawn blobs in int8 and in f32 and throws the results away; setup and the container
image run it. What is compiled lies beside the package.
"""

import tempfile
from pathlib import Path

import cv2
import numpy as np

from microtome.cluster import ClusterSpec, connect
from microtome.options import Options
from microtome.pipeline import finish, prepare

FIELD_PX = 640


def draw_field(path: Path) -> None:
    """A grid of overlapping dark blobs on pink: enough to reach every kernel."""
    field = np.full((FIELD_PX, FIELD_PX, 3), (220, 170, 230), np.uint8)
    for y in range(20, FIELD_PX, 26):
        for x in range(20, FIELD_PX, 26):
            cv2.ellipse(field, (x, y), (14, 9), (x * 7 + y * 3) % 180, 0, 360, (120, 60, 110), -1)
    cv2.imwrite(str(path), cv2.GaussianBlur(field, (0, 0), 1.5))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="microtome-warmup-") as folder:
        field = Path(folder) / "field.png"
        draw_field(field)
        with connect(ClusterSpec(workers=1)) as cluster:
            for precision in ("int8", "f32"):
                options = Options(mpp=0.25, shard_px=512, precision=precision)
                prepared = prepare(str(field), str(Path(folder) / precision), options)
                finish(prepared, cluster, lambda progress: None)


if __name__ == "__main__":
    main()
