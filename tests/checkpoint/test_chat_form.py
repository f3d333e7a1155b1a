"""Whose chat template a bundle takes, and the tokens that end its answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgephi.chat.formats import PHI_3_CHAT, PHI_4_CHAT, PHI_4_MINI_CHAT
from edgephi.checkpoint.chat_form import ChatForm, TokenizerPlaces, read_chat_form
from edgephi.checkpoint.checkpoint import open_checkpoint
from edgephi.checkpoint.config import load_architecture
from edgephi.checkpoint.tokenizer import read_tokenizer
from edgephi.errors import BadCheckpointError
from tests.chat.shapes import (
    ALPACA,
    CHATML,
    GEMMA,
    LLAMA_2,
    LLAMA_3,
    MISTRAL,
    PHI_3,
    PHI_3_WITHOUT_SYSTEM,
    PHI_4,
    PHI_4_MINI,
    PHI_4_MINI_REASONING,
    QWEN,
    ZEPHYR,
)
from tests.tiny_checkpoint import PHI_3_TOKENS, PHI_4_TOKENS

PHI_3_NAMES = ("<s>", "</s>", *PHI_3_TOKENS)
CHATML_NAMES = (*PHI_3_NAMES, "<|im_start|>", "<|im_end|>")
NO_FAMILY = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>")
PREAMBLE = "{% if messages[0]['role'] != 'system' %}{{ '<|system|>\\nYou rhyme.<|end|>\\n' }}{% endif %}"
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"

Read = Callable[..., ChatForm]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """The chat form of a checkpoint with this configuration of its tokenizer."""

    def read(
        template: object = None,
        special_tokens: tuple[str, ...] = PHI_3_NAMES,
        **more: object,
    ) -> ChatForm:
        config = {"bos_token": "<s>", "eos_token": "</s>", **more}
        if template is not None:
            config["chat_template"] = template
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        return read_chat_form(TokenizerPlaces(tmp_path, tmp_path, tmp_path), 512, special_tokens)

    return read


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(BadCheckpointError) as caught:
        read()
    assert "\n" not in caught.value.message
    return caught.value.message


class TestTheCheckpointsOwn:
    @pytest.mark.parametrize(
        "template",
        [
            *(CHATML, LLAMA_2, LLAMA_3, MISTRAL, ZEPHYR, ALPACA, QWEN, PHI_4_MINI_REASONING),
            *(PREAMBLE + PHI_3, "{{ bos_token }}" + PHI_3),
        ],
    )
    def test_is_taken_as_it_is(self, read: Read, template: str) -> None:
        form = read(template, CHATML_NAMES)
        assert (form.template, form.source, form.built_in) == (template, "tokenizer_config.json", None)

    def test_in_a_file_of_its_own_counts_first(self, read: Read, tmp_path: Path) -> None:
        (tmp_path / "chat_template.jinja").write_text(CHATML)
        form = read(PHI_3, CHATML_NAMES)
        assert (form.template, form.source) == (CHATML, "chat_template.jinja")

    def test_of_several_with_names_is_the_default(self, read: Read) -> None:
        named = [{"name": "tool_use", "template": ALPACA}, {"name": "default", "template": CHATML}]
        assert read(named, CHATML_NAMES).template == CHATML

    def test_finds_the_tokens_that_it_asks_for(self, read: Read, tmp_path: Path) -> None:
        (tmp_path / "special_tokens_map.json").write_text(
            json.dumps({"bos_token": "<x>", "pad_token": "<p>"})
        )
        form = read(LLAMA_2, eos_token={"content": "</s>", "lstrip": False})
        assert form.variables == {"bos_token": "<s>", "eos_token": "</s>"}
        assert read(CHATML, CHATML_NAMES).variables == {}

    @pytest.mark.parametrize(
        ("template", "names", "stops"),
        [
            (CHATML, CHATML_NAMES, ("<|endoftext|>", "<|assistant|>", "<|end|>", "</s>", "<|im_end|>")),
            (CHATML, NO_FAMILY, ("</s>", "<|im_end|>")),
            (GEMMA, NO_FAMILY, ("</s>", "<end_of_turn>")),
            (LLAMA_2, NO_FAMILY, ("</s>",)),
            (LLAMA_3, (*NO_FAMILY, "<|eot_id|>"), ("</s>", "<|eot_id|>")),
            (MISTRAL, NO_FAMILY, ("</s>",)),
            (QWEN, (*NO_FAMILY, "<think>", "</think>"), ("</s>", "<|im_end|>")),
            (ZEPHYR, NO_FAMILY, ("</s>",)),
        ],
    )
    def test_ends_an_answer_with_the_token_behind_it(
        self, read: Read, template: str, names: tuple[str, ...], stops: tuple[str, ...]
    ) -> None:
        assert read(template, names).stop_texts == stops

    @pytest.mark.parametrize(
        ("template", "remarks"),
        [
            (CHATML, ()),
            (GEMMA, ("it refuses system messages",)),
            (ALPACA, ("it leaves out system messages",)),
        ],
    )
    def test_what_becomes_of_system_messages_is_said(
        self, read: Read, template: str, remarks: tuple[str, ...]
    ) -> None:
        assert read(template, NO_FAMILY).remarks == remarks


class TestOurs:
    def test_stands_in_where_there_is_none(self, read: Read) -> None:
        form = read()
        assert (form.template, form.source, form.built_in) == (
            PHI_3_CHAT.template,
            "edgephi: phi-3",
            PHI_3_CHAT,
        )
        assert form.stop_texts == (*PHI_3_CHAT.stop_tokens, "</s>")

    @pytest.mark.parametrize(
        ("template", "names", "ours"),
        [(PHI_3, PHI_3_NAMES, PHI_3_CHAT), (PHI_4, PHI_4_TOKENS, PHI_4_CHAT)],
    )
    def test_is_taken_for_a_published_one_that_writes_the_same(
        self, read: Read, template: str, names: tuple[str, ...], ours: Any
    ) -> None:
        form = read(template, names)
        assert form.built_in is ours
        assert form.remarks == ("the checkpoint's own template writes the same",)

    def test_is_phi_4_minis_with_the_tools_that_its_system_messages_may_have(self, tmp_path: Path) -> None:
        def form(template: str) -> ChatForm:
            (tmp_path / "chat_template.jinja").write_text(template)
            return read_chat_form(TokenizerPlaces(tmp_path, tmp_path, tmp_path), 200_064, PHI_3_NAMES)

        assert form(PHI_4_MINI).built_in is PHI_4_MINI_CHAT
        assert form(PHI_4_MINI.replace("<|tool|>", "<|tools|>")).built_in is None
        assert form(PHI_4_MINI + "{% if tools %}{{ tools }}{% endif %}").built_in is None
        assert form("{% set x = tools[0].name.letters if tools %}" + PHI_4_MINI).built_in is None

    def test_mends_one_that_leaves_out_system_messages(self, read: Read) -> None:
        form = read(PHI_3_WITHOUT_SYSTEM)
        assert form.built_in is PHI_3_CHAT
        (remark,) = form.remarks
        assert remark.endswith("template writes the same but leaves out system messages")

    def test_keeps_the_first_token_of_one_that_it_mends(self, read: Read) -> None:
        form = read("{{ bos_token }}" + PHI_3_WITHOUT_SYSTEM)
        assert form.template == "{{ bos_token }}" + PHI_3_CHAT.template
        assert form.variables == {"bos_token": "<s>"}

    def test_never_stands_in_for_another_form_with_the_same_tokens(self, read: Read) -> None:
        trims = PHI_3.replace("message['content']", "message['content'].strip()")
        assert read(trims).built_in is None
        forgets = PHI_3.replace("message['content']", "message['content'].split('</think>')[-1]")
        assert read(forgets).built_in is None


class TestBad:
    def test_neither(self, read: Read) -> None:
        assert "expected a chat template, or the chat tokens of the Phi-3 family" in refused(
            lambda: read(None, NO_FAMILY)
        )

    def test_none_is_the_default(self, read: Read) -> None:
        named = [{"name": "tool_use", "template": CHATML}, {"name": "rag", "template": CHATML}]
        assert "expected one with the name default, found 'tool_use', 'rag'" in refused(lambda: read(named))

    @pytest.mark.parametrize("template", [5, {"default": CHATML}])
    def test_no_text(self, read: Read, template: object) -> None:
        assert "chat_template: expected a text, found" in refused(lambda: read(template))

    @pytest.mark.parametrize(
        ("template", "found"),
        [
            ("{{ messages", "expected a template that renders the prompt, found"),
            ("{{ nothing.at.all }}", "expected a template that renders the prompt, found"),
            ("{{ raise_exception('never') }}", "refuses this conversation: never"),
            (LOOP, "expected a template that takes at most 3 s"),
            ("x" * 70_000, "expected a template of at most 65536 letters"),
        ],
    )
    def test_that_cannot_be_rendered(self, read: Read, template: str, found: str, tmp_path: Path) -> None:
        message = refused(lambda: read(template))
        assert message.startswith(f"{tmp_path / 'tokenizer_config.json'}: ")
        assert found in message

    def test_no_utf_8(self, read: Read, tmp_path: Path) -> None:
        (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
        assert "chat_template.jinja: expected text in UTF-8" in refused(read)

    def test_nothing_ends_an_answer(self, tiny: Path) -> None:
        edit(tiny / "tokenizer.json", lambda table: table["added_tokens"].clear())
        edit(tiny / "tokenizer_config.json", lambda table: table.update(chat_template=ALPACA, eos_token=None))
        edit(tiny / "config.json", lambda table: table.update(eos_token_id=None))
        (tiny / "generation_config.json").unlink()
        message = refused(lambda: read_tokenizer(tiny, load_architecture(tiny)))
        assert "expected a token that ends an answer (eos_token), found none" in message


class TestForEngines:
    """What is copied for engines that read a checkpoint's files themselves."""

    @pytest.fixture
    @staticmethod
    def copied(tiny: Path, tmp_path: Path) -> Callable[[], dict[str, Any]]:
        def copied() -> dict[str, Any]:
            (tmp_path / "copy").mkdir()
            open_checkpoint(tiny, id="tiny", revision="local").copy_tokenizer(tmp_path / "copy")
            found: dict[str, Any] = json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text())
            assert not (tmp_path / "copy" / "chat_template.jinja").exists()
            return found

        return copied

    def test_a_template_in_a_file_of_its_own_is_in_the_configuration(
        self, tiny: Path, copied: Callable[[], dict[str, Any]]
    ) -> None:
        (tiny / "chat_template.jinja").write_text(ALPACA)
        before = json.loads((tiny / "tokenizer_config.json").read_text())
        assert copied() == {**before, "chat_template": ALPACA}

    def test_ours_is_there_where_there_is_none(self, copied: Callable[[], dict[str, Any]]) -> None:
        assert copied()["chat_template"] == PHI_3_CHAT.template

    def test_one_that_is_there_already_stays_as_it_is(self, tiny: Path, tmp_path: Path) -> None:
        edit(tiny / "tokenizer_config.json", lambda table: table.update(chat_template=ALPACA))
        open_checkpoint(tiny, id="tiny", revision="local").copy_tokenizer(tmp_path)
        copy = (tmp_path / "tokenizer_config.json").read_bytes()
        assert copy == (tiny / "tokenizer_config.json").read_bytes()


class TestStopTokens:
    def test_one_that_only_the_tokenizers_configuration_names(self, tiny: Path) -> None:
        edit(tiny / "tokenizer_config.json", lambda table: table.update(eos_token="</s>"))
        found = read_tokenizer(tiny, load_architecture(tiny))
        assert found.special_tokens["</s>"] in found.stop_token_ids


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    table = json.loads(file.read_text())
    change(table)
    file.write_text(json.dumps(table))
