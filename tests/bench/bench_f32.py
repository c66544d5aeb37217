"""f32 by the kernels of `microtome/unet` against the same network by OpenVINO, and int8 against both.

End to end, rounds interleaved: on the shared slide and on one of 1.7 gigapixels.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import openvino as ov

from microtome.model import Precision, default_model, ir_digest, read_card, write_card
from microtome.network import EngineName, engine_of
from tests.bench.bench_end_to_end import slides
from tests.bench.command import SegmentRun, same_nuclei, segment
from tests.bench.figures import Bench, Figure, figure

HERE, OPENVINO, INT8 = "f32", "f32 by OpenVINO", "int8"


def figures(bench: Bench) -> Iterator[Figure]:
    """Ratios of wall times."""
    options = {
        HERE: ("--precision", "f32"),
        OPENVINO: ("--precision", "f32", "--model", str(_model_for_openvino(bench.work / "model"))),
        INT8: ("--precision", "int8"),
    }
    for name, path in slides(bench).items():
        found: dict[str, list[SegmentRun]] = {kind: [] for kind in options}
        for _, kind in product(range(bench.rounds), options):
            found[kind].append(segment(path, bench.work / "ours", *options[kind]))
        if same_nuclei(found[HERE]) != same_nuclei(found[OPENVINO]):
            raise RuntimeError("f32 here and by OpenVINO find different nuclei")
        for kind, runs in found.items():
            yield figure("f32", f"{name}, {kind}: wall time", "s", [run.wall_s for run in runs])
            peaks = [run.worker_peak_bytes / 1e6 for run in runs]
            yield figure("f32", f"{name}, {kind}: peak memory of a worker", "MB", peaks)
        yield _ratio(name, found, HERE, OPENVINO)
        yield _ratio(name, found, INT8, OPENVINO, ">= 2.2")
        yield _ratio(name, found, INT8, HERE, ">= 2.2")


def _ratio(name: str, found: dict[str, list[SegmentRun]], fast: str, slow: str, goal: str = "") -> Figure:
    ratios = [b.wall_s / a.wall_s for a, b in zip(found[fast], found[slow], strict=True)]
    return figure("f32", f"{name}: {fast} against {slow}", "x", ratios, goal)


def _model_for_openvino(folder: Path) -> Path:
    """he-nuclei with pools that `unet` does not know; on sides that are even, they give the same."""
    card = read_card(default_model())
    model = ov.Core().read_model(default_model() / card.ir(Precision.F32).xml)
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MaxPool":
            node.set_attribute("rounding_type", "ceil")
    model.validate_nodes_and_infer_types()
    folder.mkdir()
    ov.save_model(model, folder / "f32.xml", compress_to_fp16=False)
    digest = ir_digest(folder / "f32.xml", folder / "f32.bin")
    ir = replace(card.ir(Precision.F32), xml="f32.xml", bin="f32.bin", digest=digest)
    write_card(replace(card, precisions={Precision.F32: ir}), folder)
    if engine_of(folder, Precision.F32) is not EngineName.OPENVINO:
        raise RuntimeError("the model meant for OpenVINO would be computed by microtome/unet")
    return folder
