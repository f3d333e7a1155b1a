"""A good bundle, quick to write, and the parts that bad ones are made of."""

import json
import random
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from edgephi.bundle.manifest import encode_manifest
from tests.bundle.tiny import tiny_manifest

Plain = dict[str, Any]


def weights_at(location: str, tensor_name: str = "weights") -> onnx.TensorProto:
    """A tensor whose data is in another file."""
    tensor = TensorProto(name=tensor_name, data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph_with(*initializers: onnx.TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> bytes:
    """A graph that holds these tensors and nodes."""
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    nodes = (*nodes, helper.make_node("Identity", ["weights"], ["y"]))
    graph = helper.make_graph(nodes, "graph", [], [output], list(initializers))
    return bytes(helper.make_model(graph).SerializeToString())


WEIGHTS = random.Random(7).randbytes(3000)
GOOD_FILES: dict[str, bytes] = {
    "model/genai_config.json": json.dumps({"model": {"decoder": {"filename": "model.onnx"}}}).encode(),
    "model/model.onnx": graph_with(weights_at("model.onnx.data")),
    "model/model.onnx.data": WEIGHTS,
    "model/tokenizer.json": b"{}",
}


def good_manifest(files: dict[str, bytes] | None = None, **changes: Any) -> Plain:
    """The plain data of a good bundle's manifest."""
    manifest = tiny_manifest(GOOD_FILES if files is None else files, **changes)
    plain: Plain = json.loads(encode_manifest(manifest))
    return plain


def write_bundle(folder: Path, manifest: Plain | bytes, files: dict[str, bytes] | None = None) -> None:
    """Write a bundle whose files are good and whose manifest may not be."""
    for path, data in (GOOD_FILES if files is None else files).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    data = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    (folder / "bundle.json").write_bytes(data)


OTHER_FILES = {
    "model/genai_config.json": GOOD_FILES["model/genai_config.json"] + b" ",
    "model/model.onnx": graph_with(weights_at("model.onnx.data"), weights_at("model.onnx.data", "more")),
    "model/model.onnx.data": random.Random(8).randbytes(3000),
    "model/tokenizer.json": b'{"version": "1.0"}',
}
"""A good bundle of which a store that has the other holds nothing."""
