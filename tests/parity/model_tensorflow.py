"""Makes `tests/model_tensorflow.npz`: what TensorFlow says to a seeded image.

Runs in the official package's own environment (see the README beside this file):
`python model_tensorflow.py STARDIST_FOLDER ../model_tensorflow.npz`
"""

import sys
from pathlib import Path

import numpy as np
from stardist.models import StarDist2D

SIDE_PX = 96
SEED = 3


def main(folder: Path, out: Path) -> None:
    """The image is dark discs on a bright, noisy ground, so that there is something to find."""
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    image = rng.normal((215, 170, 205), 8, (SIDE_PX, SIDE_PX, 3))
    for centre in rng.uniform(10, SIDE_PX - 10, (8, 2)):
        inside = np.hypot(y - centre[0], x - centre[1]) < rng.uniform(7, 11)
        image[inside] = rng.normal((100, 60, 140), 10, (inside.sum(), 3))
    image = np.clip(image, 0, 255).astype(np.uint8)
    model = StarDist2D(None, name=folder.name, basedir=str(folder.parent))
    prob, dist = model.keras_model.predict(image[None].astype(np.float32) / np.float32(255))
    np.savez_compressed(out, image=image, prob=prob[0, ..., 0], dist=dist[0].astype(np.float32))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
