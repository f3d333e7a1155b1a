"""Nothing that strangers wrote steers the terminal of whoever runs a command, whatever the command."""

import ast
import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import edgephi
from edgephi.bundle.manifest import read_manifest
from edgephi.bundle.unfinished import write_manifest
from tests.cli.conftest import Edgephi, is_one_error
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


@pytest.fixture(scope="module")
def turned_artifact(demo_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters whose ids, revisions and base are named so."""
    folder = shutil.copytree(demo_artifact, tmp_path_factory.mktemp("turned") / "artifact")
    manifest = read_manifest(folder)
    assert manifest.base is not None
    adapters = [
        dataclasses.replace(each, id=BACKWARDS, revision=f"{BACKWARDS}\nerror: two lines")
        for each in manifest.adapters
    ]
    base = dataclasses.replace(manifest.base, name=f"{BACKWARDS}\nhint: two lines")
    write_manifest(folder, dataclasses.replace(manifest, adapters=tuple(adapters), base=base))
    return Path(folder)


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


class TestAnAdaptersName:
    @pytest.mark.parametrize("command", ["inspect", "verify"])
    def test_is_shown_as_it_is_written(self, turned_artifact: Path, command: str, edgephi: Edgephi) -> None:
        raw = on_a_terminal(command, turned_artifact).decode()
        assert "\u202e" not in raw
        assert r"official\u202e gnp.exe" in raw
        lines = edgephi(command, turned_artifact).stdout.splitlines()
        assert not [line for line in lines if line.startswith(("error:", "hint:"))]
        if command == "inspect":
            assert [line for line in lines if len(line) > 80] == []

    def test_stays_in_one_line_of_an_error(
        self, turned_artifact: Path, edgephi: Edgephi, tmp_path: Path
    ) -> None:
        for words in (("run", turned_artifact, LIGHT), ("flash", turned_artifact, tmp_path / "store")):
            done = edgephi(*words)
            assert is_one_error(done, 4)
            assert r"official\u202e gnp.exe" in done.stderr
            assert "\u202e" not in done.stderr

    @pytest.mark.parametrize("asked", ["\x1b[2J", "\u202egnp.exe", "a\nb"])
    def test_that_is_asked_for_is_shown_as_it_is_written(
        self, demo_bundle: Path, demo_adapters: dict[str, Path], edgephi: Edgephi, tmp_path: Path, asked: str
    ) -> None:
        saved = shutil.copytree(demo_adapters["faint"], tmp_path / asked)
        for done in (
            edgephi("run", demo_bundle, LIGHT, "--adapter", asked),
            edgephi("adapter", "build", demo_bundle, saved, "-o", tmp_path / "out"),
            edgephi("adapter", "build", demo_bundle, f"{asked}={saved}", "-o", tmp_path / "out"),
        ):
            assert is_one_error(done, 4 if "run" in done.args else 2)
            assert not set(done.stderr) & {"\x1b", "\u202e"}

    def test_of_a_folder_is_an_escape_in_the_manifest(
        self, demo_bundle: Path, demo_adapters: dict[str, Path], edgephi: Edgephi, tmp_path: Path
    ) -> None:
        saved = shutil.copytree(demo_adapters["faint"], tmp_path / "a\x1b[2J\u202eb")
        words = ("-o", tmp_path / "out", "--verify", "off")
        done = edgephi("adapter", "build", demo_bundle, f"tea={saved}", *words)
        assert done.returncode == 0, done.stderr
        assert not set(done.stdout + done.stderr) & {"\x1b", "\u202e"}
        (adapter,) = read_manifest(tmp_path / "out").adapters
        assert (adapter.name, adapter.id) == ("tea", r"a\x1b[2J\u202eb")


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
