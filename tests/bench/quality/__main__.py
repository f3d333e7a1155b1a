"""Quantisation loss of a trained model: edgephi's methods and formats, and every peer that runs here.

`bits` are those of the whole artifact for each weight of the model, with scales of 16 bits, zero points of 4,
and a tied head once; `linear` those of the layers' matrices. KL is in nats for each token, original ||
quantised, with its standard error over pieces of text. `difference` is that of the KL to the row that
--against names, piece by piece, which is far surer than either. Seconds and memory are those of the
quantising; memory only where it is a process: for ours the whole `edgephi build`.

ONLY, SKIP and AGAINST are parts of a row's name, such as "Q4_K" or "edgephi"; --list prints the names.
"""

import argparse
import hashlib
import inspect
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tests.bench.measure import report
from tests.bench.quality import genai, llama_cpp, mlx, nncf_openvino, ours
from tests.bench.quality.harness import Harness, Measured, mean, standard_error
from tests.bench.quality.quantised import Subject, Way
from tests.bench.quality.text import Text, debian_text, text_of_files

_SOURCES = (ours, mlx, genai, nncf_openvino, llama_cpp)


@dataclass(frozen=True)
class Row:
    """A way to quantise, what it takes, and what it costs."""

    who: str
    bits: float
    linear_bits: float
    seconds: float
    peak_bytes: int | None
    measured: Measured


def main() -> None:
    """Quantise, measure, print."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("checkpoint", type=Path, help="a folder with a trained model of the Phi-3 family")
    arguments.add_argument("--only", action="append", default=[], help="may be given again")
    arguments.add_argument("--skip", action="append", default=[], help="may be given again")
    arguments.add_argument(
        "--against", default="", help="the row that others are held against [default: the first]"
    )
    arguments.add_argument(
        "--text", type=Path, nargs="+", help="files of English instead of Debian's packages"
    )
    arguments.add_argument(
        "--keep", type=Path, help="folder for what was measured of peers, to be used again"
    )
    arguments.add_argument("--json", type=Path, help="file for all numbers, those of each piece too")
    arguments.add_argument(
        "--list", action="store_true", help="print the names of all rows, and measure nothing"
    )
    options = arguments.parse_args()
    ways = [
        way for source in _SOURCES for way in source.ways() if _is_wanted(way, options.only, options.skip)
    ]
    if options.list:
        print(*(way.who for way in ways), sep="\n")
        return
    if not ways:
        raise SystemExit(f"expected a row with one of {options.only} in its name, found none: see --list")
    text = read_text(options.checkpoint, options.text)
    harness = Harness(options.checkpoint, text.evaluation)
    rows, failed = [], []
    with tempfile.TemporaryDirectory() as scratch:
        subject = Subject(options.checkpoint.resolve(), harness, text, Path(scratch))
        for way in ways:
            try:
                rows.append(_row(way, subject, options.keep))
            except SystemExit as cause:  # of a process that ended badly
                failed.append(way.who)
                print(f"{way.who}: {cause}", file=sys.stderr, flush=True)
            else:
                print(*_cells(rows[-1], None), sep="\t", file=sys.stderr, flush=True)
    if rows:
        _print(rows, options.against, text, harness)
    if failed:
        print(f"not measured, for the reasons above: {', '.join(failed)}", file=sys.stderr)
    if options.json:
        document = {"text": text.what, "digest": text.digest, "perplexity": harness.perplexity}
        content = {**document, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sys.exit(bool(failed))


def _is_wanted(way: Way, only: Sequence[str], skip: Sequence[str]) -> bool:
    return (not only or any(part in way.who for part in only)) and not any(part in way.who for part in skip)


def read_text(checkpoint: Path, files: Sequence[Path] | None) -> Text:
    """The text to measure a checkpoint on, of files or, without any, of Debian's packages."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))

    def encode(words: str) -> list[int]:
        ids: list[int] = tokenizer.encode(words, add_special_tokens=False).ids
        return ids

    return text_of_files(files, encode) if files else debian_text(encode)


def _row(way: Way, subject: Subject, keep: Path | None) -> Row:
    """Quantise and measure; of a peer, read what was measured before if nothing has changed since."""
    kept = None
    if keep is not None and way.package is not None:
        keep.mkdir(parents=True, exist_ok=True)
        kept = keep / f"{_key(way, subject)}.json"
    if kept is not None and kept.is_file():
        return _read(json.loads(kept.read_bytes()))
    quantised = way.quantise(subject)
    measured = subject.harness.measure(quantised.model)
    row = Row(
        way.who,
        quantised.bits,
        quantised.linear_bits,
        quantised.seconds,
        quantised.peak_bytes,
        measured,
    )
    if kept is not None:
        kept.write_text(json.dumps(asdict(row)) + "\n", encoding="utf-8")
    return row


def _key(way: Way, subject: Subject) -> str:
    """What a peer's numbers depend on: checkpoint, text, the peer's version, and how we call it."""
    digest = hashlib.sha256()
    for file in sorted(subject.checkpoint.glob("*.safetensors")):
        with file.open("rb") as data:
            digest.update(hashlib.file_digest(data, "sha256").digest())
    source = next(source for source in _SOURCES if any(way.who == each.who for each in source.ways()))
    for word in (way.who, subject.text.digest, version(way.package or ""), inspect.getsource(source)):
        digest.update(word.encode())
    return digest.hexdigest()[:24]


def _read(content: dict[str, Any]) -> Row:
    measured = Measured(**{name: tuple(values) for name, values in content.pop("measured").items()})
    return Row(**content, measured=measured)


def _print(rows: Sequence[Row], against: str, text: Text, harness: Harness) -> None:
    base = next((row for row in rows if against in row.who), None)
    if base is None:
        print(f"expected a row with {against!r} in its name, found none", file=sys.stderr)
        base = rows[0]
    count, calibrated = (sum(map(len, pieces)) for pieces in (text.evaluation, text.calibration))
    print(f"{count:,} tokens of {text.what}; text {text.digest}")
    print(f"the original's perplexity is {harness.perplexity:.2f}")
    print(f"peers are calibrated with {calibrated:,} other tokens of it, ours with what edgephi ships")
    print(f"differences are to {base.who}")
    header = ("", "bits", "linear", "KL", "±", "difference", "top-1", "perplexity", "seconds", "memory")
    report(header, [_cells(row, base) for row in sorted(rows, key=lambda row: -mean(row.measured.kl))])


def _cells(row: Row, base: Row | None) -> tuple[str, ...]:
    kl = row.measured.kl
    difference = ""
    if base is not None and base is not row:
        differences = [own - other for own, other in zip(kl, base.measured.kl, strict=True)]
        difference = f"{mean(differences):+.4f} ± {standard_error(differences):.4f}"
    return (
        row.who,
        f"{row.bits:.2f}",
        f"{row.linear_bits:.2f}",
        f"{mean(kl):.4f}",
        f"{standard_error(kl):.4f}",
        difference,
        f"{mean(row.measured.top1):.1%}",
        f"{row.measured.perplexity:.2f}",
        f"{row.seconds:.0f}",
        "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f} MB",
    )


if __name__ == "__main__":
    main()
