"""Networks' files as they are read here and by OpenVINO; and files that are not understood."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from microtome.model import Precision, find_model, read_card
from microtome.unet.ir import UnknownIr, read_layers
from microtome.unet.reading import read_unet

IN_OPENVINO = {"Const": "Constant", "ReLU": "Relu"}
FILES = [
    (model, precision)
    for model in ("he-nuclei", "he-nuclei-fast")
    for precision in (Precision.F32, Precision.INT8)
]


def files_of(model: str, precision: Precision) -> tuple[Path, Path]:
    folder = find_model(model)
    ir = read_card(folder).ir(precision)
    return folder / ir.xml, folder / ir.bin


@pytest.mark.parametrize(("model", "precision"), FILES)
def test_layers_are_those_that_openvino_reads(model: str, precision: Precision) -> None:
    files = files_of(model, precision)
    layers = read_layers(*files)
    nodes = {node.get_friendly_name(): node for node in ov.Core().read_model(*files).get_ops()}
    kinds = Counter(IN_OPENVINO.get(layer.kind, layer.kind) for layer in layers)
    assert kinds == Counter(node.get_type_name() for node in nodes.values())
    names = re.findall(r'<layer id="\d+" name="([^"]+)"', files[0].read_text())
    for name, layer in zip(names, layers, strict=True):
        node = nodes[name]
        sources = [value.get_node().get_friendly_name() for value in node.input_values()]
        assert [names[layers.index(source)] for source in layer.inputs] == sources
        readers = [target.get_node() for output in node.outputs() for target in output.get_target_inputs()]
        assert Counter(names[layers.index(reader)] for reader in layer.consumers) == Counter(
            reader.get_friendly_name() for reader in readers
        )
        if layer.kind == "Const":
            assert layer.shape == tuple(node.get_output_shape(0))
            np.testing.assert_array_equal(layer.numbers, node.get_data(), strict=True)


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ('<net name="he-nuclei" version="11">', '<net name="he-nuclei" version="10">'),
        ("</net>", ""),
        ('offset="872"', 'offset="9000000"'),
        ('shape="32, 3, 3, 3"', 'shape="32, 3, 3"'),
        ('shape="32, 3, 3, 3"', ""),
        ('<edge from-layer="5"', '<edge from-layer="5000"'),
        ('from-layer="5" from-port="5"', 'from-layer="5" from-port="6"'),
    ],
)
def test_files_that_are_not_understood_are_left_to_openvino(
    written: str, instead: str, tmp_path: Path
) -> None:
    xml, weights = files_of("he-nuclei", Precision.INT8)
    text = xml.read_text()
    assert written in text
    changed = tmp_path / "changed.xml"
    changed.write_text(text)
    assert read_unet(changed, weights, align_px=16, grid_px=2) is not None
    changed.write_text(text.replace(written, instead, 1))
    with pytest.raises(UnknownIr):
        read_layers(changed, weights)
    assert read_unet(changed, weights, align_px=16, grid_px=2) is None


def test_a_concat_along_another_axis_is_left_to_openvino(tmp_path: Path) -> None:
    xml, weights = files_of("he-nuclei", Precision.F32)
    changed = tmp_path / "changed.xml"
    changed.write_text(xml.read_text().replace('axis="1"', 'axis="2"', 1))
    assert read_unet(xml, weights, align_px=16, grid_px=2) is not None
    assert read_unet(changed, weights, align_px=16, grid_px=2) is None


def test_a_shipped_model_is_loaded_without_openvino() -> None:
    code = (
        "import sys\n"
        "from microtome.model import Precision, default_model\n"
        "from microtome.network import load_model\n"
        "load_model(default_model(), precision=Precision.F32, threads=1, limits=(0, 255))\n"
        "print('openvino' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
