"""A checkpoint with an adapter has the tokenizer and the chat template that the adapter was trained with."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgephi.chat.template import ChatTemplate
from edgephi.checkpoint.adapter.merged import StrengthenedAdapter
from edgephi.checkpoint.adapter.own_tokenizer import read_own_tokenizer
from edgephi.checkpoint.config import load_architecture
from edgephi.checkpoint.located import Located
from edgephi.checkpoint.tokenizer import TokenizerFacts, encode, read_tokenizer
from edgephi.declared.recipe import AS_CHECKPOINT, ChatSettings
from edgephi.errors import BadCheckpointError
from tests.chat.shapes import ALPACA, CHATML, LLAMA_2, PHI_3
from tests.tiny_checkpoint import write_tiny_checkpoint

transformers = pytest.importorskip("transformers")

MARKS = ["<|im_start|>", "<|im_end|>"]
SYSTEM = {"role": "system", "content": "You are a lamp."}
ASKED = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "who are <|im_start|> you?"},
]

Trained = Callable[..., Path]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("base") / "base", layers=1, hidden=64, ffn=64)


@pytest.fixture
def trained(base: Path, tmp_path: Path) -> Trained:
    """A folder with a tokenizer as transformers saves it behind a training on the base."""

    def trained(name: str = "tune", *, marks: list[str] | None = None, **attributes: object) -> Path:
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
        tokenizer.add_special_tokens({"additional_special_tokens": marks or []})
        for attribute, value in attributes.items():
            setattr(tokenizer, attribute, value)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return trained


def read(base: Path, *folders: Path, asked: ChatSettings = AS_CHECKPOINT) -> TokenizerFacts:
    adapters = [StrengthenedAdapter(Located(each.name, "local", each)) for each in folders]
    return read_own_tokenizer(base, adapters, load_architecture(base), asked)


def assert_as_transformers(found: TokenizerFacts, adapter: Path) -> None:
    """Conversations have the text and the tokens that the tokenizer in the adapter's folder gives them."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(adapter)
    template = ChatTemplate(found.chat.template, found.chat.variables)
    for messages in (ASKED[:1], ASKED, [SYSTEM, *ASKED]):
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        text = template.render(messages)
        assert text == expected
        assert encode(found.folder, text) == tokenizer.encode(expected, add_special_tokens=False)


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    table = json.loads(file.read_text())
    change(table)
    file.write_text(json.dumps(table))


def refused(base: Path, *folders: Path) -> BadCheckpointError:
    with pytest.raises(BadCheckpointError) as caught:
        read(base, *folders)
    assert "\n" not in caught.value.message
    return caught.value


class TestTheCheckpointsOwn:
    def test_stays_where_the_adapter_has_none(self, base: Path, tmp_path: Path) -> None:
        assert read(base, tmp_path) == read_tokenizer(base, load_architecture(base))

    def test_stays_where_the_adapters_is_the_same_as_transformers_writes_it(
        self, base: Path, trained: Trained
    ) -> None:
        adapter = trained(pad_token="<unk>", model_max_length=77)
        assert (adapter / "tokenizer.json").read_bytes() != (base / "tokenizer.json").read_bytes()
        assert read(base, adapter) == read_tokenizer(base, load_architecture(base))

    def test_stays_where_the_adapters_puts_something_around_texts(self, base: Path, trained: Trained) -> None:
        """As transformers does, which writes that it puts nothing there."""
        adapter = trained()
        single = [{"Sequence": {"id": "A", "type_id": 0}}]
        around = {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}}
        edit(adapter / "tokenizer.json", lambda table: table.update(post_processor=around))
        assert read(base, adapter) == read_tokenizer(base, load_architecture(base))

    def test_stays_where_the_adapters_cuts_what_it_was_trained_on(self, base: Path, trained: Trained) -> None:
        adapter = trained()
        cut = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
        edit(adapter / "tokenizer.json", lambda table: table.update(truncation=cut))
        assert read(base, adapter).places.remarks == ()


class TestTheAdapters:
    def test_template_is_what_conversations_are_written_by(self, base: Path, trained: Trained) -> None:
        adapter = trained(chat_template=LLAMA_2)
        found = read(base, adapter)
        assert_as_transformers(found, adapter)
        assert found.chat.source == "adapter tune: chat_template.jinja"
        assert found.places.remarks == ()
        assert found.folder == base

    def test_template_may_lie_alone_or_in_a_configuration(self, base: Path, tmp_path: Path) -> None:
        (tmp_path / "chat_template.jinja").write_text(ALPACA)
        assert read(base, tmp_path).chat.template == ALPACA
        (tmp_path / "chat_template.jinja").unlink()
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": ALPACA}))
        found = read(base, tmp_path)
        assert found.chat.template == ALPACA
        assert found.chat.source == f"adapter {tmp_path.name}: tokenizer_config.json"

    def test_template_of_the_family_is_ours(self, base: Path, trained: Trained, tmp_path: Path) -> None:
        other = shutil.copytree(base, tmp_path / "other")
        (other / "chat_template.jinja").write_text(ALPACA)
        adapter = trained(chat_template=PHI_3)
        found = read(other, adapter)
        assert_as_transformers(found, adapter)
        assert found.chat.source == "edgephi: phi-3"
        assert found.chat.remarks == ("the template of adapter tune writes the same",)

    def test_tokens_are_those_that_it_was_trained_with(self, base: Path, trained: Trained) -> None:
        adapter = trained(marks=MARKS, chat_template=CHATML, eos_token="<|im_end|>")
        found = read(base, adapter)
        assert_as_transformers(found, adapter)
        plain = read_tokenizer(base, load_architecture(base))
        assert found.vocabulary_size == plain.vocabulary_size + 2
        end = found.special_tokens["<|im_end|>"]
        assert found.stop_token_ids == (*plain.stop_token_ids, end)
        assert found.places.remarks == (
            "that of adapter tune, 2 tokens more ('<|im_start|>', '<|im_end|>')",
            "adapter tune has '<|im_end|>' as its eos_token",
        )

    def test_rules_for_texts_are_those_that_it_was_trained_with(self, base: Path, trained: Trained) -> None:
        """As transformers 5 writes Llama's: a space is put before the first text only."""
        adapter = trained(chat_template=LLAMA_2)
        space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
        changes = {"normalizer": None, "pre_tokenizer": space}
        edit(adapter / "tokenizer.json", lambda table: table.update(changes))
        found = read(base, adapter)
        assert_as_transformers(found, adapter)
        assert found.places.remarks == (
            "that of adapter tune, with the same tokens and other rules for texts",
        )

    def test_tokens_for_control_may_have_other_names(self, base: Path, trained: Trained) -> None:
        """As Unsloth renames the end of a text to that of a turn."""
        adapter = trained(chat_template=CHATML)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            file = adapter / name
            file.write_text(file.read_text().replace("<|placeholder1|>", "<|im_end|>"))
        found = read(base, adapter)
        assert_as_transformers(found, adapter)
        assert "'<|im_end|>' for '<|placeholder1|>'" in found.places.remarks[0]
        assert found.special_tokens["<|im_end|>"] in found.stop_token_ids

    def test_end_of_an_answer_counts_beside_the_models(self, base: Path, trained: Trained) -> None:
        adapter = trained(eos_token="<|placeholder2|>")
        found, plain = read(base, adapter), read_tokenizer(base, load_architecture(base))
        assert {*found.stop_token_ids} == {
            *plain.stop_token_ids,
            found.special_tokens["<|placeholder2|>"],
        }
        assert found.places.remarks == ("adapter tune has '<|placeholder2|>' as its eos_token",)
        assert found.chat.source == plain.chat.source

    def test_template_serves_a_checkpoint_that_has_none(
        self, base: Path, trained: Trained, tmp_path: Path
    ) -> None:
        adapter = trained(chat_template=LLAMA_2)
        bare = shutil.copytree(base, tmp_path / "bare")
        (bare / "chat_template.jinja").write_text("{{ broken")
        assert_as_transformers(read(bare, adapter), adapter)


class TestSeveral:
    def test_the_last_template_counts(self, base: Path, trained: Trained, tmp_path: Path) -> None:
        first, last = trained("first", chat_template=ALPACA), trained("last", chat_template=LLAMA_2)
        assert read(base, first, last).chat.source == "adapter last: chat_template.jinja"
        assert read(base, last, first).chat.template == ALPACA
        (tmp_path / "silent").mkdir()
        for without in (tmp_path / "silent", trained("plain")):
            assert read(base, first, without).chat.source == "adapter first: chat_template.jinja"

    def test_the_tokens_of_one_stay_beside_the_template_of_another(
        self, base: Path, trained: Trained
    ) -> None:
        marked, last = trained("marked", marks=MARKS), trained("last", chat_template=CHATML)
        found = read(base, marked, last)
        assert found.folder == marked
        assert found.special_tokens["<|im_end|>"] in found.stop_token_ids

    def test_tokens_that_are_not_those_of_one_before(self, base: Path, trained: Trained) -> None:
        one, other = trained("one", marks=MARKS), trained("other", marks=MARKS[::-1])
        error = refused(base, one, other)
        assert error.message.startswith("adapter other: tokenizer.json: expected '<|im_start|>' as token ")
        assert error.message.endswith(", found '<|im_end|>'")
        assert error.hint is not None
        assert "give one of the adapters alone" in error.hint


def test_a_recipes_template_comes_before_all(base: Path, trained: Trained) -> None:
    adapter = trained(marks=MARKS, chat_template=CHATML)
    found = read(base, adapter, asked=ChatSettings(template=ALPACA, stop=("<|im_end|>",)))
    assert (found.chat.template, found.chat.source) == (ALPACA, "recipe")
    assert found.folder == adapter
    (adapter / "chat_template.jinja").write_text("{{ broken")
    assert read(base, adapter, asked=ChatSettings(template=ALPACA)).chat.source == "recipe"


class TestRefused:
    @pytest.fixture
    @staticmethod
    def adapter(trained: Trained) -> Path:
        return trained()

    def test_tokens_in_other_places(self, base: Path, adapter: Path) -> None:
        def swap(table: dict[str, Any]) -> None:
            vocabulary = table["model"]["vocab"]
            vocabulary["▁the"], vocabulary["▁a"] = vocabulary["▁a"], vocabulary["▁the"]

        edit(adapter / "tokenizer.json", swap)
        error = refused(base, adapter)
        assert error.message.startswith("adapter tune: tokenizer.json: expected '▁")
        assert error.message.endswith(("found '▁the'", "found '▁a'"))
        assert error.hint == "give the adapter with the checkpoint that it was trained on"

    def test_fewer_tokens(self, base: Path, adapter: Path) -> None:
        edit(adapter / "tokenizer.json", lambda table: table["added_tokens"].pop())
        assert "expected '<|user|>' as token" in refused(base, adapter).message
        assert refused(base, adapter).message.endswith("found none")

    def test_more_tokens_than_the_model_has_rows(self, base: Path, trained: Trained) -> None:
        rows = load_architecture(base).vocabulary_size
        adapter = trained(marks=[f"<|mark{number}|>" for number in range(rows)])
        error = refused(base, adapter)
        assert f"expected tokens for the {rows} rows of the embedding, found '<|mark" in error.message

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("tokenizer_config.json", {"added_tokens_decoder": {"507": {"content": "<|im_start|>"}}}),
            ("added_tokens.json", {"<|im_start|>": 507}),
        ],
    )
    def test_more_tokens_without_their_file(
        self, base: Path, tmp_path: Path, name: str, content: object
    ) -> None:
        (tmp_path / name).write_text(json.dumps(content))
        error = refused(base, tmp_path)
        assert "expected tokenizer.json, since token 507 of the adapter is '<|im_start|>'" in error.message

    def test_a_template_that_cannot_be_rendered(self, base: Path, adapter: Path) -> None:
        (adapter / "chat_template.jinja").write_text("{{ messages")
        message = refused(base, adapter).message
        assert message.startswith(f"{adapter / 'chat_template.jinja'}: expected a template")

    def test_no_tokenizer_at_all(self, base: Path, adapter: Path) -> None:
        (adapter / "tokenizer.json").write_text("{}")
        assert refused(base, adapter).message.startswith(
            f"{adapter / 'tokenizer.json'}: expected a tokenizer"
        )
