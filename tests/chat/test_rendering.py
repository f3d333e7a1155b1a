"""Chat templates of every published style are rendered as transformers does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError, UndefinedError
from transformers import PreTrainedTokenizerFast

import edgephi as package
from edgephi.chat.template import ChatTemplate
from edgephi.errors import BadBundleError, BadInputError
from edgephi.runtime.text.checkpoint_text import CheckpointTokenizer
from tests.chat.conversations import CONVERSATIONS, TOOL_CONVERSATIONS, TOOLS
from tests.chat.shapes import GEMMA, LLAMA_2, SHAPES

TOKENIZER = Path(package.__file__).parent / "demo/tokenizer.json"
VARIABLES = {"bos_token": "<s>", "eos_token": "<|end|>", "unk_token": "<unk>"}


@pytest.fixture(scope="module")
def theirs() -> Any:
    return PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER), **VARIABLES)


@pytest.fixture(scope="module")
def ours() -> CheckpointTokenizer:
    return CheckpointTokenizer(TOKENIZER)


@pytest.fixture(scope="module", params=SHAPES)
def shape(request: pytest.FixtureRequest) -> ChatTemplate:
    """One for all conversations: its process stays."""
    return ChatTemplate(SHAPES[request.param], VARIABLES)


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("answer_follows", [True, False], ids=["prompt", "whole"])
@pytest.mark.parametrize("name", [*CONVERSATIONS, *TOOL_CONVERSATIONS])
def test_text_and_ids_are_those_of_transformers(
    shape: ChatTemplate,
    name: str,
    theirs: Any,
    ours: CheckpointTokenizer,
    answer_follows: bool,
    tools: Sequence[Any] | None,
) -> None:
    messages = (CONVERSATIONS | TOOL_CONVERSATIONS)[name]

    def wanted(*, tokenize: bool) -> Any:
        return theirs.apply_chat_template(
            messages,
            chat_template=shape.text,
            tools=tools,
            add_generation_prompt=answer_follows,
            tokenize=tokenize,
        )

    try:
        text = wanted(tokenize=False)
    except (TypeError, UndefinedError):  # a message without content, for a template that knows none such
        with pytest.raises(BadBundleError, match="expected a template that renders the prompt"):
            shape.render(messages, tools=tools, answer_follows=answer_follows)
        return
    except TemplateError as refusal:
        with pytest.raises(BadInputError, match="the model's chat template refuses") as caught:
            shape.render(messages, tools=tools, answer_follows=answer_follows)
        assert str(refusal) in caught.value.message
        return
    found = shape.render(messages, tools=tools, answer_follows=answer_follows)
    assert found == text
    assert ours.encode(found) == wanted(tokenize=True)["input_ids"]


def test_some_of_them_do_refuse() -> None:
    with pytest.raises(BadInputError, match="refuses this conversation: No system role here"):
        ChatTemplate(GEMMA).render(CONVERSATIONS["a system message"])
    with pytest.raises(BadInputError, match="Roles must alternate"):
        ChatTemplate(LLAMA_2).render(CONVERSATIONS["two questions"])


def test_a_template_that_refuses_system_messages_can_be_used() -> None:
    ChatTemplate(GEMMA, VARIABLES).check()
