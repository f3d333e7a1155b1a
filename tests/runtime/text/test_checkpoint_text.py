"""Text in and out with the checkpoint's own tokenizer and template, against transformers and the library."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgephi as package
from edgephi.chat.formats import PHI_3_CHAT, PHI_4_CHAT, PHI_4_MINI_CHAT
from edgephi.chat.rendering import render_chat
from edgephi.errors import BadBundleError, BadInputError
from edgephi.runtime.text.checkpoint_text import CheckpointTokenizer

DEMO = Path(package.__file__).parent / "demo"
MESSAGES = [
    {"role": "system", "content": "You are\n a box."},
    {"role": "user", "content": " Héllo <|end|> 🎉 "},
]


@pytest.fixture(scope="module")
def tokenizer() -> CheckpointTokenizer:
    return CheckpointTokenizer(DEMO / "tokenizer.json")


@pytest.mark.parametrize("chat", [PHI_3_CHAT, PHI_4_MINI_CHAT, PHI_4_CHAT], ids=lambda chat: chat.name)
def test_a_conversation_is_rendered_as_transformers_does(chat: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_file=str(DEMO / "tokenizer.json"))
    text = theirs.apply_chat_template(
        MESSAGES, chat_template=chat.template, tokenize=False, add_generation_prompt=True
    )
    assert render_chat(chat.template, MESSAGES) == text


@pytest.mark.parametrize(
    "template", ["{{ messages", "{{ messages.__class__.__mro__ }}", "{{ nothing.at.all }}"]
)
def test_a_template_that_cannot_or_must_not_be_rendered(template: str) -> None:
    with pytest.raises(BadBundleError, match="expected a template that renders the prompt, found"):
        render_chat(template, MESSAGES)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_the_pieces_of_a_stream_are_the_text(tokenizer: CheckpointTokenizer, text: str) -> None:
    before, *tokens = tokenizer.encode("<|assistant|>\n" + text)
    stream = tokenizer.decode_stream(before)
    streamed = "".join(stream.decode(token) for token in tokens)
    whole = tokenizer.decode([before, *tokens])
    assert whole.startswith(streamed.rstrip("\ufffd"))
    assert set(whole[len(streamed) :]) <= {"\ufffd"}


def test_special_tokens_in_text_become_their_ids_and_no_others_are_added(
    tokenizer: CheckpointTokenizer,
) -> None:
    assert len(tokenizer.encode("<|user|><|end|>")) == 2
    assert tokenizer.decode(tokenizer.encode("<|user|>")) == ""


def test_half_a_surrogate_pair_is_refused(tokenizer: CheckpointTokenizer) -> None:
    with pytest.raises(BadInputError, match="half of a surrogate pair"):
        tokenizer.encode("a\ud800")


def test_a_file_that_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadBundleError, match="expected a tokenizer, found"):
        CheckpointTokenizer(tmp_path / "tokenizer.json")
