"""The adapter of OpenVINO GenAI (extra `openvino`), checked against its version 2026.4.

The tokenizer is openvino-genai's. The model is driven by `decoder` and not by `LLMPipeline`: that
keeps its cache across the length where LongRoPE's factors change, computes a prompt in one piece, and shows
no logits. Both compile the same graph for the same kernels.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.bundle.manifest import ARTIFACT_FOLDER, Manifest
from edgephi.bundle.switched_adapter import AdapterFiles
from edgephi.chat.template import ChatTemplate
from edgephi.commands import edgephi_command, install_command
from edgephi.engines.facts.packages import installed_version
from edgephi.engines.openvino_genai import FACTS, GRAPH_FILE
from edgephi.errors import BadInputError, NotSupportedError
from edgephi.runtime.adapter import TextStream, check_version
from edgephi.runtime.engines.errors import cannot_import, translated
from edgephi.runtime.engines.openvino_genai.decoder import Decoder, DecoderCache, open_decoder
from edgephi.runtime.engines.sequence_cache import SequenceCache, too_many

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = FACTS.name

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
# Tokens that are decoded at once while text is streamed; a call takes longer to make than to answer.
_DECODED_TOKENS = 32


def provider_problem(provider: str) -> str | None:
    """Why the installed engine cannot use `provider` here; None when it can."""
    if provider == "cpu":
        return None
    if provider == "npu":
        return "edgephi does not drive NPUs yet (openvino_genai.LLMPipeline(folder, 'NPU') may)"
    try:
        openvino, _ = _import_engine()
    except ModuleNotFoundError:
        return None  # what to install is for `open_engine` to say
    except ImportError as cause:
        return f"the engine cannot be loaded: {_one_line(cause)}"
    devices = openvino.Core().available_devices
    if any(device.partition(".")[0] == provider.upper() for device in devices):
        return None
    return f"OpenVINO finds only {', '.join(devices)} (a GPU needs Intel's driver: intel-opencl-icd)"


def open_engine(
    bundle: Path,
    manifest: Manifest,
    *,
    context: int,
    provider: str,
    adapters: AdapterFiles | None = None,
) -> OpenvinoEngine:
    """Load the model in `bundle` after checking the engine's version. Raises EdgephiError."""
    version = installed_version(FACTS)
    try:
        if version is None:
            raise ModuleNotFoundError(NAME)
        engine = _import_engine()
    except ImportError as cause:
        raise cannot_import(NAME, cause, extra=FACTS.provider(provider).extra) from None
    check_version(NAME, version, manifest.requires.engines.get(NAME, ""))
    if importlib.util.find_spec("jinja2") is None:
        raise NotSupportedError(
            f"this bundle runs on {NAME} with jinja2, not installed",
            hint=install_command(FACTS.provider(provider).extra),
        )
    return OpenvinoEngine(
        engine,
        bundle / ARTIFACT_FOLDER,
        manifest,
        context=context,
        provider=provider,
        version=version,
        adapters=adapters or AdapterFiles(bundle),
    )


class OpenvinoEngine:
    """One loaded model with its tokenizer."""

    name = NAME
    allocates_ahead = False
    copies_caches = True

    def __init__(
        self,
        engine: tuple[Any, Any],
        artifact: Path,
        manifest: Manifest,
        *,
        context: int,
        provider: str,
        version: str,
        adapters: AdapterFiles,
    ) -> None:
        openvino, genai = engine
        self._adapter_files = adapters
        self.version = version
        self.provider = provider
        self._limit = context
        self._template = ChatTemplate(manifest.chat.template, manifest.chat.variables)
        self._long_above = manifest.limits.whole_prefill_above
        with _translated(f"{artifact}: expected a model that {NAME} {version} can read"):
            self._tokenizer = genai.Tokenizer(str(artifact))
            self._decoder = open_decoder(openvino, artifact / GRAPH_FILE, device=provider.upper())
        if {device.partition(".")[0] for device in self._decoder.devices} != {provider.upper()}:
            raise NotSupportedError(
                f"expected {NAME} to run on {provider}, found it on {', '.join(self._decoder.devices)}",
                hint=f"`{edgephi_command('doctor')}` shows what this machine can use",
            )

    def render_chat(self, messages: Sequence[dict[str, Any]], tools: Sequence[Any] | None = None) -> str:
        """The prompt text of a conversation, rendered with the template of the manifest.

        Not by the engine's own renderer, which writes messages with the role of a tool in a way of its own.
        """
        return self._template.render(messages, tools=tools)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written in it become their ids."""
        _check_text(text)
        with _translated("expected text that the tokenizer can encode"):
            ids = self._tokenizer.encode(text, add_special_tokens=False).input_ids.data
            return [int(token) for token in ids.reshape(-1)]

    def decode_stream(self, before: int) -> TextStream:
        """A decoder for the tokens that follow `before`, which decides about a space at the start."""
        return _TextStream(self._tokenizer, before)

    def logits(
        self,
        token_ids: Sequence[int],
        *,
        step: int,
        adapter: str = "",  # noqa: ARG002 - none yet
    ) -> Iterator[NDArray[np.float32]]:
        """Logits after each of `token_ids`: arrays of (step, vocabulary), the last one maybe shorter.

        They are those of one prefill of all the tokens, however many are computed at once.
        """
        total = len(token_ids)
        if total > self._limit:
            raise too_many(total, self._limit)
        with _translated(f"expected a KV cache for {total} tokens"):
            cache = self._decoder.open_cache(total)
        with contextlib.closing(cache):
            for start in range(0, total, step):
                piece = token_ids[start : start + step]
                with _translated(f"expected to compute {len(piece)} tokens"):
                    block = cache.compute(piece, past=start, total=total, kept=len(piece)).copy()
                yield block

    def open_cache(self, capacity: int, *, adapter: str = "") -> OpenvinoCache:  # noqa: ARG002 - none yet
        """An empty KV cache for at most `capacity` tokens."""
        if capacity > self._limit:
            raise too_many(capacity, self._limit)
        with _translated(f"expected a KV cache for {capacity} tokens"):
            cache = self._decoder.open_cache(capacity)
        tokens = FACTS.provider(self.provider).prefill.tokens
        return OpenvinoCache(self._decoder, cache, capacity, piece_tokens=tokens, long_above=self._long_above)

    def logits_after(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits after every token of one prefill, (tokens, vocabulary)."""
        return next(self.logits(token_ids, step=len(token_ids)))


class OpenvinoCache(SequenceCache):
    """The KV cache of a sequence in `decoder`."""

    def __init__(
        self,
        decoder: Decoder,
        cache: DecoderCache,
        capacity: int,
        *,
        piece_tokens: int,
        long_above: int | None,
    ) -> None:
        super().__init__(
            capacity,
            piece_tokens=piece_tokens,
            long_above=long_above,
            told_factors=decoder.is_told_length,
        )
        self._decoder = decoder
        self._cache = cache
        self._last: NDArray[np.float32] | None = None

    def _compute(self, tokens: list[int], past: int) -> None:
        total = past + len(tokens)
        if self._long and self._long_above is not None:
            total = max(total, self._long_above + 1)
        with _translated(f"expected to compute {len(tokens)} tokens after {past}"):
            self._last = self._cache.compute(tokens, past=past, total=total)[-1].copy()

    def _keep(self, count: int) -> int:
        with _translated(f"expected to keep {count} tokens"):
            self._cache.keep(count)
        return count

    def _last_logits(self) -> NDArray[np.float32]:
        assert self._last is not None  # noqa: S101 - for the type checker
        return self._last

    def _copy(self) -> OpenvinoCache:
        with _translated("expected to copy a KV cache"):
            cache = self._cache.copy()
        return OpenvinoCache(
            self._decoder,
            cache,
            self.capacity,
            piece_tokens=self._piece_tokens,
            long_above=self._long_above,
        )

    def _free(self) -> None:
        self._cache.close()


class _TextStream:
    """Turns tokens into text by decoding the last few: what one becomes depends on those before it."""

    def __init__(self, tokenizer: Any, before: int) -> None:
        self._tokenizer = tokenizer
        self._tokens = [before]
        self._text = self._decode()

    def decode(self, token: int) -> str:
        """The text that is complete after `token`."""
        self._tokens.append(token)
        text = self._decode()
        # Half of a character decodes to a stand-in: the rest is still to come.
        if text.endswith(_UNFINISHED) or len(text) <= len(self._text):
            return ""
        new = text[len(self._text) :]
        self._text = text
        if len(self._tokens) > _DECODED_TOKENS:
            # No token that ends a piece of text can change what follows, except whether it is the first one.
            self._tokens = [token]
            self._text = self._decode()
        return new

    def _decode(self) -> str:
        with _translated("expected tokens that the tokenizer can decode"):
            text: str = self._tokenizer.decode(self._tokens)
            return text


def _check_text(text: str) -> None:
    """Raise BadInputError for what the engine, which takes UTF-8, cannot be given."""
    if "\0" in text:
        raise BadInputError("expected text, found a NUL character in it", hint="remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInputError(
            "expected Unicode text, found half of a surrogate pair", hint="remove it from the text"
        ) from None


def _import_engine() -> tuple[Any, Any]:
    """The modules openvino and openvino_genai.

    On import, `openvino` brings in its model converter, which reports to its makers' analytics over the
    network. Nothing here converts models, so that part is kept out; importing gets faster by a third, too.
    """
    converter = "openvino.tools.ovc"
    blocked = converter not in sys.modules and "openvino" not in sys.modules
    if blocked:
        sys.modules[converter] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino"), importlib.import_module("openvino_genai")
    finally:
        if blocked:
            del sys.modules[converter]


def _translated(doing: str) -> contextlib.AbstractContextManager[None]:
    return translated(doing, one_line=_one_line)


def _one_line(cause: BaseException) -> str:
    """The message without OpenVINO's chain of source files in front of it."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("Exception from", "Check '"))] or lines
    return " ".join(lines) or type(cause).__name__
