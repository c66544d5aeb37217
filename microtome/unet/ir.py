"""Networks as OpenVINO stores them: an XML file of layers, and a file of their numbers.

Read here, for to import OpenVINO takes each process 0.12 s and 20 MB. The format is that of
https://docs.openvino.ai/2026/documentation/openvino-ir-format.html, in version 11.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

VERSION = "11"
_KINDS_OF_NUMBERS = {"f32": np.float32, "i8": np.int8, "i32": np.int32, "i64": np.int64}


class UnknownIr(Exception):
    """The files are not what is understood here."""


@dataclass(slots=True, eq=False)
class Layer:
    """An operation, of which only the first output is used."""

    kind: str
    """As the format names it: `Const`, `Convolution`, `ReLU`."""
    attributes: Mapping[str, str]
    shape: tuple[int, ...]
    """Of the output; -1 where it may be any."""
    numbers: npt.NDArray[Any] | None
    """Of a constant, read-only; None for other layers, and for kinds of numbers that are not known here."""
    inputs: list["Layer"] = field(default_factory=list)
    consumers: list["Layer"] = field(default_factory=list)

    def is_said(self, **wanted: object) -> bool:
        """Whether attributes have these values: texts, numbers, or lists of numbers."""
        return all(_plain(self.attributes.get(name, "")) == _text(value) for name, value in wanted.items())


def read_layers(xml: Path, weights: Path) -> tuple[Layer, ...]:
    """The layers of a network, each after those that it sees.

    Raises
    ------
    UnknownIr
        If these are not the two files of a network in this version, as far as it is known here.
    """
    try:
        net = ElementTree.parse(xml).getroot()
        if net.get("version") != VERSION:
            raise UnknownIr(f"version {net.get('version')}")
        numbers = weights.read_bytes()
        elements = {element.attrib["id"]: element for element in net.iterfind("layers/layer")}
        layers = {number: _layer(element, numbers) for number, element in elements.items()}
        edges = {(e.attrib["to-layer"], e.attrib["to-port"]): e.attrib for e in net.iterfind("edges/edge")}
        for number, layer in layers.items():
            for port in _ports(elements[number], "input"):
                edge = edges[number, port]
                if [edge["from-port"]] != _ports(elements[edge["from-layer"]], "output")[:1]:
                    raise UnknownIr("a second output is used")
                source = layers[edge["from-layer"]]
                layer.inputs.append(source)
                source.consumers.append(layer)
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise UnknownIr(str(error)) from error
    return tuple(layers.values())


def _layer(element: ElementTree.Element, numbers: bytes) -> Layer:
    data = element.find("data")
    attributes = {} if data is None else data.attrib
    kind = element.attrib["type"]
    return Layer(
        kind,
        attributes,
        shape=tuple(int(dim.text or "") for dim in element.iterfind("output/port[1]/dim")),
        numbers=_constant(attributes, numbers) if kind == "Const" else None,
    )


def _constant(attributes: Mapping[str, str], numbers: bytes) -> npt.NDArray[Any] | None:
    kind = _KINDS_OF_NUMBERS.get(attributes["element_type"])
    if kind is None:
        return None
    shape = tuple(int(side) for side in attributes["shape"].split(",") if side.strip())
    first, size = int(attributes["offset"]), int(attributes["size"])
    return np.frombuffer(numbers[first : first + size], kind).reshape(shape)


def _ports(element: ElementTree.Element, side: str) -> list[str]:
    return [port.attrib["id"] for port in element.iterfind(f"{side}/port")]


def _plain(text: str) -> str:
    return text.replace(" ", "")


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
