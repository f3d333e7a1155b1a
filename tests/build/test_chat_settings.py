"""A recipe's own way of writing conversations: what it says is what the device's model reads."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgephi.runtime
from edgephi.bundle.manifest import read_manifest
from edgephi.runtime.session import Options
from tests.build.conftest import Here, here  # noqa: F401 - a fixture
from tests.cli.conftest import Edgephi, is_one_error
from tests.server.serving import serving
from tests.tiny_checkpoint import write_tiny_checkpoint

TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
SYSTEM = 'You are a lamp: "on" or off.\nNothing else.'
RECIPE = """
name = "own"
summary = "One of my own"
[chat]
template = "forms/own.jinja"
system = "@lamp.txt"
stop = ["<|placeholder1|>"]
"""
TARGETS = ("cpu", "gguf", "mlx", "openvino")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "forms").mkdir()
    (folder / "forms" / "own.jinja").write_text(TEMPLATE)
    (folder / "lamp.txt").write_text(f"{SYSTEM}\n")
    (folder / "own.toml").write_text(RECIPE)
    return folder / "own.toml"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", context=256)


@pytest.fixture(scope="module")
def bundles(
    checkpoint: Path, recipe: Path, edgephi: Edgephi, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("built")
    for target in TARGETS:
        words = ("--recipe", recipe, "--method", "rtn", "--verify", "off")
        done = edgephi("build", checkpoint, *words, "--target", target, "-o", folder / target)
        assert done.returncode == 0, done.stderr
        assert "chat: the template that the recipe names" in done.stdout
        assert 'system: You are a lamp: "on" or off.\\nNothing else.' in done.stdout
    return {target: folder / target for target in TARGETS}


def by_transformers(folder: Path, messages: list[dict[str, str]]) -> str:
    """What transformers makes of a conversation with the files of an artifact and this template."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    text: Any = tokenizer.apply_chat_template(
        messages, chat_template=TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("target", TARGETS)
def test_every_engine_reads_them(bundles: dict[str, Path], target: str) -> None:
    bundle = bundles[target]
    session = edgephi.runtime.load(bundle, provider="cpu")
    asked = {"role": "user", "content": "who are you?"}
    system = {"role": "system", "content": SYSTEM}
    behind = by_transformers(bundle / "model", [system, asked])
    assert session.system == SYSTEM
    assert session.render("who are you?") == behind
    assert session.generate("who are you?", Options(max_tokens=1)).prompt_tokens == len(
        session.encode_chat([system, asked])
    )
    alone = by_transformers(bundle / "model", [asked])
    assert session.render("who are you?", system="") == alone
    assert session.chat().messages == [system]
    assert session.chat("").messages == []


def test_the_bundle_says_so(bundles: dict[str, Path], here: Here) -> None:  # noqa: F811
    chat = read_manifest(bundles["cpu"]).chat
    assert (chat.template, chat.source, chat.system) == (TEMPLATE, "recipe", SYSTEM)
    told = here("inspect", bundles["cpu"]).stdout
    assert 'You are a lamp: "on" or off.\\nNothing else.' in told
    assert "the template that the recipe names" in told


def test_an_answer_ends_at_the_recipes_tokens_too(bundles: dict[str, Path], checkpoint: Path) -> None:
    added = json.loads((checkpoint / "tokenizer.json").read_text())["added_tokens"]
    (stop,) = (token["id"] for token in added if token["content"] == "<|placeholder1|>")
    assert stop in read_manifest(bundles["cpu"]).chat.stop_token_ids


def test_ollama_gets_the_message(bundles: dict[str, Path]) -> None:
    modelfile = (bundles["gguf"] / "model" / "Modelfile").read_text()
    assert f'SYSTEM """{SYSTEM}"""' in modelfile


def test_requests_without_a_system_message_stand_behind_it(bundles: dict[str, Path], tmp_path: Path) -> None:
    def prompt_tokens(*options: str) -> int:
        (tmp_path / "log").mkdir(exist_ok=True)
        with serving(bundles["cpu"], tmp_path / "log", *options) as server:
            usage: dict[str, int] = server.chat(max_tokens=1).json()["usage"]
            return usage["prompt_tokens"]

    assert prompt_tokens() > prompt_tokens("--system", "") + 10
    assert prompt_tokens("--system", "You are a door.") < prompt_tokens()


def recipe_with(folder: Path, chat: str) -> Path:
    """A recipe in `folder` with these lines under `[chat]`."""
    (folder / "own.toml").write_text(f'name = "own"\nsummary = "One of my own"\n[chat]\n{chat}')
    return folder / "own.toml"


class TestCommandLine:
    @pytest.fixture
    @staticmethod
    def words(checkpoint: Path, tmp_path: Path) -> Iterator[tuple[object, ...]]:
        yield (
            *("build", checkpoint, "--target", "cpu", "--method", "rtn", "--verify", "off"),
            *("-o", tmp_path / "bundle"),
        )

    def test_a_message_of_the_command_line_comes_first(
        self,
        words: tuple[object, ...],
        recipe: Path,
        tmp_path: Path,
        here: Here,  # noqa: F811
    ) -> None:
        assert here(*words, "--recipe", recipe, "--system", "You are a door.").returncode == 0
        manifest = read_manifest(tmp_path / "bundle")
        assert manifest.chat.system == "You are a door."
        assert "--system 'You are a door.'" in manifest.provenance.command

    def test_the_artifact_does_not_depend_on_it(
        self,
        words: tuple[object, ...],
        tmp_path: Path,
        here: Here,  # noqa: F811
    ) -> None:
        assert here(*words).returncode == 0
        assert here(*words[:-1], tmp_path / "door", "--system", "You are a door.").returncode == 0
        plain, door = (read_manifest(tmp_path / name) for name in ("bundle", "door"))
        assert plain.files == door.files  # a device that has one is sent the manifest of the other alone

    def test_it_may_be_read_from_a_file(self, words: tuple[object, ...], tmp_path: Path, here: Here) -> None:  # noqa: F811
        (tmp_path / "door.txt").write_text("\ufeffYou are a door.\n")
        assert here(*words, "--system", f"@{tmp_path / 'door.txt'}").returncode == 0
        manifest = read_manifest(tmp_path / "bundle")
        assert manifest.chat.system == "You are a door."
        assert "--system @door.txt" in manifest.provenance.command

    def test_a_file_that_is_not_there(self, words: tuple[object, ...], tmp_path: Path, here: Here) -> None:  # noqa: F811
        done = here(*words, "--system", f"@{tmp_path / 'nothing'}")
        assert is_one_error(done, 4)
        assert not (tmp_path / "bundle").exists()

    def test_a_stop_that_is_no_token(
        self,
        words: tuple[object, ...],
        tmp_path: Path,
        here: Here,  # noqa: F811
    ) -> None:
        own = recipe_with(tmp_path, 'stop = ["no such token"]\n')
        done = here(*words, "--recipe", own)
        assert is_one_error(done, 4)
        assert (
            "chat: stop: expected tokens of the checkpoint's tokenizer, found 'no such token'" in done.stderr
        )

    def test_a_checkpoint_whose_own_template_is_broken_is_measured_again(
        self,
        checkpoint: Path,
        recipe: Path,
        tmp_path: Path,
        here: Here,  # noqa: F811
    ) -> None:
        broken = shutil.copytree(checkpoint, tmp_path / "broken")
        (broken / "chat_template.jinja").write_text("{{ broken")
        words = ("--recipe", recipe, "--target", "cpu", "--method", "rtn", "-o", tmp_path / "bundle")
        done = here("build", broken, *words)
        assert done.returncode == 0, done.stderr
        done = here("verify", tmp_path / "bundle", "--against", broken)
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("letter", ["\x1b", "\x7f", "\x85"])
    def test_letters_that_no_manifest_can_hold(
        self,
        words: tuple[object, ...],
        tmp_path: Path,
        letter: str,
        here: Here,  # noqa: F811
    ) -> None:
        done = here(*words, "--system", f"a{letter}b")
        assert is_one_error(done, 4)
        assert done.stderr.startswith("error: --system: expected letters, tabs and line breaks")
        (tmp_path / "own.jinja").write_text(TEMPLATE + letter)
        own = recipe_with(tmp_path, 'template = "own.jinja"\n')
        done = here(*words, "--recipe", own)
        assert done.returncode == 4
        assert "[chat] template: expected a template of letters" in done.stderr

    @pytest.mark.parametrize(
        ("template", "what"),
        [
            ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}", "leaves them out"),
            (
                "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
                "{{ m.content }}{% endfor %}",
                "refuses them",
            ),
        ],
    )
    def test_a_message_that_would_never_reach_the_model(
        self,
        words: tuple[object, ...],
        tmp_path: Path,
        template: str,
        what: str,
        here: Here,  # noqa: F811
    ) -> None:
        (tmp_path / "own.jinja").write_text(template)
        own = recipe_with(tmp_path, 'template = "own.jinja"\nsystem = "You are."\n')
        done = here(*words, "--recipe", own)
        assert is_one_error(done, 4)
        assert f"takes system messages, found one that {what}" in done.stderr

    def test_a_message_that_leaves_no_room(
        self,
        words: tuple[object, ...],
        tmp_path: Path,
        here: Here,  # noqa: F811
    ) -> None:
        (tmp_path / "long.txt").write_text("You are a door. " * 200)
        done = here(*words, "--system", f"@{tmp_path / 'long.txt'}")
        assert done.returncode == 3
        assert "tokens, the context is 256" in done.stderr

    @pytest.mark.parametrize("template", ["{% for", "{{ nothing.at.all }}", "hello", "", " \n"])
    def test_a_template_that_cannot_be_rendered(
        self,
        words: tuple[object, ...],
        tmp_path: Path,
        template: str,
        here: Here,  # noqa: F811
    ) -> None:
        own = recipe_with(tmp_path, 'template = "own.jinja"\n')
        (tmp_path / "own.jinja").write_text(template)
        done = here(*words, "--recipe", own)
        assert is_one_error(done, 4)
        assert not (tmp_path / "bundle").exists()
