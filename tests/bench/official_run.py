"""The official StarDist on an array in memory; runs in an environment of its own.

    python official_run.py MODELS ARRAY.npy bf16|f32

Prints the seconds of `predict_instances_big` and the number of nuclei. Loading, the conversion to
float32 and a first small prediction, with which TensorFlow builds its graph, are not counted.
"""

import sys
import time

import numpy as np
import tensorflow as tf
from stardist.models import StarDist2D

BLOCK_PX, OVERLAP_PX, CONTEXT_PX = 2048, 128, 96


def main(models: str, array: str, precision: str) -> None:
    if precision == "bf16":
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
    model = StarDist2D(None, name="stardist-reference", basedir=models)
    pixels = np.load(array).astype(np.float32) / 255

    def predict(image: np.ndarray) -> dict[str, np.ndarray]:
        _, nuclei = model.predict_instances_big(
            image,
            axes="YXC",
            block_size=min(BLOCK_PX, len(image)),
            min_overlap=OVERLAP_PX,
            context=CONTEXT_PX,
            show_progress=False,
            labels_out=None,
        )
        return nuclei

    predict(pixels[:1024, :1024])
    began = time.perf_counter()
    nuclei = predict(pixels)
    print(time.perf_counter() - began, len(nuclei["prob"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
