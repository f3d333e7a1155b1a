"""The adapter of OpenVINO GenAI (`pip install 'edgephi[openvino]'`), checked against its version 2026.4.

The tokenizer is openvino-genai's. The model is driven by `openvino_decoder` and not by `LLMPipeline`: that
keeps its cache across the length where LongRoPE's factors change, computes a prompt in one piece, and shows
no logits. Both compile the same graph for the same kernels.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.errors import BadBundleError, BadInputError, DoesNotFitError, NotSupportedError
from edgephi.manifest import ARTIFACT_FOLDER, Manifest
from edgephi.runtime.engines import TextStream, check_version
from edgephi.runtime.openvino_decoder import open_decoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "openvino-genai"
PROVIDERS = ("cpu", "gpu", "npu")
STAND_INS = {"gpu": "cpu", "npu": "cpu"}

MODEL_FILE = "openvino_model.xml"

# Prompt tokens in one call: bounds the memory of a call. On a CPU 64 take a fifth longer, 512 are no faster.
_PREFILL_TOKENS = 256
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
# Tokens that are decoded at once while text is streamed; a call takes longer to make than to answer.
_DECODED_TOKENS = 32


def extra(provider: str) -> str:  # noqa: ARG001 - one package drives them all
    """The extra of edgephi that installs the engine for `provider`."""
    return "openvino"


def installed_version() -> str | None:
    """The version of the engine that is installed, None without one."""
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return None


def provider_problem(provider: str) -> str | None:
    """Why the installed engine cannot use `provider` here; None when it can."""
    if provider == "cpu":
        return None
    if provider == "npu":
        return "edgephi does not drive NPUs yet (openvino_genai.LLMPipeline(folder, 'NPU') may)"
    try:
        openvino, _ = _import_engine()
    except ImportError as cause:
        return f"the engine cannot be loaded: {_one_line(cause)}"
    devices = openvino.Core().available_devices
    if any(device.partition(".")[0] == provider.upper() for device in devices):
        return None
    return f"OpenVINO finds only {', '.join(devices)} (a GPU needs Intel's driver: intel-opencl-icd)"


def open_engine(bundle: Path, manifest: Manifest, *, context: int, provider: str) -> OpenvinoEngine:
    """Load the model in `bundle` after checking the engine's version. Raises EdgephiError."""
    version = installed_version()
    try:
        if version is None:
            raise ModuleNotFoundError(NAME)
        engine = _import_engine()
    except ImportError as cause:
        if isinstance(cause, ModuleNotFoundError):
            problem = f"this bundle runs on {NAME}, which is not installed"
        else:
            problem = f"this bundle runs on {NAME}, which cannot be loaded: {_one_line(cause)}"
        raise NotSupportedError(problem, hint=f"pip install 'edgephi[{extra(provider)}]'") from None
    check_version(NAME, version, manifest.requires.engines.get(NAME, ""))
    return OpenvinoEngine(
        engine, bundle / ARTIFACT_FOLDER, manifest, context=context, provider=provider, version=version
    )


class OpenvinoEngine:
    """One loaded model. Its KV cache is emptied at the start of each `generate` or `logits` call."""

    name = NAME

    def __init__(
        self,
        engine: tuple[Any, Any],
        artifact: Path,
        manifest: Manifest,
        *,
        context: int,
        provider: str,
        version: str,
    ) -> None:
        openvino, genai = engine
        self.version = version
        self.provider = provider
        self._stop_token_ids = frozenset(manifest.chat.stop_token_ids)
        self._refill_above = manifest.limits.whole_prefill_above
        with _translated(f"{artifact}: expected a model that {NAME} {version} can read"):
            self._tokenizer = genai.Tokenizer(str(artifact))
            self._tokenizer.set_chat_template(manifest.chat.template)
            self._decoder = open_decoder(
                openvino, artifact / MODEL_FILE, device=provider.upper(), context=context
            )
        if {device.partition(".")[0] for device in self._decoder.devices} != {provider.upper()}:
            raise NotSupportedError(
                f"expected {NAME} to run on {provider}, found it on {', '.join(self._decoder.devices)}",
                hint="`edgephi doctor` shows what this machine can use",
            )

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt text of a conversation, rendered with the template of the manifest."""
        for message in messages:
            _check_text(message["content"])
        with _translated("bundle.json: chat: expected a template that renders the prompt"):
            text: str = self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True)
            return text

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written in it become their ids."""
        _check_text(text)
        with _translated("expected text that the tokenizer can encode"):
            ids = self._tokenizer.encode(text, add_special_tokens=False).input_ids.data
            return [int(token) for token in ids.reshape(-1)]

    def decode_stream(self, before: int) -> TextStream:
        """A decoder for the tokens that follow `before`, which decides about a space at the start."""
        return _TextStream(self._tokenizer, before)

    def generate(
        self,
        prompt: Sequence[int],
        *,
        length: int,
        temperature: float,
        top_p: float,
        top_k: int,
        seed: int | None,
    ) -> Iterator[int]:
        """The tokens that follow `prompt`, a stop token included, until there are `length` tokens in all.

        An answer that grows past LongRoPE's original context is computed again from its first token on,
        because from there on other factors hold for all of it.
        """
        import numpy as np

        random = np.random.default_rng(seed)
        tokens = list(prompt)
        scores = self._prefill(tokens)
        while len(tokens) < length:
            token = int(scores.argmax())
            if temperature > 0:
                token = _draw(scores, random, temperature=temperature, top_p=top_p, top_k=top_k)
            yield token
            tokens.append(token)
            if token in self._stop_token_ids or len(tokens) == length:
                return
            if self._refill_above is not None and len(tokens) == self._refill_above + 1:
                scores = self._prefill(tokens)
            else:
                scores = self._compute(tokens[-1:], past=len(tokens) - 1, total=len(tokens))[-1]

    def logits(self, token_ids: Sequence[int], *, step: int) -> Iterator[NDArray[np.float32]]:
        """Logits after each of `token_ids`: arrays of (step, vocabulary), the last one maybe shorter.

        They are those of one prefill of all the tokens, however many are computed at once.
        """
        for start in range(0, len(token_ids), step):
            piece = token_ids[start : start + step]
            yield self._compute(piece, past=start, total=len(token_ids), kept=len(piece)).copy()

    def logits_after(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits after every token of one prefill, (tokens, vocabulary)."""
        return next(self.logits(token_ids, step=len(token_ids)))

    def _prefill(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Compute all `tokens` from the first one on; returns the scores of the token after them."""
        scores: NDArray[np.float32]
        start = 0
        while start < len(tokens):
            size = _PREFILL_TOKENS
            above = self._refill_above
            if start == 0 and above is not None and len(tokens) > above and not self._decoder.is_told_length:
                size = above + 1  # a graph of somebody else's: its first piece must show what is to come
            scores = self._compute(tokens[start : start + size], past=start, total=len(tokens))[-1]
            start += size
        return scores

    def _compute(self, tokens: Sequence[int], *, past: int, total: int, kept: int = 1) -> NDArray[np.float32]:
        """See `Decoder.compute`."""
        with _translated(f"expected to compute {len(tokens)} tokens"):
            return self._decoder.compute(tokens, past=past, total=total, kept=kept)


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


def _draw(
    scores: NDArray[np.float32],
    random: np.random.Generator,
    *,
    temperature: float,
    top_p: float,
    top_k: int,
) -> int:
    """Draw a token from the `top_k` most likely ones (0: all) that make up `top_p` of their probability."""
    import numpy as np

    candidates = np.arange(len(scores))
    if 0 < top_k < len(scores):
        candidates = np.argpartition(scores, -top_k)[-top_k:]
    candidates = candidates[np.argsort(-scores[candidates], kind="stable")]
    weights = scores[candidates].astype(np.float64) / temperature
    shares = np.cumsum(np.exp(weights - weights[0]))
    shares /= shares[-1]
    count = int(np.searchsorted(shares, top_p)) + 1
    drawn = random.random() * shares[min(count, len(shares)) - 1]
    return int(candidates[np.searchsorted(shares, drawn, side="right")])


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """The one place where the engine's exceptions become ours: it has one class for all of them."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, MemoryError, UnicodeError, OSError) as cause:
        found = _one_line(cause)
        if isinstance(cause, MemoryError) or "alloc" in found.lower():
            raise DoesNotFitError(
                f"{doing}: not enough memory: {found}",
                hint="stop other programs, or ask for fewer tokens (--max-tokens)",
            ) from cause
        hint = "copy the bundle again and check it with `edgephi verify`"
        raise BadBundleError(f"{doing}, found: {found}", hint=hint) from cause


def _one_line(cause: BaseException) -> str:
    """The message without OpenVINO's chain of source files in front of it."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("Exception from", "Check '"))] or lines
    return " ".join(lines) or type(cause).__name__
