"""A conversation that remembers its tokens, so that each turn computes the new ones only."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from edgephi.errors import UsageError
from edgephi.runtime.answer import Answer
from edgephi.runtime.generation import Generation
from edgephi.runtime.images.in_messages import images_of, text_of, with_images
from edgephi.runtime.images.seen_image import ImageSource
from edgephi.runtime.options import GREEDY, Options
from edgephi.runtime.prompts import TokenizedPrompt
from edgephi.runtime.text.chat_prompt import ChatPrompts
from edgephi.runtime.work import OnEnd, OnImage, OnPrefill


class AnswerTokens(Protocol):
    """Has a prompt of tokens answered, that was asked at the moment `start` of `time.perf_counter`."""

    def __call__(
        self,
        prompt: TokenizedPrompt,
        options: Options,
        start: float,
        *,
        on_prefill: OnPrefill | None = None,
        on_image: OnImage | None = None,
        on_end: OnEnd | None = None,
    ) -> Answer:
        """The answer; `on_end` is told it and its tokens: see `edgephi.runtime.answer.Work`."""


_MOST_SHOWN = 6
_KINDS = {"system": "s", "user": "u", "assistant": "a", "tool": "r"}
_TURNS = re.compile("s?(ua(r+a)*)*")
_Turn = tuple[list[dict[str, Any]], int, list[int], str]

Render = Callable[[Sequence[Mapping[str, Any]]], str]
"""Renders messages to a prompt with marks, as `Prompts.render` does."""

See = Callable[[Sequence[Mapping[str, Any]], int | None], list[dict[str, Any]]]
"""Looks at the images in messages, which are cut into so many tiles at most: see `SessionImages.seen`."""


class Conversation:
    """Messages of one conversation, and the answers to them. Made by `Session.chat`.

    The tokens that the model has read and written are kept: a text can be written in more than one way as
    tokens, and what a tokenizer would make of an answer's text need not be what the model wrote. Where it is,
    the answers are the same as those to a prompt that is rendered anew.

    Images are looked at once, when they come: what lies in a file later is not seen.

    `see` looks at them, `render` renders the messages, `prompts` encodes them, `answer_tokens` has a prompt
    answered.
    """

    def __init__(
        self,
        render: Render,
        prompts: ChatPrompts,
        answer_tokens: AnswerTokens,
        see: See,
        system: str | None = None,
    ) -> None:
        self._render = render
        self._prompts = prompts
        self._answer_tokens = answer_tokens
        self._see = see
        self._system = system
        self._answer: Answer | None = None
        self._messages: list[dict[str, Any]] = []
        self._used = 0
        self._tokens: list[int] = []  # what has been read and written, and as text; empty when not known
        self._rendered = ""
        self._before: _Turn | None = None  # all of these before the last question
        self.reset()

    @property
    def system(self) -> str | None:
        """The system message."""
        return self._system

    @property
    def messages(self) -> list[dict[str, Any]]:
        """A copy of all messages so far. A question joins them with its answer, when that has ended.

        Those of answers with calls of functions have `tool_calls`, as OpenAI's API does. The content of one
        with images is a list of parts, as for `Session.answer`.
        """
        return [dict(message) for message in self._messages]

    @property
    def context_used(self) -> int:
        """Tokens of the conversation so far, out of the session's `context`."""
        return self._used

    def reset(self, system: str | None = None) -> None:
        """Forget everything but the system message; or begin with another one."""
        if self._answer is not None:
            self._answer.close()
        self._system = self._system if system is None else system
        self._answer = None
        self._messages = [{"role": "system", "content": self._system}] if self._system else []
        self._used = 0
        self._before = None
        self._forget_tokens()

    def resume(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Go on with another conversation: its system message, if it begins with one, and its turns.

        `messages` are of the form of `messages` here: role and content, each question with its answer, and
        calls of functions with their results. Raises UsageError for others, and as rendering them does.
        """
        check_turns(messages)
        whole = [{**message, "content": _content(message)} for message in messages]
        resumed = self._see(whole, None)
        used = self._tokens_of(resumed)
        self.reset(resumed[0]["content"] if resumed and resumed[0]["role"] == "system" else "")
        self._messages = resumed
        self._used = used

    def take_back(self) -> str | None:
        """Forget the last question and its answer; that question, or None where nothing has been answered.

        Of a question with images that is its text.
        """
        if self._answer is not None:
            self._answer.close()
            self._answer = None
        asked = [place for place, message in enumerate(self._messages) if message["role"] == "user"]
        if not asked:
            return None
        question: str = text_of(self._messages[asked[-1]]["content"])
        if self._before is not None:
            before, self._before = self._before, None
            self._messages, self._used, self._tokens, self._rendered = before
        else:
            self._messages = self._messages[: asked[-1]]
            self._forget_tokens()
            self._used = self._tokens_of(self._messages)
        return question

    def say(
        self,
        text: str,
        options: Options = GREEDY,
        *,
        images: Sequence[ImageSource] = (),
        on_prefill: OnPrefill | None = None,
        on_image: OnImage | None = None,
    ) -> Answer:
        """The answer to the next message of the user. An answer before it that has not ended is closed.

        `images` stand before the text, as for `Session.stream`. An answer that was closed stays part of the
        conversation as far as it came; with one that ends in an error, the question is forgotten as well.
        Raises as `Session.answer` does.
        """
        start = time.perf_counter()
        if self._answer is not None:
            self._answer.close()
        before = (self._messages, self._used, self._tokens, self._rendered)
        said = self._see([{"role": "user", "content": with_images(text, images)}], options.crops)
        return self._go_on(said, before, options, start, on_prefill, on_image=on_image)

    def give_results(
        self, results: Sequence[str], options: Options = GREEDY, *, on_prefill: OnPrefill | None = None
    ) -> Answer:
        """The answer that goes on with the results of the calls of the last one, a text for each.

        Raises UsageError for another number of them, and else as `say` does.
        """
        start = time.perf_counter()
        calls = self._messages[-1].get("tool_calls", ()) if self._messages else ()
        if len(results) != len(calls) or not calls:
            raise UsageError(
                f"expected the results of {len(calls)} calls, found {len(results)}",
                hint="the last answer's generation.tool_calls are the calls",
            )
        said = [
            {"role": "tool", "tool_call_id": call["id"], "content": result}
            for call, result in zip(calls, results, strict=True)
        ]
        return self._go_on(said, self._before, options, start, on_prefill)

    def _go_on(
        self,
        said: list[dict[str, Any]],
        before: _Turn | None,
        options: Options,
        start: float,
        on_prefill: OnPrefill | None,
        *,
        on_image: OnImage | None = None,
    ) -> Answer:
        """The answer to what has been said; `before` is what it can be taken back to."""
        options.check_no_system()
        asked = [*self._messages, *said]
        rendered = self._render(asked)
        prompt = TokenizedPrompt(self._prompt(rendered), tuple(images_of(asked)))

        def end(generation: Generation, tokens: list[int] | None) -> None:
            answered: dict[str, Any] = {"role": "assistant", "content": generation.text}
            if generation.tool_calls:
                answered["tool_calls"] = [call.message for call in generation.tool_calls]
            self._before = before
            self._messages = [*asked, answered]
            self._used = len(prompt.tokens) + generation.generated_tokens
            if tokens is None:
                self._forget_tokens()
            else:
                self._tokens = [*prompt.tokens, *tokens]
                self._rendered = rendered + self._prompts.marked(generation.text)

        self._answer = self._answer_tokens(
            prompt, options, start, on_prefill=on_prefill, on_image=on_image, on_end=end
        )
        return self._answer

    def _tokens_of(self, messages: list[dict[str, Any]]) -> int:
        """How many tokens messages take."""
        return len(self._prompts.encode(self._render(messages))) if messages else 0

    def _prompt(self, rendered: str) -> list[int]:
        """The tokens of a rendered prompt: those of the conversation so far, and then the new ones."""
        if self._tokens and rendered.startswith(self._rendered):
            new = rendered[len(self._rendered) :]
            # It begins with what ends the answer, and behind a special token all texts are encoded alike.
            if self._prompts.begins_special(new):
                return [*self._tokens, *self._prompts.encode(new, goes_on=True)]
        return self._prompts.encode(rendered)

    def _forget_tokens(self) -> None:
        """Have the next turn encode the whole conversation."""
        self._tokens = []
        self._rendered = ""


def check_turns(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise UsageError unless messages are a conversation: a system message or none, then turns.

    Between a question and its answer may stand answers with calls of functions, each with the results of its
    calls behind it.
    """
    roles = [message.get("role") for message in messages]
    texts = all(isinstance(_content(message), str | list) for message in messages)
    kinds = "".join(_KINDS.get(str(message.get("role")), "?") for message in messages)
    results = [len(found) for found in re.findall("a(r*)", kinds)]
    called = [
        len(message.get("tool_calls") or ()) for message in messages if message.get("role") == "assistant"
    ]
    answered = all(count in (0, calls) for count, calls in zip(results, called, strict=True))
    if not texts or not answered or not _TURNS.fullmatch(kinds):
        found = ", ".join(map(str, roles[:_MOST_SHOWN])) + (", …" if len(roles) > _MOST_SHOWN else "")
        raise UsageError(
            "expected messages with a role and a text each: a system message or none, then user and "
            f"assistant by turns, found {found if texts else 'one without a text'}",
            hint="`/save FILE` of a chat writes such ones",
        )


def _content(message: Mapping[str, Any]) -> Any:
    """The text of a message: that of one with calls alone is empty."""
    content = message.get("content")
    return "" if content is None and message.get("tool_calls") else content
