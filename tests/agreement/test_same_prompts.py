"""One conversation, every engine: the prompt has the tokens that transformers' `apply_chat_template` gives.

The checkpoint's tokenizer has the tokens of all published templates. An engine's bundle is built once; for
each template it gets the facts that a build would have read out of the checkpoint with that one.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

from edgephi.build.manifest import chat_facts
from edgephi.bundle.manifest import ChatFacts, read_manifest
from edgephi.chat.template import ChatTemplate
from edgephi.checkpoint.config import load_architecture
from edgephi.checkpoint.tokenizer import read_tokenizer
from edgephi.errors import EdgephiError
from edgephi.runtime.session import Session
from tests.agreement.conftest import build_for
from tests.agreement.text_paths import ENGINES, can_open, open_for_text
from tests.chat.conversations import CONVERSATIONS, TOOL_CONVERSATIONS, TOOLS
from tests.chat.shapes import SHAPES
from tests.tiny_checkpoint import TinyShape, tiny_tokenizer, write_tiny_checkpoint

SPECIAL = (
    *("<|im_start|>", "<|im_end|>", "<|im_sep|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|tool|>", "<|/tool|>"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
)
SEPARATOR = "<|im_sep|>"  # Phi-4's alone
ORDINARY = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
ROLES = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>"}

BUILT_IN = ("Phi-3", "Phi-3 without system", "Phi-4", "Phi-4-mini")
"""Those in whose place edgephi's own forms stand."""
# edgephi's own form stands in for a template that leaves out the system message, and writes it.
MENDED = {"Phi-3 without system": "Phi-3"}


@dataclasses.dataclass(frozen=True)
class Published:
    """A template, as a manifest has it, and as transformers has it in `tokenizer`."""

    chat: ChatFacts
    tokenizer: Any

    def ids(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None
    ) -> list[int] | None:
        """The prompt of transformers; None for a conversation that it refuses."""
        try:
            encoded = self.tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True)
        except (TemplateError, TypeError):
            return None
        ids: list[int] = encoded["input_ids"]
        return ids


def write_tokenizer(folder: Path, template: str) -> Path:
    """The files of a tokenizer that knows the tokens of all templates, with one of these."""
    folder.mkdir(exist_ok=True)
    tokenizer = tiny_tokenizer(TinyShape())
    first = max(token["id"] for token in tokenizer["added_tokens"]) + 1
    plain = tokenizer["added_tokens"][0]
    tokenizer["added_tokens"] += [
        {**plain, "content": text, "id": first + place, "special": text in SPECIAL}
        for place, text in enumerate((*SPECIAL, *ORDINARY))
    ]
    if SEPARATOR not in template:  # it would be taken for Phi-4's tokenizer
        (separator,) = (token for token in tokenizer["added_tokens"] if token["content"] == SEPARATOR)
        separator["content"] = "<|unused|>"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({**ROLES, "chat_template": template}))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_checkpoint(
        tmp_path_factory.mktemp("prompts") / "tiny", vocab=576, layers=1, context=512
    )
    return write_tokenizer(folder, SHAPES["Phi-4"])


@pytest.fixture(scope="module")
def bundles(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The bundle for a target, built when it is first asked for."""

    @functools.cache
    def build(target: str) -> Path:
        return build_for(target, str(checkpoint), tmp_path_factory.mktemp("bundle") / target)

    return build


@pytest.fixture(scope="module", params=ENGINES)
def bundle(request: pytest.FixtureRequest, bundles: Callable[[str], Path]) -> Path:
    """The bundle for an engine."""
    if not can_open(request.param):
        pytest.skip(f"no {ENGINES[request.param]} here")
    return bundles(request.param)


@pytest.fixture(scope="module")
def published(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Published]:
    """What a checkpoint with this template is to a build, and to transformers."""

    @functools.cache
    def read(shape: str) -> Published:
        folder, template = tmp_path_factory.mktemp("published"), SHAPES[shape]
        architecture = load_architecture(checkpoint)
        if shape == "Phi-4-mini":  # known by the size of its vocabulary
            architecture = dataclasses.replace(architecture, vocabulary_size=200_064)
        chat = chat_facts(read_tokenizer(write_tokenizer(folder, template), architecture))
        assert (shape in BUILT_IN) == chat.source.startswith("edgephi: ")
        write_tokenizer(folder, SHAPES[MENDED.get(shape, shape)])
        return Published(chat, PreTrainedTokenizerFast.from_pretrained(folder))

    return read


@pytest.fixture(scope="module", params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    """The name of a published template."""
    return str(request.param)


@pytest.fixture(scope="module")
def session(bundle: Path, shape: str, published: Callable[[str], Published]) -> Session:
    """The engine with the facts that a build reads out of a checkpoint with this template."""
    manifest = dataclasses.replace(read_manifest(bundle), chat=published(shape).chat)
    return open_for_text(bundle, manifest)


def as_asked(shape: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages, without `<think>` for a template that does not look for it: what is said is no token."""
    text = json.dumps(messages)
    if "</think>" not in SHAPES[shape]:
        text = text.replace("<think>", "(").replace("</think>", ")")
    asked: list[dict[str, Any]] = json.loads(text)
    return asked


def ids_or_refused(session: Session, *given: Any) -> list[int] | None:
    try:
        return session.encode_chat(*given)
    except EdgephiError:
        return None


def test_prompts_have_the_tokens_that_transformers_gives(
    session: Session, shape: str, published: Callable[[str], Published]
) -> None:
    for name, messages in CONVERSATIONS.items():
        asked = as_asked(shape, messages)
        assert ids_or_refused(session, asked) == published(shape).ids(asked), name
    assert published(shape).ids(CONVERSATIONS["a question"])


def test_so_have_those_with_tools_where_the_template_knows_them(
    session: Session, shape: str, published: Callable[[str], Published]
) -> None:
    knows = ChatTemplate(SHAPES[shape]).knows_tools
    given = {**TOOL_CONVERSATIONS, "a question": CONVERSATIONS["a question"]}
    for name, messages in given.items():
        asked = as_asked(shape, messages)
        wanted = published(shape).ids(asked, TOOLS) if knows else None
        assert ids_or_refused(session, asked, TOOLS) == wanted, name


def test_each_template_is_told_what_it_can_be() -> None:
    assert len(SHAPES) >= 12
    assert sum(ChatTemplate(each).knows_tools for each in SHAPES.values()) >= 6
    assert len(CONVERSATIONS) >= 6
