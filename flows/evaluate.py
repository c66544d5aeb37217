"""A model on images whose nuclei are known: its scores, as people see them in Prefect."""

from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.logging import get_run_logger

from microtome.evaluation import evaluate as score_model
from microtome.model import Precision
from tasks.scores import show_scores


@flow(name="evaluate", flow_run_name="{images}")
def evaluate(
    images: str,
    model: str | None = None,
    precision: Literal["auto", "f32", "bf16", "int8"] = "auto",
    split: str | None = None,
    output: str | None = None,
) -> dict[str, Any]:
    """Score a model by set: AP, F1, precision and recall at overlaps (IoU) from 0.5 to 0.9.

    Args:
        images: Folder with images/NAME.png and masks/NAME.png, or one of such folders, at the model's um/px.
        model: Folder of a model or the name of a shipped one; left out, the default.
        precision: What the network computes in; auto takes the fastest on this machine.
        split: JSON that names the images to validate on; left out, every fourth of a folder.
        output: File for the scores as JSON; left out, they are shown here only.
    """
    chosen = None if precision == "auto" else Precision(precision)
    evaluation = score_model(model, Path(images), Path(split) if split else None, chosen)
    get_run_logger().info(str(evaluation))
    show_scores(evaluation)
    if output is not None:
        Path(output).write_text(evaluation.to_json())
    return evaluation.as_json()
