"""One loaded bundle that answers prompts and conversations, and keeps what it has computed for them."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.bundle.manifest import ARTIFACT_FOLDER, TOKENIZER_FILE, Manifest
from edgephi.bundle.switched_adapter import adapter_named
from edgephi.chat.tools.function import NO_CALLS, Calling, calling
from edgephi.errors import BadInputError, PastContextError
from edgephi.machine.memory import available_to
from edgephi.runtime.adapter import Engine, open_engine
from edgephi.runtime.answer import Answer
from edgephi.runtime.beam_search import Beam, BeamWork, search
from edgephi.runtime.conversation import Conversation
from edgephi.runtime.generation import Generation, Piece, StopReason
from edgephi.runtime.images.seen_image import ImageSource, SeenImage
from edgephi.runtime.images.session_images import SessionImages
from edgephi.runtime.options import DEFAULT_MAX_TOKENS, GREEDY, Options
from edgephi.runtime.prefix_cache import PrefixCache
from edgephi.runtime.prompts import Prompts, TokenizedPrompt, past_context
from edgephi.runtime.scoring import LOGIT_BYTES, OnProgress, Scoring, ScoringWork, piece_tokens
from edgephi.runtime.text.prompt_bound import PromptBound
from edgephi.runtime.text.raw_text import RawTexts
from edgephi.runtime.text.scores import Alternative, PromptScore, Scorer, TokenScore
from edgephi.runtime.work import OnEnd, OnImage, OnPrefill, Work

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgephi.runtime.text.constraint import ConstraintCompiler

__all__ = [
    "DEFAULT_MAX_TOKENS",
    "GREEDY",
    "Alternative",
    "Answer",
    "Beam",
    "Conversation",
    "Generation",
    "OnImage",
    "OnPrefill",
    "Options",
    "Piece",
    "PromptScore",
    "Scoring",
    "Session",
    "StopReason",
    "TokenScore",
]

# A box talks with a few people. More would only keep what nobody comes back for.
_MOST_CONTEXTS = 8


class Session:
    """A bundle with its engine loaded. One thread at a time.

    What has been computed for a prompt stays in memory, `cache_bytes` of it at most, and the next prompt that
    begins alike starts from there. None is half of the memory that is available once the model is loaded, but
    room for one full context at least and for eight at most.

    A request's options can name one of the bundle's adapters; `adapter` is the one of those that name none.

    A message may contain the text of a special token, like `<|end|>`: the model reads it as ordinary letters,
    and the message cannot end its turn. Only `complete` takes such texts for what they stand for.
    """

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        *,
        context: int | None = None,
        provider: str | None = None,
        cache_bytes: int | None = None,
        adapter: str = "",
        beside: Path | None = None,
    ) -> None:
        start = time.perf_counter()
        self.manifest = manifest
        self.adapter = adapter
        """The name of the adapter that answers are computed with unless their options name another, or ""."""
        self._check_adapter(adapter)
        self.context = context or manifest.limits.context
        self.engine: Engine = open_engine(
            bundle, manifest, context=self.context, provider=provider, beside=beside
        )
        self.load_seconds = time.perf_counter() - start
        self._tokenizer_file = bundle / ARTIFACT_FOLDER / TOKENIZER_FILE
        self._bound = PromptBound(self._tokenizer_file, self.context)
        self.raw = RawTexts(self._tokenizer_file, self.engine.encode, self._bound)
        """What encodes texts that are no conversations, and spells their tokens."""
        available = functools.partial(available_to, manifest.target.engine, self.engine.provider)
        per_token = manifest.requires.memory_per_token_bytes
        if cache_bytes is None:
            one_context = self.context * per_token
            cache_bytes = max(one_context, min(available() // 2, _MOST_CONTEXTS * one_context))
        self.caches = PrefixCache(
            self.engine,
            context=self.context,
            budget=cache_bytes,
            token_bytes=per_token,
            available=available,
        )
        images = SessionImages(self.engine, manifest.model.images, lambda: self.caches.held)
        self.prompts = Prompts(self.engine, manifest, self._tokenizer_file, self._bound, images)
        """What renders and encodes conversations."""

    def generate(
        self, prompt: str, options: Options = GREEDY, *, images: Sequence[ImageSource] = ()
    ) -> Generation:
        """The whole answer to `prompt`. Raises as `stream` does."""
        answer = self.stream(prompt, options, images=images)
        for _ in answer:
            pass
        return answer.generation

    def stream(
        self,
        prompt: str,
        options: Options = GREEDY,
        *,
        images: Sequence[ImageSource] = (),
        on_image: OnImage | None = None,
    ) -> Answer:
        """The answer to `prompt`, piece by piece. A stop token is never part of it.

        `images` stand before the text: paths, bytes of files, arrays or images of Pillow. They are computed
        when the answer is first asked for, and `on_image` is told how far they are. Raises PastContextError,
        before any computation, when the prompt leaves no room for an answer, and BadInputError for rules (a
        JSON schema, a regular expression, a grammar) that no answer can be held to, and for images that
        cannot be read.
        """
        start = time.perf_counter()
        asked = self.prompts.read(self.prompts.single(prompt, options.system, images), crops=options.crops)
        return self._answer(asked, options, start, comes_back=False, on_image=on_image)

    def answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: Options = GREEDY,
        *,
        tools: Sequence[Any] = (),
        tool_choice: Any = None,
        parallel_tool_calls: bool = True,
        on_prefill: OnPrefill | None = None,
        on_image: OnImage | None = None,
    ) -> Answer:
        """The answer that follows `messages`: dictionaries of `role` (system, user, assistant) and `content`.

        A content is a text or a list of parts: {"type": "text", "text": …}, and of the user {"type": "image",
        "image": a path, bytes, an array or an image of Pillow}.

        `tools` are functions that may be called, each as OpenAI's API has it: {"type": "function",
        "function": {"name": …, "description": …, "parameters": JSON schema}}. Calls are in the answer's
        `generation.tool_calls`; the next messages are {"role": "assistant", "content": …, "tool_calls": […]}
        and for each call {"role": "tool", "tool_call_id": …, "content": its result}. `tool_choice` is "auto"
        (also None), "none", "required", or the name of the function that must be called.

        `on_prefill` is told after each piece of the prompt how many of its tokens are computed, and how many
        there are; `on_image` as in `stream`. Raises as that does, and BadInputError for messages that are
        none.
        """
        start = time.perf_counter()
        options.check_no_system()
        may_call = calling(tools, tool_choice, parallel=parallel_tool_calls)
        prompt = self.prompts.read(messages, may_call, crops=options.crops)
        return self._answer(
            prompt, options, start, may_call=may_call, on_prefill=on_prefill, on_image=on_image
        )

    def complete(
        self,
        text: str | Sequence[int],
        options: Options = GREEDY,
        *,
        on_prefill: OnPrefill | None = None,
        scored: Scoring | None = None,
    ) -> Answer:
        """What follows `text`, without a chat template: special tokens written in it are special tokens.

        In place of a text, its tokens can be given. `scored` is what `score` gave for the very same one,
        taken to its end: one token behind it then comes without computing the text again. Raises as `stream`
        does, and BadInputError for an empty text or a token that the model does not have.
        """
        start = time.perf_counter()
        options.check_no_system()
        prompt = TokenizedPrompt(self.raw.encode(text))
        known = None if scored is None else scored.logits
        return self._answer(prompt, options, start, on_prefill=on_prefill, known=known)

    def score(
        self,
        text: str | Sequence[int],
        *,
        alternatives: int = 0,
        adapter: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Scoring:
        """How likely the model finds each token of `text` after those before it.

        Each with the `alternatives` most likely ones at its place. In place of a text, its tokens can be
        given. `adapter` is the name of the bundle's adapter to compute with, None the session's own and ""
        none. `on_progress` is told after each piece how many tokens are computed, and how many there are.
        Raises as `complete` does, but the text may fill the whole context; and DoesNotFitError.
        """
        prompt = self.raw.encode(text)
        if len(prompt) > self.context:
            raise PastContextError(
                f"the text has {len(prompt)} tokens, the context is {self.context} tokens",
                hint="shorten the text, or build the bundle for a target with a larger context",
            )
        adapter = self.adapter if adapter is None else adapter
        self._check_adapter(adapter)
        vocabulary = len(self.raw.token_bytes)
        step = piece_tokens(self.manifest, self.engine, len(prompt), vocabulary)
        self.caches.make_room(len(prompt), step * vocabulary * LOGIT_BYTES)
        return Scoring(
            ScoringWork(
                engine=self.engine,
                prompt=prompt,
                spelled=self.raw.spell(prompt),
                scorer=Scorer(self.raw.token_bytes, alternatives),
                step=step,
                adapter=adapter,
                on_progress=on_progress,
            )
        )

    def beams(
        self,
        prompt: str | Sequence[Mapping[str, Any]],
        beams: int,
        options: Options = GREEDY,
        *,
        length_penalty: float = 1.0,
    ) -> tuple[Beam, ...]:
        """The best answers that a search with so many `beams` finds, the best one first.

        `prompt` is one, or messages. A `length_penalty` above 0 prefers longer answers. See
        `edgephi.runtime.beam_search`. Each beam takes the memory of a conversation, where the engine can copy
        caches. Raises as `stream` does; and UsageError for whatever draws by chance, stop texts, logprobs and
        rules.
        """
        if not isinstance(prompt, str):
            options.check_no_system()
        messages = self.prompts.single(prompt, options.system) if isinstance(prompt, str) else prompt
        asked = self.prompts.read(messages, crops=options.crops)
        adapter = self._checked(asked, options)
        if images := self.prompts.images.of_prompt(asked.images):
            images.encode_all()
        return search(
            BeamWork(
                engine=self.engine,
                caches=self.caches,
                stop_token_ids=frozenset(self.manifest.chat.stop_token_ids),
                context=self.context,
                prompt=asked.tokens,
                options=options,
                beams=beams,
                length_penalty=length_penalty,
                adapter=adapter,
            )
        )

    def chat(self, system: str | None = None, *, tools: Sequence[Any] = ()) -> Conversation:
        """A conversation that remembers itself, with the bundle's system message or another one.

        An empty text is for a conversation without. `tools` are functions that may be called, as for
        `answer`; `Conversation.give_results` goes on with the results of calls.
        """
        may_call = calling(tools)

        return Conversation(
            functools.partial(self.prompts.render, may_call=may_call),
            self.prompts.chat,
            functools.partial(self._answer, may_call=may_call),
            self.prompts.images.seen,
            self.system if system is None else system,
        )

    def open_ahead(self) -> None:
        """Take the memory of a whole context now, where the engine takes all of it at once.

        Else the first conversation waits for it: seconds, where a context takes gigabytes. Raises
        DoesNotFitError.
        """
        self.caches.open_ahead(self.adapter)

    def keep_ready(self, system: str) -> None:
        """Compute a system message now, so that requests behind it start from there.

        What is computed is given up last when memory is needed. Raises as `answer` does.
        """
        one, other = (
            self.encode_chat([{"role": "system", "content": system}, {"role": "user", "content": content}])
            for content in ("a", "1")
        )
        places = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
        shared = next(places, min(len(one), len(other)))
        self.check_room(shared)
        self.caches.keep_ready(one[:shared], self.adapter)

    def render(self, prompt: str, system: str | None = None) -> str:
        """The text that the model reads for `prompt`, special tokens included."""
        return self.engine.render_chat(self.prompts.single(prompt, system))

    @property
    def system(self) -> str:
        """The bundle's own system message, which may be empty: that of prompts and chats that bring none."""
        return self.manifest.chat.system

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None
    ) -> list[int]:
        """The tokens that the model reads for an answer to `messages`; `tools` are JSON schemas."""
        return self.prompts.encode(messages, tools)

    def _answer(
        self,
        prompt: TokenizedPrompt,
        options: Options,
        start: float,
        *,
        comes_back: bool = True,
        may_call: Calling = NO_CALLS,
        on_prefill: OnPrefill | None = None,
        on_image: OnImage | None = None,
        on_end: OnEnd | None = None,
        known: NDArray[np.float32] | None = None,
    ) -> Answer:
        adapter = self._checked(prompt, options)
        scorer = None if options.logprobs is None else Scorer(self.raw.token_bytes, options.logprobs)
        rules = self.prompts.tool_calling.rules(may_call, options) if may_call.may_come else options.rules
        return Answer(
            Work(
                engine=self.engine,
                caches=self.caches,
                stop_token_ids=frozenset(self.manifest.chat.stop_token_ids),
                context=self.context,
                prompt=prompt.tokens,
                images=self.prompts.images.of_prompt(prompt.images),
                options=options,
                start=start,
                comes_back=comes_back,
                adapter=adapter,
                constraint=None if rules is None else self._constraints.compile(rules),
                scorer=scorer,
                calls=self.prompts.tool_calling.reader(may_call) if may_call.may_come else None,
                spelled=self.prompts.tool_calling.spelled if may_call.may_come else {},
                on_prefill=on_prefill,
                on_image=on_image,
                on_end=on_end,
                known=known,
            )
        )

    def check_room(
        self, tokens: int, *, answer_follows: bool = True, images: Sequence[SeenImage] = ()
    ) -> None:
        """Raise PastContextError when a prompt does not fit, or leaves no room for an answer that follows.

        `images` are those in it: it tells what they take.
        """
        if tokens + answer_follows > self.context:
            raise past_context(tokens, self.context, images)

    def _checked(self, prompt: TokenizedPrompt, options: Options) -> str:
        """The adapter that a prompt is answered with. Raises EdgephiError for what cannot be answered."""
        self.check_room(len(prompt.tokens), images=prompt.images)
        unknown = options.logit_bias.keys() - self.raw.token_bytes.keys() if options.logit_bias else ()
        for token in unknown:
            raise BadInputError(
                f"expected a logit_bias for a token of the vocabulary, found {token}",
                hint=f"it has {len(self.raw.token_bytes)} tokens",
            )
        adapter = self.adapter if options.adapter is None else options.adapter
        self._check_adapter(adapter)
        return adapter

    def _check_adapter(self, name: str) -> None:
        """Raise BadInputError when the bundle has no adapter of that name."""
        if name:
            adapter_named(self.manifest.adapters, name)

    @functools.cached_property
    def _constraints(self) -> ConstraintCompiler:
        from edgephi.runtime.text.constraint import ConstraintCompiler

        return ConstraintCompiler(self._tokenizer_file, self.manifest.chat.stop_token_ids)
