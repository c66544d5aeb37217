"""What a model scores, as a page in Prefect."""

import re

from prefect.artifacts import create_table_artifact

from microtome.evaluation import Evaluation


def show_scores(evaluation: Evaluation) -> None:
    """A table artifact under one key a model, so that versions can be compared."""
    create_table_artifact(
        table=evaluation.rows(),
        key="model-" + re.sub(r"[^a-z0-9]+", "-", evaluation.model.lower()).strip("-"),
        description=str(evaluation),
    )
