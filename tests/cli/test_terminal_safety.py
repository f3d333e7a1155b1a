"""Nothing that strangers wrote steers the terminal of whoever runs a command, whatever the command."""

import ast
import dataclasses
import json
import os
import subprocess
from pathlib import Path

import pytest

import edgephi
from edgephi.bundle.manifest import read_manifest
from edgephi.bundle.unfinished import write_manifest
from tests.cli.conftest import Edgephi
from tests.cli.terminal import Terminal
from tests.store.bundles import remade

LIGHT = "turn on the kitchen light"
BACKWARDS = "official\u202e gnp.exe"
TOKENIZER = "model/tokenizer.json"


@pytest.fixture(scope="module")
def hostile(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's bundle, whose model writes an escape where it wrote "light", and a bell."""
    tokenizer = json.loads((demo_bundle / TOKENIZER).read_bytes())
    vocabulary = tokenizer["model"]["vocab"]
    for byte, word in (("<0x1B>", "light"), ("<0x07>", "kitchen")):
        vocabulary[byte], vocabulary[word] = vocabulary[word], vocabulary[byte]
    data = json.dumps(tokenizer, ensure_ascii=False).encode()
    return remade(demo_bundle, tmp_path_factory.mktemp("hostile") / "bundle", {TOKENIZER: data}, probe=None)


@pytest.fixture(scope="module")
def turned(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = remade(demo_bundle, tmp_path_factory.mktemp("turned") / "bundle", {})
    manifest = read_manifest(bundle)
    model = dataclasses.replace(manifest.model, id=BACKWARDS, revision=BACKWARDS)
    provenance = dataclasses.replace(manifest.provenance, command=BACKWARDS)
    write_manifest(bundle, dataclasses.replace(manifest, model=model, provenance=provenance))
    return bundle


def on_a_terminal(*arguments: object) -> bytes:
    """All that a command writes to a terminal, as it writes it."""
    with Terminal(*arguments, environment={"LC_ALL": "C.UTF-8"}) as terminal:
        while True:
            try:
                data = os.read(terminal.screen, 4096)
            except OSError:  # what a terminal says when its last program has ended
                break
            terminal.raw += data
        terminal.exit_code()
        return terminal.raw


class TestAModelsOwnAnswer:
    def test_shows_its_escapes_on_a_terminal(self, hostile: Path) -> None:
        raw = on_a_terminal("run", hostile, LIGHT)
        assert rb"\x1b" in raw and rb"\x07" in raw
        assert b'\x1b"' not in raw and b"\x07" not in raw

    def test_is_exact_in_a_pipe(self, hostile: Path, edgephi: Edgephi) -> None:
        piped = edgephi("run", hostile, LIGHT).stdout
        assert "\x1b" in piped and "\x07" in piped
        assert json.loads(edgephi("run", hostile, LIGHT, "--json").stdout)["text"] == piped.removesuffix("\n")

    def test_is_exact_in_a_document_on_a_terminal(self, hostile: Path, edgephi: Edgephi) -> None:
        raw = on_a_terminal("run", hostile, LIGHT, "--json")
        document = raw[raw.index(b"{") :].decode()
        assert "\x1b" not in document and "\x07" not in document
        assert json.loads(document)["text"] == edgephi("run", hostile, LIGHT).stdout.removesuffix("\n")

    def test_shows_its_escapes_in_a_chat(self, hostile: Path) -> None:
        with Terminal("chat", hostile, "--no-history", environment={}) as terminal:
            terminal.wait_for("/4096> ")
            terminal.enter(LIGHT)
            said = terminal.wait_for("/4096> ")
            assert r"\x1b" in said and r"\x07" in said
            assert b'\x1b"' not in terminal.raw


class TestANameInAManifest:
    """A manifest with control characters is refused; letters that turn a line around are in no such list."""

    @pytest.mark.parametrize("command", ["inspect", "verify", "run"])
    def test_is_shown_as_it_is_written(self, turned: Path, command: str) -> None:
        raw = on_a_terminal(command, turned, *([LIGHT] if command == "run" else []))
        assert "\u202e" not in raw.decode()

    def test_is_seen(self, turned: Path, edgephi: Edgephi) -> None:
        assert r"\u202e" in edgephi("inspect", turned).stdout

    def test_is_exact_in_a_document(self, turned: Path, edgephi: Edgephi) -> None:
        data = edgephi("inspect", turned, "--json").stdout
        assert data.encode() == (turned / "bundle.json").read_bytes()
        raw = on_a_terminal("inspect", turned, "--json")
        assert "\u202e" not in raw.decode()
        assert json.loads(raw)["model"]["id"] == BACKWARDS


def test_an_error_is_one_line_and_steers_nothing(edgephi: Edgephi) -> None:
    done: subprocess.CompletedProcess[str] = edgephi("inspect", "no\x1b[2J\u202e\nsuch")
    assert done.stderr.splitlines()[0].startswith(r"error: no\x1b[2J\u202e such")
    assert not set(done.stderr) & {"\x1b", "\u202e"}


PRINTING = ("click.echo", "click.secho", "print")
DRAWS = {"say.py", "progress.py", "chat_input.py"}
"""Print by themselves, and say why."""


def test_every_command_prints_through_one_place() -> None:
    """Else the next command forgets it: `click.echo` is used only to draw, with what clears a line."""
    wrong = []
    for path in sorted(Path(edgephi.__file__).parent.joinpath("cli").rglob("*.py")):
        if path.name in DRAWS:
            continue
        source = path.read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "click.echo",
                "click.secho",
                "print",
            ):
                text = ast.unparse(node)
                if "CLEAR_LINE" not in text and "\\x1b" not in text:
                    wrong.append(f"{path.name}:{node.lineno}: {text}")
    assert wrong == []
