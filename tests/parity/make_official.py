"""What the official StarDist package finds, kept in `official.npz` for `tests/test_parity.py`.

It needs an environment of its own (Python 3.11, about 2 GB), for the package brings TensorFlow:

    python3.11 -m venv stardist-env
    stardist-env/bin/pip install stardist==0.9.2 tensorflow-cpu==2.21.0 imagecodecs tifffile
    stardist-env/bin/python tests/parity/make_official.py DATA tests/parity/official.npz

DATA is the folder of the shared test data. `--dump FOLDER` also saves the network's output.

In the file, for each crop NAME (level-0 px of the slide, pixel indices as the package has them):

    NAME/window    (4,) int32      y0, x0, y1, x1
    NAME/points    (n, 2) int16    (y, x) in the crop, of the nuclei that the package keeps
    NAME/prob      (n,) float32
    NAME/labels    (h, w) uint16   the package's label image

and of a part of the first crop all candidates, to compare the suppression alone:

    candidates/points (m, 2) int16, candidates/prob (m,) float32, candidates/radii (m, 32) uint16, 1/64 px
    candidates/kept   (m,) bool    what the package's suppression keeps of exactly these
"""

import argparse
from pathlib import Path

import numpy as np
import tifffile
from stardist.models import StarDist2D
from stardist.nms import non_maximum_suppression_inds

CROPS = {"tall-glands": (1900, 6592, 1024), "stroma": (4700, 5100, 768)}  # y0, x0, side
CANDIDATES_PX = 256
SLIDE = "slides/TCGA-V5-A7RE-11A-01-TS1.tif"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--dump", type=Path)
    options = parser.parse_args()
    model = StarDist2D(None, name="stardist-reference", basedir=str(options.data / "models"))
    pixels = tifffile.imread(options.data / SLIDE, level=0)
    kept: dict[str, np.ndarray] = {}
    for name, (y0, x0, side) in CROPS.items():
        crop = pixels[y0 : y0 + side, x0 : x0 + side]
        found, output = nuclei_of(model, crop)
        kept |= {f"{name}/{column}": values for column, values in found.items()}
        kept[f"{name}/window"] = np.array([y0, x0, y0 + side, x0 + side], np.int32)
        print(f"{name}: {len(found['prob'])} nuclei")  # noqa: T201 - a script
        if options.dump:
            np.savez(options.dump / f"{name}.npz", prob=output[0], dist=output[1])
        if "candidates/prob" not in kept:
            kept |= suppression_of(model, *output)
    np.savez_compressed(options.output, **kept)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes")  # noqa: T201


def nuclei_of(model: StarDist2D, crop: np.ndarray) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, ...]]:
    """What the package finds in a crop with its own thresholds, and the network's output."""
    image = crop.astype(np.float32) / 255
    (labels, nuclei), output = model.predict_instances(image, sparse=False, return_predict=True)
    found = {
        "points": nuclei["points"].astype(np.int16),
        "prob": nuclei["prob"].astype(np.float32),
        "labels": labels.astype(np.uint16),
    }
    return found, output


def suppression_of(model: StarDist2D, prob: np.ndarray, dist: np.ndarray) -> dict[str, np.ndarray]:
    """The candidates of the first corner, and which of them the package's suppression keeps."""
    cells = CANDIDATES_PX // 2
    ys, xs = np.nonzero(prob[:cells, :cells] > model.thresholds.prob)
    order = np.argsort(prob[ys, xs])[::-1]
    ys, xs = ys[order], xs[order]
    radii = np.rint(np.maximum(dist[ys, xs], 1 / 64) * 64).astype(np.uint16)
    # Well away from 0: towards it the package rounds the other way.
    points = (np.stack([ys, xs], axis=1) * 2 + 512).astype(np.int16)
    keeps = non_maximum_suppression_inds(
        radii.astype(np.float32) / 64, points, scores=None, thresh=model.thresholds.nms, verbose=0
    )
    return {
        "candidates/points": points,
        "candidates/prob": prob[ys, xs],
        "candidates/radii": radii,
        "candidates/kept": keeps.astype(bool),
    }


if __name__ == "__main__":
    main()
