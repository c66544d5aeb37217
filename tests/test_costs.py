"""What a run is said to take, by the model it runs."""

import pytest

from microtome.costs import MEASURED_MACS_PX, estimate
from microtome.cpu import InstructionSet
from microtome.model import Precision, default_model, find_model
from microtome.network import macs_px
from microtome.options import Options
from microtome.plan import make_plan


@pytest.mark.parametrize("precision", Precision)
def test_speeds_were_measured_on_the_default_model(precision: Precision) -> None:
    assert macs_px(default_model(), precision) == MEASURED_MACS_PX


def test_a_model_that_computes_less_is_said_to_take_less(tcga_slide) -> None:
    fine, coarse = (
        estimate(make_plan(str(tcga_slide), Options(model=name)), InstructionSet.AVX512_VNNI, 2)
        for name in ("he-nuclei", "he-nuclei-fast")
    )
    assert macs_px(find_model("he-nuclei-fast"), Precision.INT8) < MEASURED_MACS_PX / 3
    assert coarse.network_px < fine.network_px / 3
    assert 0.2 < coarse.seconds / fine.seconds < 0.7
