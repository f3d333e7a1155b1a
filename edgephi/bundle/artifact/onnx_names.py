"""Which other files an ONNX graph names: the engine opens these too, so they must be the bundle's own.

The engine's own reader would load the weights; this one walks the protobuf records alone and skips what is
inside tensors, so that it needs no library, no memory and no trust. Field numbers: onnx/onnx.proto.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Buffer = bytes | mmap.mmap


@dataclass(frozen=True)
class _Message:
    """What a kind of message holds that may name a file: field number -> the kind of message in it."""

    name: str
    inside: dict[int, str]


_MESSAGES = {
    message.name: message
    for message in (
        _Message("model", {7: "graph", 20: "training", 25: "function"}),
        _Message("training", {1: "graph", 2: "graph"}),
        _Message("graph", {1: "node", 5: "tensor", 15: "sparse tensor"}),
        _Message("function", {7: "node", 11: "attribute"}),
        _Message("node", {5: "attribute"}),
        _Message(
            "attribute",
            {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
        ),
        _Message("sparse tensor", {1: "tensor", 2: "tensor"}),
        _Message("tensor", {13: "external data"}),
        _Message("external data", {}),
    )
}
_KEY, _VALUE = 1, 2  # of "external data"
_OPERATOR, _ATTRIBUTE = 4, 5  # of "node"
_ATTRIBUTE_NAME, _ATTRIBUTE_WHOLE, _ATTRIBUTE_TEXT = 1, 3, 4
_VARINT, _EIGHT_BYTES, _DELIMITED, _FOUR_BYTES = 0, 1, 2, 5
_DEEPEST = 40


def named_files(graph: Path) -> frozenset[str]:
    """The files that an ONNX graph names, as it names them. Raises ValueError when it is no such file."""
    if not graph.stat().st_size:
        raise ValueError("an empty file")
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return frozenset(_names(data, 0, len(data), "model", 0))


def _names(data: Buffer, start: int, end: int, kind: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError("graphs in graphs without an end")
    if kind == "external data":
        texts = {
            number: _text(data, *place)
            for number, wire, place in _fields(data, start, end)
            if wire == _DELIMITED
        }
        if texts.get(_KEY) == "location":
            yield texts.get(_VALUE, "")
        return
    inside = _MESSAGES[kind].inside
    for number, wire, place in _fields(data, start, end):
        if number in inside and wire == _DELIMITED:
            yield from _names(data, *place, inside[number], depth + 1)
    if kind == "node":
        yield from _compiled_context(data, start, end)


def _compiled_context(data: Buffer, start: int, end: int) -> Iterator[str]:
    """The file of a node that stands for a compiled part of the graph, where it is not in the node itself."""
    fields = list(_fields(data, start, end))
    if not any(
        number == _OPERATOR and _text(data, *place) == "EPContext"
        for number, wire, place in fields
        if wire == 2
    ):
        return
    texts: dict[str, tuple[int, int]] = {}
    wholes: dict[str, int] = {}
    for number, wire, place in fields:
        if number == _ATTRIBUTE and wire == _DELIMITED:
            attribute = {(each, kind): where for each, kind, where in _fields(data, *place)}
            name = _text(data, *attribute.get((_ATTRIBUTE_NAME, _DELIMITED), (0, 0)))
            if (_ATTRIBUTE_TEXT, _DELIMITED) in attribute:
                texts[name] = attribute[_ATTRIBUTE_TEXT, _DELIMITED]
            wholes[name] = attribute.get((_ATTRIBUTE_WHOLE, _VARINT), (0, 0))[0]
    if wholes.get("embed_mode", 1) == 0 and "ep_cache_context" in texts:
        yield _text(data, *texts["ep_cache_context"])


def _fields(data: Buffer, start: int, end: int) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Number, wire type and place of each field: begin and end of what it holds, or its value and 0."""
    while start < end:
        tag, start = _varint(data, start, end)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, start = _varint(data, start, end)
            yield number, wire, (value, 0)
            continue
        if wire == _DELIMITED:
            size, start = _varint(data, start, end)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field of wire type {wire}")
        if size > end - start:
            raise ValueError("a field that is longer than the file")
        yield number, wire, (start, start + size)
        start += size


def _varint(data: Buffer, start: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if start >= end:
            raise ValueError("an end in the middle of a field")
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
    raise ValueError("a number of more than ten bytes")


def _text(data: Buffer, start: int, end: int) -> str:
    return data[start:end].decode("utf-8", errors="replace") if end - start <= 4096 else "a very long text"
