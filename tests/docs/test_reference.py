"""The documents against the code: the reference, links, and every command line that they show."""

import dataclasses
import re
import shlex
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgephi.bundle.certificate import Certificate
from edgephi.bundle.manifest import Manifest
from edgephi.bundle.quantisation import Quantisation
from edgephi.cli.main import cli
from edgephi.errors import EdgephiError
from edgephi.export.stream.packed_tensor import ALIGNMENT
from tests.docs.generate_reference import REFERENCE, reference

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`(edgephi(?: [^`]*)?)`")
_LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)|src(?:set)?=\"([^\"]+)\"")


def test_the_reference_is_what_the_commands_say() -> None:
    hint = "run python -m tests.docs.generate_reference"
    assert REFERENCE.read_text(encoding="utf-8") == reference(), hint


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as forges make them."""
    prose = _FENCE.sub("", document.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    prose = _FENCE.sub("", document.read_text(encoding="utf-8"))
    links = [next(filter(None, found)) for found in _LINK.findall(prose)]
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        there = document.parent / name if name else document
        assert there.exists(), link
        assert there.resolve().is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(there), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_and_program_of_ours_that_is_named_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    paths = re.findall(r"`((?:edgephi|tests|recipes|targets|docs)/[\w./-]+)`", text)
    modules = re.findall(r"python -m (tests(?:\.\w+)+)", text)
    files = (module.replace(".", "/") for module in modules)
    named = {*paths, *(f"{file}/__main__.py" if (ROOT / file).is_dir() else f"{file}.py" for file in files)}
    placeholders = {name for name in named if re.search(r"\b[A-Z_]{2,}\b", name)}
    assert [name for name in sorted(named - placeholders) if not (ROOT / name).exists()] == []


def shell_lines(document: Path) -> Iterator[str]:
    """Every line of a shell that a document shows: of `sh` blocks, and after the `$` of `console` blocks."""
    for language, block in _FENCE.findall(document.read_text(encoding="utf-8")):
        lines = block.replace("\\\n", " ").splitlines()
        if language == "sh":
            yield from (line for line in lines if not line.startswith("#"))
        elif language == "console":
            yield from (line.removeprefix("$ ") for line in lines if line.startswith("$ "))


def edgephi_calls(line: str) -> Iterator[list[str]]:
    """The arguments of each call of edgephi in a line of a shell."""
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    call: list[str] = []
    is_file = False  # after a redirection
    for word in [*words, ";"]:
        if not set(word) <= set("|&;<>()"):
            if not is_file:
                call.append(word)
            is_file = False
            continue
        if set(word) & set("<>"):
            is_file = True
            if call and call[-1].isdecimal():  # 2>
                call.pop()
            continue
        while call and re.match(r"\w+=", call[0]):  # variables of the environment
            call.pop(0)
        if call and Path(call[0]).name == "edgephi":
            yield call[1:]
        call = []


def parse(arguments: list[str]) -> None:
    """Have click parse the arguments of `edgephi` without running anything. Raises click.UsageError."""
    command: click.Command = cli
    context: click.Context | None = None
    name = "edgephi"
    while isinstance(command, click.Group):
        context = click.Context(command, parent=context, info_name=name)
        names = set(command.list_commands(context))
        split = next((i for i, word in enumerate(arguments) if word in names), None)
        if split is None:
            unknown = [word for word in arguments if not word.startswith("-")]
            if unknown:
                raise click.UsageError(f"No such command {unknown[0]!r}.", context)
            break
        command.parse_args(click.Context(command, info_name=name), arguments[: split + 1])
        name, arguments = arguments[split], arguments[split + 1 :]
        below = command.get_command(context, name)
        assert below is not None
        command = below
    try:
        command.make_context(name, list(arguments), parent=context).close()
    except click.exceptions.Exit as done:  # --help, --version
        assert done.exit_code == 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_line_parses(document: Path) -> None:
    for line in shell_lines(document):
        for arguments in edgephi_calls(line):
            try:
                parse(arguments)
            except click.UsageError as error:
                pytest.fail(f"{line}: {error.format_message()}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_a_sentence_exists(document: Path) -> None:
    prose = _FENCE.sub("", document.read_text(encoding="utf-8"))
    for line in _INLINE.findall(prose):
        for arguments in edgephi_calls(line.replace("…", "").replace("\n", " ")):
            try:
                parse(arguments)
            except (click.MissingParameter, click.BadOptionUsage, click.exceptions.NoArgsIsHelpError):
                pass  # a name is enough in a sentence
            except click.UsageError as error:
                pytest.fail(f"`{line}`: {error.format_message()}")


def test_the_parser_of_this_test_sees_mistakes() -> None:
    calls = [call for line in ("X=1 edgephi plan demo -t cpu 2>f | head", "a && .venv/bin/edgephi runn x")
             for call in edgephi_calls(line)]  # fmt: skip
    assert calls == [["plan", "demo", "-t", "cpu"], ["runn", "x"]]
    parse(calls[0])
    parse(["--version"])
    parse(["recipes", "show", "demo"])
    for wrong in (["runn", "x"], ["plan", "demo", "--tarket", "cpu"], ["recipes", "sohw"], ["run"]):
        with pytest.raises(click.UsageError):
            parse(wrong)


def manifest_keys(kind: type, prefix: str = "") -> Iterator[str]:
    """Every key of `bundle.json`, with a dot between the levels."""
    for name, hint in typing.get_type_hints(kind).items():
        inner = next(
            (each for each in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(each)), None
        )
        yield f"{prefix}{name}"
        # The three divergences share one table of keys, and so do all certificates.
        is_told = inner is Certificate and prefix != ""
        if isinstance(inner, type) and not isinstance(hint, types.UnionType) and not is_told:
            yield from manifest_keys(inner, f"{prefix}{name}.")


def test_the_bundle_format_names_every_key() -> None:
    text = (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8")
    assert [key for key in manifest_keys(Manifest) if f"| `{key}` |" not in text] == []
    assert [key for key in manifest_keys(Quantisation) if f"`{key}`" not in text] == []


def test_the_bundle_format_knows_the_alignment() -> None:
    text = (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8")
    assert f"a multiple of {ALIGNMENT} bytes" in text


def test_the_guide_names_every_exit_code() -> None:
    text = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    kinds = [EdgephiError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {kind.exit_code for kind in kinds} <= {
        int(code) for code in re.findall(r"^\| (\d+) \|", text, re.M)
    }
