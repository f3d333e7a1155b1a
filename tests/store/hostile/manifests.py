"""Manifests that somebody made to do harm: a good one each, and one thing about it that is a lie.

Each family yields the name of a case, and what it does to the plain data of a manifest, or to its bytes.
Numbers that are drawn come from a fixed seed.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from tests.store.good_bundle import WEIGHTS, Plain, good_manifest

ManifestCase = tuple[str, Callable[[Plain], object]]
BytesCase = tuple[str, Callable[[bytes], bytes]]

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


def hostile_adapters() -> Iterator[ManifestCase]:
    """An adapter that leads to what is not its own, that hides, or whose base is none."""
    weights = "model/model.onnx.data"
    files = [entry["path"] for entry in good_manifest()["files"]]
    adapter: Plain = {"name": "tea", "id": "a/tea", "revision": "main", "file": weights}
    base: Plain = {
        "name": "base",
        "sequence": 1,
        "sha256": "0" * 64,
        "files": [path for path in files if path != weights],
    }

    def with_both(own: Plain, beside: Plain) -> Callable[[Plain], None]:
        return lambda plain: plain.update(adapters=[{**adapter, **own}], base={**base, **beside})

    for path in ("../escaped", "/etc/passwd", "model/none", "", "model/tokenizer.json", weights.upper()):
        yield f"an adapter's file {path!r}", with_both({"file": path}, {})
    for name in ("", "..", "a/b", "a:b", "con", "tea.", "a b", "\u202ea", "a" * 65, "a\n"):
        yield f"an adapter's name {ascii(name)[:20]}", with_both({"name": name}, {})
    for key, value in (("id", "\x1b[2J"), ("scale", "1"), ("scale", None), ("probe", 1), ("certificate", [])):
        yield f"an adapter's {key} {value!r}", with_both({key: value}, {})
    for sha256 in ("", "0" * 63, "A" * 64, "../../../etc/passwd"):
        yield f"a base's sha256 {sha256[:20]!r}", with_both({}, {"sha256": sha256})
    for name, paths in (("none", []), ("all", files), ("others", ["../escaped"])):
        yield f"a base with {name} of the files", with_both({}, {"files": paths})
    yield "adapters without a base", lambda plain: plain.update(adapters=[adapter])
    yield "a base without adapters", lambda plain: plain.update(base=base)
    yield "two adapters of one name", lambda plain: plain.update(adapters=[adapter, adapter], base=base)
    yield (
        "a hundred thousand adapters of one name",
        lambda plain: plain.update(adapters=[adapter] * 100_000, base=base),
    )


def hostile_types() -> Iterator[ManifestCase]:
    """A value of another type, a key that is missing or too much, a text that is none."""
    good = good_manifest()
    for key in good:
        values: list[object] = [[], {}, 1, "text", False]
        for value in values:
            if type(value) is not type(good[key]) and not (value == [] and key == "wheels"):
                yield f"{key} is {value!r}", _setting((key,), value)
        if key not in ("wheels", "probe", "picture_probe", "security_floor", "adapters", "base"):
            yield f"{key} is null", _setting((key,), None)
            if key != "deviation":
                yield f"{key} is missing", _removing(key)
    yield "an unknown key", _setting(("post_install",), "rm -rf /")
    yield "a huge key", _setting(("k" * 1_000_000,), 1)
    yield "another schema", _setting(("schema",), "edgephi.bundle/2")
    yield "a huge schema", _setting(("schema",), "s" * 1_000_000)
    for place in (
        *(("name",), ("created",), ("deviation",)),
        *(("target", "engine"), ("provenance", "command"), ("model", "id")),
    ):
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


def _setting(place: tuple[str | int, ...], value: object) -> Callable[[Plain], None]:
    def change(plain: Plain) -> None:
        inside: Any = plain
        for key in place[:-1]:
            inside = inside[key]
        inside[place[-1]] = value

    return change


def _removing(key: str) -> Callable[[Plain], None]:
    return lambda plain: plain.pop(key)
