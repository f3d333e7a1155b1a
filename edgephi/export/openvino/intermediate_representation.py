"""OpenVINO IR, version 11: a graph as XML whose constants are runs of bytes in a file beside it.

A layer has numbered ports, inputs first; an edge joins an output port to an input port. A constant says where
its bytes are, so weights that somebody else wrote need never pass through here. Nothing of OpenVINO is needed
to write or read it. Format: OpenVINO's documentation, "Intermediate Representation format"; operators: its
"Available operation sets"; those of version "extension" belong to openvino_tokenizers.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgephi.export.stream.packed_tensor import Region

UNKNOWN = -1
"""A dimension that is known at run time only."""

_PORT_PRECISIONS = {
    "f32": "FP32",
    "f16": "FP16",
    "i64": "I64",
    "i32": "I32",
    "u8": "U8",
    "u4": "U4",
    "boolean": "BOOL",
    "string": "STRING",
}
_DTYPES = {"f32": np.float32, "f16": np.float16, "i64": np.int64, "i32": np.int32, "u8": np.uint8}
_BITS = {"f32": 32, "f16": 16, "i64": 64, "i32": 32, "u8": 8, "u4": 4, "boolean": 8}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """An output of a layer: its element type ("f32", "u4", …) and shape, UNKNOWN where it is."""

    layer: int
    port: int
    element_type: str
    shape: Shape


@dataclass
class _Layer:
    name: str
    kind: str
    version: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    data: dict[str, str]
    attributes: dict[str, str] = field(default_factory=dict)
    mark: str = ""


class Graph:
    """Collects layers in an order in which they can be computed.

    Constants that the graph brings itself are `literal`s: their bytes are collected in `literals`, which
    belong at `literals_at` of the data file.
    """

    def __init__(self, name: str, *, literals_at: int = 0) -> None:
        self.name = name
        self.literals = bytearray()
        self._literals_at = literals_at
        self._literal_offsets: dict[bytes, int] = {}
        self._layers: list[_Layer] = []
        self._names: set[str] = set()
        self._output_names: dict[Value, str] = {}

    def parameter(self, name: str, element_type: str, shape: Shape) -> Value:
        """An input of the model."""
        data = {"shape": _dimensions(shape), "element_type": element_type}
        (value,) = self.add("Parameter", [], [(element_type, shape)], name=name, data=data)
        self._output_names[value] = name
        return value

    def result(self, name: str, value: Value) -> None:
        """Make `value` an output of the model, of that name."""
        self._output_names[value] = name
        self.add("Result", [value], [], name=f"{name}/result")
        self._layers[-1].attributes["output_names"] = name

    def stored(self, name: str, element_type: str, shape: Shape, region: Region) -> Value:
        """A constant whose bytes lie in `region` of the data file."""
        if region.size != math.ceil(math.prod(shape) * _BITS[element_type] / 8):
            raise AssertionError(f"{name}: {region.size} bytes cannot hold {element_type} {list(shape)}")
        data = {
            "element_type": element_type,
            "shape": _dimensions(shape),
            "offset": str(region.offset),
            "size": str(region.size),
        }
        (value,) = self.add("Const", [], [(element_type, shape)], name=name, data=data)
        return value

    def literal(
        self, content: ArrayLike, element_type: str = "i64", *, name: str = "", shape: Shape | None = None
    ) -> Value:
        """A small constant of the graph's own. `u4` and `boolean` are given as the bytes that store them."""
        array = np.asarray(content, dtype=_DTYPES.get(element_type, np.uint8))
        stored = array.tobytes()
        if stored not in self._literal_offsets:
            # Numbers are read where they lie: each on a multiple of its own size.
            self.literals += bytes(-len(self.literals) % 8)
            self._literal_offsets[stored] = self._literals_at + len(self.literals)
            self.literals += stored
        region = Region(self._literal_offsets[stored], len(stored))
        return self.stored(name, element_type, array.shape if shape is None else shape, region)

    def add(
        self,
        kind: str,
        inputs: Iterable[Value],
        outputs: Sequence[tuple[str, Shape]],
        *,
        version: str = "opset1",
        name: str = "",
        data: dict[str, str] | None = None,
        mark: str = "",
    ) -> tuple[Value, ...]:
        """Add a layer; returns its outputs. `data` are the operator's attributes, as the XML writes them.

        A `mark` is what OpenVINO's own transformations leave at a layer for its plugins.
        """
        number = len(self._layers)
        inputs = tuple(inputs)
        values = tuple(
            Value(number, len(inputs) + place, element_type, shape)
            for place, (element_type, shape) in enumerate(outputs)
        )
        name = name or f"{kind}_{number}"
        if name in self._names:
            raise AssertionError(f"two layers are called {name}")
        self._names.add(name)
        self._layers.append(_Layer(name, kind, version, inputs, values, data or {}, mark=mark))
        return values

    def xml(self, runtime_information: dict[str, str | dict[str, str]] | None = None) -> bytes:
        """The XML document. `runtime_information` is what engines read beside the graph."""
        net = ElementTree.Element("net", name=self.name, version="11")
        layers = ElementTree.SubElement(net, "layers")
        edges = ElementTree.SubElement(net, "edges")
        for number, layer in enumerate(self._layers):
            layers.append(self._layer_element(number, layer))
            for port, source in enumerate(layer.inputs):
                attributes = {"from-layer": source.layer, "from-port": source.port}
                attributes |= {"to-layer": number, "to-port": port}
                ElementTree.SubElement(edges, "edge", {key: str(value) for key, value in attributes.items()})
        _add_information(ElementTree.SubElement(net, "rt_info"), runtime_information or {})
        ElementTree.indent(net, "\t")
        document: bytes = ElementTree.tostring(net, encoding="utf-8", xml_declaration=True)
        return document + b"\n"

    def _layer_element(self, number: int, layer: _Layer) -> ElementTree.Element:
        attributes = {"id": str(number), "name": layer.name, "type": layer.kind, "version": layer.version}
        element = ElementTree.Element("layer", {**attributes, **layer.attributes})
        if layer.data:
            ElementTree.SubElement(element, "data", layer.data)
        if layer.mark:
            marks = ElementTree.SubElement(element, "rt_info")
            ElementTree.SubElement(marks, "attribute", name=layer.mark, version="0")
        for side, values in (("input", layer.inputs), ("output", layer.outputs)):
            if not values:
                continue
            ports = ElementTree.SubElement(element, side)
            for place, value in enumerate(values):
                port = {"id": str(place if side == "input" else value.port)}
                port["precision"] = _PORT_PRECISIONS[value.element_type]
                if side == "output" and value in self._output_names:
                    port["names"] = self._output_names[value]
                port_element = ElementTree.SubElement(ports, "port", port)
                for dimension in value.shape:
                    ElementTree.SubElement(port_element, "dim").text = str(dimension)
        return element


def _dimensions(shape: Shape) -> str:
    return ",".join("?" if dimension == UNKNOWN else str(dimension) for dimension in shape)


def _add_information(parent: ElementTree.Element, information: dict[str, str | dict[str, str]]) -> None:
    for key, value in information.items():
        if isinstance(value, dict):
            _add_information(ElementTree.SubElement(parent, key), dict(value))
        else:
            ElementTree.SubElement(parent, key, value=value)


@dataclass(frozen=True)
class StoredLayer:
    """A layer of a file: its operator, its attributes, and the layers that feed it, by input."""

    name: str
    kind: str
    data: dict[str, str]
    inputs: tuple["StoredLayer", ...]

    @property
    def shape(self) -> Shape:
        """The shape of a constant."""
        text = self.data["shape"]
        return tuple(int(part) for part in text.split(",")) if text else ()


def read_layers(file: Path) -> dict[str, StoredLayer]:
    """Every layer of an IR file by its name."""
    net = ElementTree.parse(file).getroot()  # noqa: S314 - a file that this program wrote
    sources: dict[str, list[tuple[int, str]]] = {}
    for edge in net.iterfind("edges/edge"):
        sources.setdefault(edge.attrib["to-layer"], []).append(
            (int(edge.attrib["to-port"]), edge.attrib["from-layer"])
        )
    by_number: dict[str, StoredLayer] = {}
    for element in net.iterfind("layers/layer"):  # written in the order of their computation
        number = element.attrib["id"]
        inputs = tuple(by_number[source] for _, source in sorted(sources.get(number, [])))
        data = element.find("data")
        by_number[number] = StoredLayer(
            element.attrib["name"], element.attrib["type"], {} if data is None else dict(data.attrib), inputs
        )
    return {layer.name: layer for layer in by_number.values()}


def read_constant(
    data_file: Path, constant: StoredLayer, start: int, stop: int, *, row: Shape
) -> NDArray[np.generic]:
    """Rows `start` to `stop` of a constant, read from the data file; u4 stays packed, two to a byte, flat.

    `row` is the shape of a row, the constant's last dimensions; what is before them is numbered through.
    """
    element_type = constant.data["element_type"]
    bits, size = _BITS[element_type], math.prod(row)
    if start * size * bits % 8:
        raise AssertionError(f"{constant.name}: row {start} does not begin with a byte")
    offset = int(constant.data["offset"]) + start * size * bits // 8
    count = math.ceil((stop - start) * size * bits / 8)
    dtype = np.dtype(_DTYPES.get(element_type, np.uint8))
    with data_file.open("rb") as file:
        flat: NDArray[np.generic] = np.fromfile(file, dtype, count // dtype.itemsize, offset=offset)
    return flat if element_type == "u4" else flat.reshape(stop - start, *row)
