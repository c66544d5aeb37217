"""The kernels of `microtome/unet` against the same network by OpenVINO, and int8 against f32.

End to end, rounds interleaved: on the shared slide and on one of 1.7 gigapixels.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import openvino as ov

from microtome.model import Ir, Precision, default_model, ir_digest, read_card, write_card
from microtome.network import EngineName, engine_of
from tests.bench.bench_end_to_end import slides
from tests.bench.command import SegmentRun, same_nuclei, segment
from tests.bench.figures import Bench, Figure, figure

PRECISIONS = (Precision.F32, Precision.INT8)
GOAL = ">= 2.2"


def figures(bench: Bench) -> Iterator[Figure]:
    """Ratios of wall times."""
    other = ("--model", str(_model_for_openvino(bench.work / "model")))
    options = {str(precision): ("--precision", str(precision)) for precision in PRECISIONS}
    options |= {_by_openvino(kind): (*given, *other) for kind, given in options.items()}
    for name, path in slides(bench).items():
        found: dict[str, list[SegmentRun]] = {kind: [] for kind in options}
        for _, kind in product(range(bench.rounds), options):
            found[kind].append(segment(path, bench.work / "ours", *options[kind]))
        if same_nuclei(found["f32"]) != same_nuclei(found[_by_openvino("f32")]):
            raise RuntimeError("f32 here and by OpenVINO find different nuclei")
        for kind, runs in found.items():
            yield figure("engines", f"{name}, {kind}: wall time", "s", [run.wall_s for run in runs])
            peaks = [run.worker_peak_bytes / 1e6 for run in runs]
            yield figure("engines", f"{name}, {kind}: peak memory of a worker", "MB", peaks)
            yield figure("engines", f"{name}, {kind}: nuclei", "", [run.nuclei for run in runs])
        for precision in PRECISIONS:
            yield _ratio(name, found, precision, _by_openvino(precision))
        yield _ratio(name, found, "int8", "f32", GOAL)
        yield _ratio(name, found, "int8", _by_openvino("f32"), GOAL)


def _by_openvino(kind: str) -> str:
    return f"{kind} by OpenVINO"


def _ratio(name: str, found: dict[str, list[SegmentRun]], fast: str, slow: str, goal: str = "") -> Figure:
    ratios = [b.wall_s / a.wall_s for a, b in zip(found[fast], found[slow], strict=True)]
    return figure("engines", f"{name}: {fast} against {slow}", "x", ratios, goal)


def _model_for_openvino(folder: Path) -> Path:
    """he-nuclei with pools that `unet` does not know; on sides that are even, they give the same."""
    card = read_card(default_model())
    folder.mkdir()
    irs = {precision: _with_other_pools(card.ir(precision), folder, precision) for precision in PRECISIONS}
    write_card(replace(card, precisions=irs), folder)
    if any(engine_of(folder, precision) is not EngineName.OPENVINO for precision in PRECISIONS):
        raise RuntimeError("the model meant for OpenVINO would be computed by microtome/unet")
    return folder


def _with_other_pools(ir: Ir, folder: Path, name: str) -> Ir:
    model = ov.Core().read_model(default_model() / ir.xml)
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MaxPool":
            node.set_attribute("rounding_type", "ceil")
    model.validate_nodes_and_infer_types()
    xml, weights = folder / f"{name}.xml", folder / f"{name}.bin"
    ov.save_model(model, xml, compress_to_fp16=False)
    return replace(ir, xml=xml.name, bin=weights.name, digest=ir_digest(xml, weights))
