"""Bundles that somebody made to do harm: a good one each, and one thing about it that is not as it should be.

Each family yields the name of a case and what it does to a good bundle: to the plain data of its manifest, or
to its folder. Numbers that are drawn come from a fixed seed.
"""

import json
import os
import random
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from edgephi.manifest import encode_manifest
from tests.tiny_bundle import tiny_manifest

Plain = dict[str, Any]
ManifestCase = tuple[str, Callable[[Plain], object]]
FolderCase = tuple[str, Callable[[Path], object]]
BytesCase = tuple[str, Callable[[bytes], bytes]]


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


# What the manifest says

LEADING_OUT = [
    *("../" * depth + "escaped" for depth in range(1, 12)),
    *("model/" + "../" * depth + "escaped" for depth in range(1, 12)),
    *("model/" * depth + "../" * (depth + 1) + "escaped" for depth in range(1, 8)),
    *(f"model/{dots}/escaped" for dots in ("..", ".", "./..", "../.", "a/../..", "../model", "../model/..")),
    *(
        "..",
        ".",
        "",
        "/",
        "//",
        "model/..",
        "model/.",
        "model/",
        "model//x",
        "./model/x",
        "/.",
        "/..",
        "~/../x",
    ),
    *(
        "/etc/cron.d/escaped",
        "/tmp/escaped",
        "//tmp/escaped",
        "/proc/self/mem",
        "/dev/sda",
        "/root/.ssh/keys",
    ),
    *("..\\escaped", "model\\..\\..\\escaped", "C:\\escaped", "\\\\server\\share", "model\\x", "\\"),
    *("C:escaped", "C:/escaped", "file:///etc/passwd", "model/x:stream", "model/CON:x"),
]
STEERING = [chr(code) for code in [*range(0x20), *range(0x7F, 0xA0)]]
INVISIBLE = list(
    "\u00a0\u00ad\u200b\u200d\u200e\u202a\u202e\u2028\u2029\u2066\u3000\ufeff\ufff9\ue000\U000e0001"
)
WINDOWS_NAMES = [
    *("CON", "con.txt", "Prn", "aux.onnx", "AUX", "nul", "NUL.tar.gz", "con .x", "Nul."),
    *(f"{port}{number}{end}" for port in ("COM", "lpt") for number in range(10) for end in ("", ".bin")),
    *(f"a{letter}b" for letter in '<>:"|?*'),
    *("trailing.", "trailing ", "trailing. .", "...", " .", "x/trailing ./y", "con/x", "x/aux.d/y"),
]
OVERLONG = [
    *("a" * length for length in (256, 257, 1000, 4096, 100_000)),
    *("\u00e9" * length for length in (128, 500)),
    *("\U0001f600" * 64, "a/" * 16 + "a", "a/" * 500 + "a", "ab/" * 340 + "abc"),
]
KEPT = [
    *("bundle.json", "Bundle.json", "BUNDLE.JSON", "bundle.j\u017fon", "bundle.json/x", "bundle.dsse.json"),
    *("Bundle.dsse.json", "bundle.model-signing.json", "bundle.DSSE.json/x", "\uff42undle.json"),
]
COLLIDING = [
    ("model/a", "model/a"),
    ("model/a", "model/A"),
    ("model/a", "MODEL/A"),
    ("model/a", "Model/b"),
    ("model/a/x", "model/A/y"),
    ("model/a", "model/a/b"),
    ("model/a/b", "model/a"),
    ("model/a", "model/A/b"),
    ("model/a/b/c", "model/a/b"),
    ("model/\u00e9", "model/e\u0301"),
    ("model/\u00e9/x", "model/e\u0301/y"),
    ("model/stra\u00dfe", "model/strasse"),
    ("model/\ufb01", "model/fi"),
    ("model/\u212a", "model/k"),
    ("model/\u0130", "model/i\u0307"),
    ("model/\uff41", "model/a"),
    ("model/tokenizer.json/x", "model/other"),
    ("model", "other"),
    ("Model/tokenizer.json", "other"),
    ("model/Tokenizer.json", "other"),
]


def hostile_paths() -> Iterator[ManifestCase]:
    """A file whose path is not one."""
    named = [
        *(("leads out", path) for path in LEADING_OUT),
        *(("steers", f"model/a{letter}b") for letter in STEERING),
        *(("invisible", f"model/a{letter}b") for letter in INVISIBLE),
        *(("Windows", f"model/{path}") for path in WINDOWS_NAMES),
        *(("overlong", f"model/{path}") for path in OVERLONG),
        *(("kept", path) for path in KEPT),
    ]
    for why, path in named:

        def change(plain: Plain, path: str = path) -> None:
            plain["files"].append({"path": path, "size": 1, "sha256": "0" * 64})

        yield f"{why}: {ascii(path)[:40]}", change
    for first, second in COLLIDING:

        def collide(plain: Plain, paths: tuple[str, str] = (first, second)) -> None:
            plain["files"] += [{"path": path, "size": 1, "sha256": "0" * 64} for path in paths]

        yield f"collision: {first!a} {second!a}", collide


WRONG_NUMBERS: dict[str, object] = {
    "-1": -1,
    "-2^63": -(1 << 63),
    "2^63": 1 << 63,
    "2^64+1": (1 << 64) + 1,
    "10^30": 10**30,
    "10^4000": 10**4000,
    "1.5": 1.5,
    "text": "3",
    "true": True,
    "list": [1],
    "NaN": float("nan"),
    "Infinity": float("inf"),
}
COUNTED = [
    ("sequence",),
    ("security_floor",),
    ("model", "parameters"),
    ("model", "context"),
    ("quant", "bits"),
    ("limits", "context"),
    ("requires", "memory_bytes"),
    ("requires", "disk_bytes"),
    ("requires", "memory_per_token_bytes"),
    ("files", 0, "size"),
    ("files", 2, "size"),
    ("certificate", "tokens"),
]


def hostile_numbers() -> Iterator[ManifestCase]:
    """A count that is no count."""
    for place in COUNTED:
        for name, number in WRONG_NUMBERS.items():
            yield f"{'.'.join(map(str, place))}: {name}", _setting(place, number)
    for place in (("quant", "bits_per_weight"), ("certificate", "export_error", "kl_max")):
        for name in ("NaN", "Infinity", "text", "true", "10^4000"):
            yield f"{'.'.join(place)}: {name}", _setting(place, WRONG_NUMBERS[name])
    for size in ((1 << 50) + 1, 1 << 62, (1 << 36) + 1, 10**9 << 20):
        yield f"file of {size} bytes", _setting(("files", 2, "size"), size)
    yield "10^9 chunks without a table", _setting(("files", 2, "size"), 10**9 << 20)
    yield "stop token -1", _setting(("chat", "stop_token_ids"), [-1])
    yield "floor above its own release", _setting(("security_floor",), 4)
    yield "one content of two sizes", _setting(("files", 1, "sha256"), good_manifest()["files"][0]["sha256"])


def hostile_chunks() -> Iterator[ManifestCase]:
    """A table of chunks that is none of its file, or a digest that is none."""
    size = len(WEIGHTS)
    digest = "0" * 64
    tables: dict[str, list[object]] = {
        "too few bytes": [f"{size - 1}:{digest}"],
        "too many bytes": [f"{size + 1}:{digest}"],
        "overlapping": [f"{size}:{digest}", f"{size}:{digest}"],
        "a second half twice": [f"{size // 2}:{digest}"] * 3,
        "empty chunks": [f"0:{digest}", f"{size}:{digest}"],
        "negative": [f"-1:{digest}", f"{size + 1}:{digest}"],
        "huge": [f"{1 << 40}:{digest}"],
        "a size of a million digits": [f"{'9' * 1_000_000}:{digest}"],
        "many of one byte too many": [f"1:{digest}"] * (size + 1),
        "a hundred thousand": [f"1:{digest}"] * 100_000,
        "hexadecimal": [f"0x{size:x}:{digest}"],
        "signed": [f"+{size}:{digest}"],
        "with spaces": [f" {size}:{digest}"],
        "underscored": [f"3_000:{digest}"],
        "other digits": [f"\u0663000:{digest}"],
        "leading zeros": [f"000{size}:{digest}"],
        "no digest": [f"{size}:"],
        "a short digest": [f"{size}:{digest[1:]}"],
        "a long digest": [f"{size}:{digest}0"],
        "upper case": [f"{size}:{'A' * 64}"],
        "a path": [f"{size}:../../../../etc/passwd"],
        "a line break": [f"{size}:{digest}\n"],
        "no colon": [f"{size}{digest}"],
        "a number": [size],
        "a list": [[size, digest]],
        "null": [None],
    }
    for name, table in tables.items():
        yield f"chunks: {name}", _setting(("files", 2, "chunks"), table)
    for name, sha256 in {
        "empty": "",
        "short": "0" * 63,
        "long": "0" * 65,
        "upper case": "F" * 64,
        "no digits": "g" * 64,
        "a path": "../" * 21 + "a",
        "absolute": "/etc/passwd".ljust(64, "x"),
        "other digits": "\u0660" * 64,
        "a line break": "0" * 63 + "\n",
        "NUL": "0" * 63 + "\0",
    }.items():
        yield f"sha256: {name}", _setting(("files", 2, "sha256"), sha256)


def hostile_types() -> Iterator[ManifestCase]:
    """A value of another type, a key that is missing or too much, a text that is none."""
    good = good_manifest()
    for key in good:
        values: list[object] = [[], {}, 1, "text", False]
        for value in values:
            if type(value) is not type(good[key]) and not (value == [] and key == "wheels"):
                yield f"{key} is {value!r}", _setting((key,), value)
        if key not in ("wheels", "probe", "security_floor"):
            yield f"{key} is missing", _removing(key)
            yield f"{key} is null", _setting((key,), None)
    yield "an unknown key", _setting(("post_install",), "rm -rf /")
    yield "a huge key", _setting(("k" * 1_000_000,), 1)
    yield "another schema", _setting(("schema",), "edgephi.bundle/2")
    yield "a huge schema", _setting(("schema",), "s" * 1_000_000)
    for place in (("name",), ("created",), ("target", "engine"), ("provenance", "command"), ("model", "id")):
        for name, text in {
            "escape": "\x1b[2J\x1b]0;title\x07",
            "NUL": "a\0b",
            "C1": "a\x9bb",
            "half a letter": "\ud800",
        }.items():
            yield f"{place[-1]} with {name}", _setting(place, text)
    for text in ("", " ", "a\nb", "a\rb", "a\u2028b", "a" * 201, "a ", " a", "\u202eabc"):
        yield f"name {ascii(text)[:20]}", _setting(("name",), text)


def hostile_bytes() -> Iterator[BytesCase]:
    """Bytes that are no manifest, or that two readers could understand differently."""
    draw = random.Random(11)
    size = len(json.dumps(good_manifest()))
    for end in sorted({draw.randrange(size) for _ in range(40)}):
        yield f"cut at {end}", _cut(end)
    yield "empty", lambda _data: b""
    yield "nested lists", lambda _data: b"[" * 5_000_000
    yield "nested tables", lambda _data: b'{"a":' * 1_000_000
    yield "nested inside", lambda data: data.replace(b'"created"', b'"x": ' + b"[" * 90_000 + b', "created"')
    yield "null bytes", lambda _data: bytes(10_000)
    yield "UTF-16", lambda data: data.decode().encode("utf-16")
    yield "a byte order mark", lambda data: b"\xef\xbb\xbf" + data
    yield "Latin-1", lambda data: data.replace(b"tiny-cpu", b"tiny-cp\xfc")
    yield "half a letter in bytes", lambda data: data.replace(b"tiny-cpu", b"tiny\xed\xa0\x80")
    yield "two documents", lambda data: data + data
    yield "something behind", lambda data: data + b"rm -rf /"
    yield "a comment", lambda data: b"// comment\n" + data
    yield "single quotes", lambda data: data.replace(b'"', b"'")
    for key in ("sequence", "name", "files", "schema"):
        head = json.dumps({key: good_manifest()[key]})[1:-1]
        yield f"{key} twice", _adding(head.encode())
    yield (
        "a path twice in an entry",
        lambda data: data.replace(
            b'"path": "model/tokenizer.json"', b'"path": "model/tokenizer.json", "path": "../escaped"'
        ),
    )
    yield "1e999", lambda data: data.replace(b'"bits_per_weight": 4.53', b'"bits_per_weight": 1e999')
    yield "five million empty lists", lambda _data: b"[" + b"[]," * 5_000_000 + b"[]]"


def _cut(end: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:end]


def _adding(member: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:-1] + b", " + member + b"}"


# What lies in the folder


def hostile_files() -> Iterator[FolderCase]:
    """Something in place of each file that is not the file, or beside it."""
    for path in [*GOOD_FILES, "bundle.json", "bundle.dsse.json"]:
        for name, place in PLACED.items():

            def put(folder: Path, path: str = path, place: Callable[[Path], object] = place) -> None:
                target = folder / path
                target.unlink(missing_ok=True)
                place(target)

            yield f"{name} for {path}", put
    for path in GOOD_FILES:
        for name, damage in DAMAGES.items():
            yield f"{name}: {path}", _damaging(path, damage)
    for name, add in ADDITIONS.items():
        yield f"beside the files: {name}", add


def _damaging(path: str, damage: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: damage(folder / path)


def _link_to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def _bind_socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may have no more than 107 bytes
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(before)


def _device(kind: int, major: int, minor: int) -> Callable[[Path], object]:
    return lambda path: os.mknod(path, kind | 0o666, os.makedev(major, minor))


PLACED: dict[str, Callable[[Path], object]] = {
    "link to a secret": _link_to("../../outside/secret"),
    "absolute link": _link_to("/etc/passwd"),
    "link to nothing": _link_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to zeros without an end": _link_to("/dev/zero"),
    "link to a folder": _link_to("."),
    "hard link to a secret": lambda path: path.hardlink_to(path.parents[len(path.parents) - 1] / SECRET[0]),
    "pipe": os.mkfifo,
    "socket": _bind_socket,
    "folder": Path.mkdir,
    "zeros without an end": _device(stat.S_IFCHR, 1, 5),
    "a disk": _device(stat.S_IFBLK, 7, 200),
}
SECRET: list[str] = []
"""Where the file is that no bundle may bring into a store; the test says it."""


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "one byte short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "one byte long": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "empty": lambda path: os.truncate(path, 0),
    "a terabyte, sparse": lambda path: os.truncate(path, 1 << 40),
    "a changed bit": _flip,
}
ADDITIONS: dict[str, Callable[[Path], object]] = {
    "a file": lambda folder: (folder / "model/extra.so").touch(),
    "a hidden file": lambda folder: (folder / ".profile").touch(),
    "a folder": lambda folder: (folder / "extra").mkdir(),
    "a link to the root": lambda folder: (folder / "extra").symlink_to("/"),
    "a link in a link": lambda folder: (folder / "model/extra").symlink_to("../model"),
    "a pipe": lambda folder: os.mkfifo(folder / "model/extra"),
    "a name that steers": lambda folder: (folder / "model/\x1b[2J").touch(),
    "a name that is no text": lambda folder: (folder / "\udcff\udcfe").mkdir(),
    "a name that looks like another": lambda folder: (folder / "model/\u202egnp.exe").touch(),
}


# What is inside the files: every hash is right

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


def _setting(place: tuple[str | int, ...], value: object) -> Callable[[Plain], None]:
    def change(plain: Plain) -> None:
        inside: Any = plain
        for key in place[:-1]:
            inside = inside[key]
        inside[place[-1]] = value

    return change


def _removing(key: str) -> Callable[[Plain], None]:
    return lambda plain: plain.pop(key)
