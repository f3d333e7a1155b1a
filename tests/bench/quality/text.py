"""English to measure on, and other English that peers may calibrate with: no document is in both.

Books, a dictionary, sayings and code, of Debian packages and of this Python. The choice is the same each
time, but packages change: numbers can be compared where `Text.digest` is the same.
"""

import gzip
import hashlib
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

PIECE_TOKENS = 256
_PIECES = 10
_CALIBRATION_PIECES = 24
_PREFACE_TOKENS = 200  # titles, tables of contents and licences stand there

_PACKAGES = ("anarchism", "debian-handbook", "fortunes", "jargon-text")
_DOCUMENTS = "usr/share/doc"
_SAYINGS = (
    "cookie",
    "food",
    "humorists",
    "law",
    "medicine",
    "people",
    "politics",
    "science",
    "wisdom",
    "work",
)
_MODULES = ("argparse", "decimal", "heapq", "statistics", "subprocess", "tarfile", "textwrap", "typing")
# Of each kind of text how many pieces are measured, and how many are calibrated with.
_SHARES = {"handbook": (3, 7), "anarchism": (3, 7), "sayings": (2, 4), "jargon": (1, 3), "code": (1, 3)}

Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Text:
    """Pieces of PIECE_TOKENS token ids each, to begin a context with; `what` says where they come from."""

    what: str
    evaluation: tuple[tuple[int, ...], ...]
    calibration: tuple[tuple[int, ...], ...]

    @property
    def digest(self) -> str:
        """What tells this text from others: the beginning of the hash of all its token ids."""
        ids = np.array([*self.evaluation, *self.calibration], np.int64)
        return hashlib.sha256(ids.tobytes()).hexdigest()[:12]


def debian_text(encode: Encode) -> Text:
    """The text of Debian's packages, which `apt-get download` fetches into a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command in (
            ["apt-get", "download", *_PACKAGES],
            ["sh", "-c", 'for i in *.deb; do dpkg-deb -x "$i" .; done'],
        ):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{command[0]}: {done.stderr.strip()}\nwithout packages: --text FILE…")
        documents = folder / _DOCUMENTS
        sayings = folder / "usr/share/games/fortunes"
        library = Path(sysconfig.get_path("stdlib"))
        kinds = {
            "handbook": sorted((documents / "debian-handbook/html/en-US").glob("*.html")),
            "anarchism": sorted((documents / "anarchism/html").glob("sec*.html")),
            "sayings": [sayings / each for each in _SAYINGS],
            "jargon": [documents / "jargon-text/jargon.txt.gz"],
            "code": [library / f"{each}.py" for each in _MODULES],
        }
        return _text(f"Debian's {', '.join(_PACKAGES)}, Python's library", kinds, _SHARES, encode)


def text_of_files(files: Sequence[Path], encode: Encode) -> Text:
    """Text of one's own: even files to measure on, odd ones to calibrate with; halves of a single one."""
    return _text(
        ", ".join(file.name for file in files),
        {"files": files},
        {"files": (_PIECES, _CALIBRATION_PIECES)},
        encode,
    )


def _text(
    what: str, kinds: Mapping[str, Sequence[Path]], shares: Mapping[str, tuple[int, int]], encode: Encode
) -> Text:
    evaluation, calibration = [], []
    for kind, (measured, calibrated) in shares.items():
        documents = [list(encode(_read(file))) for file in kinds[kind]]
        documents = [ids for ids in documents if len(ids) >= _PREFACE_TOKENS + PIECE_TOKENS]
        if len(documents) == 1:
            middle = len(documents[0]) // 2
            documents = [documents[0][:middle], documents[0][middle:]]
        evaluation += _pieces(documents[::2], measured, kind)
        calibration += _pieces(documents[1::2], calibrated, kind)
    return Text(what, tuple(evaluation), tuple(calibration))


def _pieces(documents: Sequence[Sequence[int]], count: int, kind: str) -> list[tuple[int, ...]]:
    """`count` pieces of as many documents as there are, several of one where there are too few."""
    if len(documents) > count:
        documents = [documents[index * len(documents) // count] for index in range(count)]
    rounds = -(-count // max(1, len(documents)))
    found = []
    for index in range(count if documents else 0):
        ids = documents[index % len(documents)]
        room = len(ids) - _PREFACE_TOKENS - PIECE_TOKENS
        start = _PREFACE_TOKENS + room * (index // len(documents)) // rounds
        if room >= PIECE_TOKENS * (rounds - 1):
            found.append(tuple(ids[start : start + PIECE_TOKENS]))
    if len(found) < count:
        raise SystemExit(
            f"{kind}: expected text for {count} pieces of {PIECE_TOKENS} tokens, found {len(found)}"
        )
    return found


def _read(file: Path) -> str:
    data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    text = data.decode("utf-8", errors="replace")
    if file.suffix != ".html":
        return text
    page = _Page()
    page.feed(text)
    return page.text()


class _Page(HTMLParser):
    """The words of a page, a line for each of its blocks."""

    _SILENT = frozenset({"head", "script", "style"})
    _BLOCKS = frozenset(
        {"blockquote", "br", "dd", "div", "dt", "h1", "h2", "h3", "h4", "li", "p", "pre", "td"}
    )

    def __init__(self) -> None:
        super().__init__()
        self._words: list[str] = []
        self._silent = 0

    def text(self) -> str:
        """Its lines, without those that are empty."""
        lines = (" ".join(line.split()) for line in "".join(self._words).splitlines())
        return "\n".join(line for line in lines if line)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self._silent += tag in self._SILENT
        if tag in self._BLOCKS:
            self._words.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in self._SILENT
        if tag in self._BLOCKS:
            self._words.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._words.append(data)
