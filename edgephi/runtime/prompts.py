"""Messages become the tokens that a model reads: functions told, images looked at, the template rendered."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgephi.bundle.manifest import Manifest
from edgephi.chat.template import ChatTemplate
from edgephi.chat.tools.function import NO_CALLS, Calling
from edgephi.errors import PastContextError
from edgephi.runtime.adapter import Engine
from edgephi.runtime.images.in_messages import images_of, with_images
from edgephi.runtime.images.seen_image import ImageSource, SeenImage
from edgephi.runtime.images.session_images import SessionImages
from edgephi.runtime.text.chat_prompt import ChatPrompts
from edgephi.runtime.text.prompt_bound import PromptBound
from edgephi.runtime.text.tokenizer_file import added_tokens, beginning_tokens, ordinary_tokens
from edgephi.runtime.tools.tool_calling import ToolCalling

_MOST_SHOWN = 5


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as the model reads it: its tokens, those of its `images` below 0."""

    tokens: list[int]
    images: tuple[SeenImage, ...] = ()


def past_context(tokens: int, context: int, images: Sequence[SeenImage] = ()) -> PastContextError:
    """What is raised for a prompt of so many tokens that leaves no room; it tells what `images` take."""
    of_images, fewer = "", ""
    if images:
        each = [image.tokens for image in images]
        sum_of = f"{' + '.join(map(str, each))} = " if 1 < len(each) <= _MOST_SHOWN else ""
        which = "its image" if len(each) == 1 else f"its {len(each)} images"
        of_images = f", {sum_of}{sum(each)} of them for {which}"
        fewer = "give fewer images, or fewer tiles of each (crops); "
    return PastContextError(
        f"the prompt has {tokens} tokens{of_images}, the context is {context} tokens, "
        "prompt and answer together",
        hint=f"{fewer}shorten the prompt, or build the bundle for a target with a larger context",
    )


class Prompts:
    """What makes prompts for one session. Nothing is read or rendered before it is used."""

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        tokenizer_file: Path,
        bound: PromptBound,
        images: SessionImages,
    ) -> None:
        self._engine = engine
        self._manifest = manifest
        self._tokenizer_file = tokenizer_file
        self._bound = bound
        self.images = images

    def single(
        self, prompt: str, system: str | None, images: Sequence[ImageSource] = ()
    ) -> list[dict[str, Any]]:
        """A prompt behind its system message, which is the bundle's where that is None."""
        system = self._manifest.chat.system if system is None else system
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        return [*messages, {"role": "user", "content": with_images(prompt, images)}]

    def read(
        self,
        messages: Sequence[Mapping[str, Any]],
        may_call: Calling = NO_CALLS,
        *,
        crops: int | None = None,
    ) -> TokenizedPrompt:
        """The prompt for the answer that follows `messages`. Raises BadInputError and PastContextError."""
        seen = self.images.seen(messages, crops)
        return TokenizedPrompt(self.chat.encode(self.render(seen, may_call)), tuple(images_of(seen)))

    def render(self, seen: Sequence[Mapping[str, Any]], may_call: Calling = NO_CALLS) -> str:
        """Messages whose images were looked at as a text with marks; see `ChatPrompts`."""
        asked = self.tool_calling.template_input(self.images.placed(seen), may_call)
        return self.chat.render(asked.messages, asked.tools)

    def encode(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None) -> list[int]:
        """The tokens of messages as they are, and of the JSON schemas of `tools`."""
        return self.chat.encode(self.chat.render(self.images.placed(self.images.seen(messages, None)), tools))

    @functools.cached_property
    def tool_calling(self) -> ToolCalling:
        """How the model calls functions."""
        return ToolCalling(self._manifest.chat, self._tokenizer_file)

    @functools.cached_property
    def chat(self) -> ChatPrompts:
        """What renders and encodes conversations."""
        file, sees = self._tokenizer_file, self._manifest.model.images is not None
        return ChatPrompts(
            self._engine,
            added_tokens(file),
            self._bound,
            ordinary_tokens=ordinary_tokens(file),
            knows_tools=ChatTemplate(self._manifest.chat.template).knows_tools,
            sees=sees,
            beginning=beginning_tokens(file) if sees else (),
        )
