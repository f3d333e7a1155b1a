"""Artifacts whose every hash is right, which lead out of their bundle or cannot be what they say."""

import json
from collections.abc import Iterator

import onnx
from onnx import helper

from tests.store.good_bundle import GOOD_FILES, Plain, graph_with, weights_at

LOCATIONS = [
    *(
        "../escaped",
        "../../outside/secret",
        "/etc/passwd",
        "//etc/passwd",
        "model/../../escaped",
        "./model.onnx.data",
    ),
    *(
        "..",
        ".",
        "",
        "/",
        "nothing",
        "../bundle.json",
        "../model/model.onnx.data",
        "\\..\\escaped",
        "C:\\secret",
    ),
    *(
        "*/_ORT_MEM_ADDR_/*",
        "file:///etc/passwd",
        "~/.ssh/id_rsa",
        "model.onnx.data/",
        "model.onnx.data\0",
        "\x1b[2J",
    ),
    *("a" * 5000, "Model.onnx.data"),
]


def hostile_artifacts() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Files of an artifact that lead out of the bundle or cannot be what they are called."""
    for location in LOCATIONS:
        shown = ascii(location)[:30]
        yield f"weights at {shown}", {"model/model.onnx": graph_with(weights_at(location))}
        constant = helper.make_node("Constant", [], ["c"], value=weights_at(location, "c"))
        yield (
            f"constant at {shown}",
            {"model/model.onnx": graph_with(weights_at("model.onnx.data"), nodes=(constant,))},
        )
        branch = helper.make_graph([], "branch", [], [], [weights_at(location, "b")])
        choice = helper.make_node("If", ["weights"], ["c"], then_branch=branch, else_branch=branch)
        yield (
            f"branch at {shown}",
            {"model/model.onnx": graph_with(weights_at("model.onnx.data"), nodes=(choice,))},
        )
    for location in LOCATIONS[:8]:
        shown = ascii(location)[:30]
        sparse = onnx.SparseTensorProto(values=weights_at(location, "s"), dims=[4])
        model = onnx.load_from_string(GOOD_FILES["model/model.onnx"])
        model.graph.sparse_initializer.append(sparse)
        yield f"sparse weights at {shown}", {"model/model.onnx": bytes(model.SerializeToString())}
        model = onnx.load_from_string(GOOD_FILES["model/model.onnx"])
        constant = helper.make_node("Constant", [], ["c"], value=weights_at(location, "c"))
        model.functions.append(helper.make_function("d", "f", [], ["c"], [constant], []))
        yield f"function at {shown}", {"model/model.onnx": bytes(model.SerializeToString())}
        compiled = helper.make_node(
            "EPContext", [], ["c"], domain="com.microsoft", embed_mode=0, ep_cache_context=location
        )
        if location:
            yield (
                f"compiled part at {shown}",
                {"model/model.onnx": graph_with(weights_at("model.onnx.data"), nodes=(compiled,))},
            )
        yield (
            f"graph at {shown}",
            {
                "model/genai_config.json": json.dumps(
                    {"model": {"decoder": {"filename": location or "/"}}}
                ).encode()
            },
        )
        yield (
            f"weights of safetensors at {shown}",
            {"model/model.safetensors.index.json": json.dumps({"weight_map": {"a": location}}).encode()},
        )
    good = GOOD_FILES["model/model.onnx"]
    yield "a graph that is none", {"model/model.onnx": b"#!/bin/sh\nrm -rf /\n"}
    yield "an empty graph", {"model/model.onnx": b""}
    yield "a cut graph", {"model/model.onnx": good[:-7]}
    yield "a graph with a field past its end", {"model/model.onnx": good + b"\x3a\xff\xff\xff\xff\x0f"}
    yield "a graph with an endless number", {"model/model.onnx": good + b"\xff" * 40}
    nested = b""
    for _ in range(200):
        nested = helper.make_graph([], "g", [], []).SerializeToString() + _field(
            1, _field(5, _field(6, nested))
        )
    yield "graphs in graphs", {"model/model.onnx": _field(7, nested)}
    for name, config in CONFIGURATIONS.items():
        yield name, {"model/genai_config.json": config}
    for code in ("evil.py", "../evil.py"):
        yield f"Python of a model: {code}", {"model/config.json": json.dumps({"model_file": code}).encode()}
    for name, data in SAFETENSORS.items():
        yield f"safetensors: {name}", {"model/model.safetensors": data}
    for name, data in GGUF.items():
        yield f"GGUF: {name}", {"model/model.gguf": data}


CONFIGURATIONS: dict[str, bytes] = {
    "a library in the configuration": b'{"model": {"session_options": {"custom_ops_library": "evil.so"}}}',
    "a provider from elsewhere": b'{"provider_options": [{"qnn": {"backend_path": "/tmp/evil.so"}}]}',
    "a folder elsewhere": b'{"model": {"provider_options": [{"OpenVINO": {"cache_dir": "../../cache"}}]}}',
    "a configuration that is none": b"import os",
    "an empty configuration": b"",
    "a nested configuration": b"[" * 1_000_000,
    "a configuration in Latin-1": b'{"a": "\xfc"}',
}


def _safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _tensor(begin: object, end: object) -> Plain:
    return {"dtype": "U8", "shape": [1], "data_offsets": [begin, end]}


SAFETENSORS: dict[str, bytes] = {
    "nothing": b"",
    "half a length": b"\1\0\0",
    "a header of exabytes": b"\xff" * 8 + b"{}",
    "a header past the end": (1000).to_bytes(8, "little") + b"{}",
    "a header that is none": _safetensors(b"not json"),
    "a header that is a list": _safetensors([1, 2]),
    "a nested header": _safetensors(b"[" * 100_000),
    "a tensor past the end": _safetensors({"a": _tensor(0, 100)}, bytes(10)),
    "overlapping tensors": _safetensors({"a": _tensor(0, 8), "b": _tensor(4, 10)}, bytes(10)),
    "a tensor that ends before it begins": _safetensors(
        {"a": _tensor(0, 10), "b": _tensor(10, 4)}, bytes(10)
    ),
    "a negative offset": _safetensors({"a": _tensor(-4, 10)}, bytes(10)),
    "a gap": _safetensors({"a": _tensor(0, 4), "b": _tensor(6, 10)}, bytes(10)),
    "bytes behind": _safetensors({"a": _tensor(0, 4)}, bytes(10)),
    "an offset that is a text": _safetensors({"a": _tensor("0", 10)}, bytes(10)),
    "no offsets": _safetensors({"a": {"dtype": "U8", "shape": [10]}}, bytes(10)),
    "a tensor that is a number": _safetensors({"a": 1}, bytes(10)),
}
GGUF: dict[str, bytes] = {
    "nothing": b"",
    "only its name": b"GGUF",
    "another name": b"GGML" + bytes(20),
    "another version": b"GGUF" + (99).to_bytes(4, "little") + bytes(16),
    "the other byte order": b"GGUF" + (3).to_bytes(4, "big") + bytes(16),
    "10^18 tensors": b"GGUF" + (3).to_bytes(4, "little") + (10**18).to_bytes(8, "little") + bytes(8),
    "10^18 facts": b"GGUF" + (3).to_bytes(4, "little") + bytes(8) + (10**18).to_bytes(8, "little"),
    "a thousand tensors in no bytes": b"GGUF"
    + (3).to_bytes(4, "little")
    + (1000).to_bytes(8, "little")
    + bytes(8),
}


def _field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message that holds another one."""
    size, length = len(content), b""
    while size >= 0x80:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content
