"""The adapter of llama.cpp (`pip install 'edgephi[gguf]'`), checked against xllamacpp 2026.10.11549.

Two things llama.cpp does otherwise than the checkpoint, and this adapter mends. It chooses LongRoPE's factors
by the context that it has allocated, not by the length of the text: here a text within the original context
gets a context no longer than that one, and a text that grows past it gets another context and a new prefill.
And it has no sliding window for Phi-3: here a token that has left the window is taken out of the cache before
the next one is computed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Never

from edgephi.errors import BadBundleError, DoesNotFitError, NotSupportedError
from edgephi.manifest import ARTIFACT_FOLDER, Manifest
from edgephi.runtime.checkpoint_text import CheckpointTokenizer, render_chat
from edgephi.runtime.engines import TextStream, check_version
from edgephi.runtime.llama_library import (
    PACKAGE,
    READ_INTO_MEMORY,
    Batch,
    collected_errors,
    copy_floats,
    devices,
    float_rows,
    installed_version,
    load_library,
    token_array,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["NAME", "PROVIDERS", "STAND_INS", "extra", "installed_version", "open_engine", "provider_problem"]

NAME = "llama.cpp"
PROVIDERS = ("cpu", "cuda", "metal", "vulkan", "rocm")
STAND_INS: dict[str, str] = dict.fromkeys(PROVIDERS[1:], "cpu")

_MODEL_FILE = "model.gguf"
_TOKENIZER_FILE = "tokenizer.json"
_WINDOW_KEY = b"phi3.attention.sliding_window"
_LONG_ABOVE_KEY = b"phi3.rope.scaling.original_context_length"
# What llama.cpp calls a back end, in lower case, where it is not the provider's name.
_BACK_ENDS = {"mtl": "metal"}

# Prompt tokens computed in one call. Ctrl-C is seen between two calls, and a call's memory grows with them.
# On a CPU 64 take 3 % longer than 512, and 32 take 20 %; a GPU is not busy with so few.
_CPU_PREFILL_TOKENS = 64
_GPU_PREFILL_TOKENS = 512
_CONTEXT_STEP = 256  # llama.cpp rounds up the context that it is asked for
_RANDOM_SEED = 0xFFFFFFFF  # llama.cpp's sign for a seed that differs each time
_HINT = "copy the bundle again and check it with `edgephi verify`"


def extra(provider: str) -> str:  # noqa: ARG001 - wheels for other providers have the same name
    """The extra of edgephi that installs the engine."""
    return "gguf"


def provider_problem(provider: str) -> str | None:
    """Why the installed wheel cannot use `provider` here; None when it can."""
    try:
        found = sorted({_provider_of(name) for name, _ in devices(load_library())})
    except NotSupportedError as error:
        return error.message
    return (
        None if provider in found else f"{PACKAGE} {installed_version()} finds only {', '.join(found)} here"
    )


def open_engine(bundle: Path, manifest: Manifest, *, context: int, provider: str) -> LlamaEngine:
    """Load the model in `bundle` after checking the engine's version. Raises EdgephiError."""
    missing = [name for name in ("jinja2", "tokenizers") if importlib.util.find_spec(name) is None]
    if missing:
        raise NotSupportedError(
            f"this bundle runs on {NAME} with {' and '.join(missing)}, not installed",
            hint=f"pip install 'edgephi[{extra(provider)}]'",
        )
    version = installed_version()
    if version is not None:
        check_version(PACKAGE, version, manifest.requires.engines.get(NAME, ""))
    return LlamaEngine(load_library(), bundle / ARTIFACT_FOLDER, manifest, context, provider)


def _provider_of(back_end: str) -> str:
    return _BACK_ENDS.get(back_end, back_end)


class LlamaEngine:
    """One loaded model with a context that is made anew when the length of a text asks for it."""

    name = NAME

    def __init__(
        self, library: ctypes.CDLL, artifact: Path, manifest: Manifest, context: int, provider: str
    ) -> None:
        self.version = installed_version() or ""
        self.provider = provider
        self._library = library
        self._artifact = artifact
        self._tokenizer = CheckpointTokenizer(artifact / _TOKENIZER_FILE)
        self._template = manifest.chat.template
        self._stop_token_ids = frozenset(manifest.chat.stop_token_ids)
        self._limit = context
        self._prefill_tokens = _CPU_PREFILL_TOKENS if provider == "cpu" else _GPU_PREFILL_TOKENS
        self._long_above = manifest.limits.whole_prefill_above
        self._model = self._load(artifact / _MODEL_FILE)
        self._vocabulary = library.llama_model_get_vocab(self._model)
        self._window = self._number(_WINDOW_KEY)
        self._context: int | None = None
        self._long = False
        self._position = 0
        self._free_model = _finalizer(self, library.llama_model_free, self._model)
        self._free_context: weakref.finalize[..., LlamaEngine] | None = None
        self._make_context(long=False)

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt text of a conversation, rendered with the template of the manifest."""
        return render_chat(self._template, messages)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written in it become their ids.

        The checkpoint's own tokenizer: llama.cpp's cuts Phi-4-mini's words at combining marks, for one.
        """
        return self._tokenizer.encode(text)

    def decode_stream(self, before: int) -> TextStream:
        """A decoder for the tokens that follow `before`, which decides about a space at the start."""
        return self._tokenizer.decode_stream(before)

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
        """The tokens that follow `prompt`, a stop token included, until there are `length` tokens in all."""
        tokens = list(prompt)
        computed = 0
        sampler = self._sampler(temperature, top_p, top_k, seed)
        try:
            while len(tokens) < length:
                if computed == 0 or self._needs_long(len(tokens)) != self._long:
                    self._start(len(tokens))
                    computed = 0
                for piece in self._pieces(tokens[computed:]):
                    self._compute(piece)
                computed = len(tokens)
                token = self._library.llama_sampler_sample(sampler, self._context, -1)
                tokens.append(token)
                yield token
                if token in self._stop_token_ids:
                    return
        finally:
            self._library.llama_sampler_free(sampler)

    def logits(self, token_ids: Sequence[int], *, step: int) -> Iterator[NDArray[np.float32]]:
        """Logits after each of `token_ids`: arrays of (step, vocabulary), the last one maybe shorter.

        All of them are rotated as one text of that length is. Memory is `step` x vocabulary floats.
        """
        width = self._library.llama_vocab_n_tokens(self._vocabulary)
        self._start(len(token_ids))
        for start in range(0, len(token_ids), step):
            rows = token_ids[start : start + step]
            block, done = float_rows(len(rows), width), 0
            for piece in self._pieces(rows):
                self._compute(piece, all_logits=True)
                for row in range(len(piece)):
                    copy_floats(self._library.llama_get_logits_ith(self._context, row), block[done + row])
                done += len(piece)
            yield block

    def _load(self, file: Path) -> int:
        """The model, its layers on this engine's provider and nowhere else."""
        library = self._library
        parameters = library.llama_model_default_params()
        parameters.load_mode = READ_INTO_MEMORY
        handles = [handle for name, handle in devices(library) if _provider_of(name) == self.provider]
        if self.provider == "cpu":
            handles, parameters.n_gpu_layers = [], 0
        # An empty list: no device but the processor.
        listed = (ctypes.c_void_p * (len(handles) + 1))(*handles, None)
        parameters.devices = ctypes.cast(listed, ctypes.POINTER(ctypes.c_void_p))
        with collected_errors(library) as errors:
            model: int | None = library.llama_model_load_from_file(os.fsencode(file), parameters)
        if not model:
            self._refuse(f"{file}: expected a model that {NAME} ({PACKAGE} {self.version}) can read", errors)
        return model

    def _number(self, key: bytes) -> int:
        """A number of the file's header; 0 when it is not there."""
        text = ctypes.create_string_buffer(32)
        self._library.llama_model_meta_val_str(self._model, key, text, len(text))
        return int(text.value or b"0")

    def _needs_long(self, tokens: int) -> bool:
        """Whether a text of so many tokens is rotated by LongRoPE's long factors."""
        return self._long_above is not None and tokens > self._long_above

    def _start(self, tokens: int) -> None:
        """An empty cache for a text that has `tokens` tokens now, and may grow."""
        if tokens > self._limit:
            raise DoesNotFitError(
                f"expected at most {self._limit} tokens, found {tokens}",
                hint="open the bundle with a larger context",
            )
        long = self._needs_long(tokens)
        if self._context is None or long != self._long:
            self._make_context(long=long)
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), False)
        self._position = 0

    def _make_context(self, *, long: bool) -> None:
        """Replace the context by one whose length makes llama.cpp choose the factors that are wanted."""
        library = self._library
        if self._free_context is not None:  # first, so that there is never the memory of two
            self._free_context()
            self._context = None
        tokens = self._limit
        if long:  # llama.cpp takes the long factors for a context that is longer than the file says
            tokens = max(tokens, self._number(_LONG_ABOVE_KEY) + 1)
        else:  # what has left the window has left the cache too
            tokens = min(tokens, self._long_above or tokens, self._window or tokens)
        parameters = library.llama_context_default_params()
        parameters.n_ctx = tokens
        parameters.n_batch = parameters.n_ubatch = self._prefill_tokens
        with collected_errors(library) as errors:
            context: int | None = library.llama_init_from_model(self._model, parameters)
        if not context:
            self._refuse(f"expected a KV cache for {tokens} tokens", errors)
        self._context, self._long = context, long
        self._free_context = _finalizer(self, library.llama_free, context)
        allocated = library.llama_n_ctx(context)
        if not tokens <= allocated < tokens + _CONTEXT_STEP:
            raise NotSupportedError(
                f"expected {PACKAGE} {self.version} to allocate {tokens} tokens, found {allocated}",
                hint="pip install 'edgephi[gguf]' brings a version that this edgephi knows",
            )
        threads = _threads()
        library.llama_set_n_threads(context, threads, threads)

    def _pieces(self, tokens: Sequence[int]) -> Iterator[Sequence[int]]:
        """Cut the tokens that come next into what is computed at once.

        All tokens of a call see the same cache: once the window moves, that is right for one of them only.
        """
        done = 0
        while done < len(tokens):
            room = max(self._window - self._position, 1) if self._window else self._prefill_tokens
            piece = tokens[done : done + min(self._prefill_tokens, room)]
            yield piece
            done += len(piece)

    def _compute(self, tokens: Sequence[int], *, all_logits: bool = False) -> None:
        """Put `tokens` after those in the cache, and compute the logits of the last one or of each."""
        library, count = self._library, len(tokens)
        if self._window:
            oldest = self._position + count - self._window  # the first one that the last of them sees
            if oldest > 0:
                library.llama_memory_seq_rm(library.llama_get_memory(self._context), 0, 0, oldest)
        batch = Batch(n_tokens=count, token=token_array(tokens))
        if all_logits:
            batch.logits = (ctypes.c_int8 * count)(*[1] * count)
        code = library.llama_decode(self._context, batch)
        if code:
            raise BadBundleError(
                f"expected to compute {count} tokens after {self._position}, found {NAME}'s code {code}",
                hint=_HINT,
            )
        self._position += count

    def _sampler(self, temperature: float, top_p: float, top_k: int, seed: int | None) -> int:
        """llama.cpp's sampler for one answer; it has no penalty and no filter but those named here."""
        library = self._library
        chain: int = library.llama_sampler_chain_init(library.llama_sampler_chain_default_params())
        samplers = [library.llama_sampler_init_greedy()]
        if temperature > 0:
            samplers = [
                library.llama_sampler_init_temp(temperature),
                library.llama_sampler_init_top_k(top_k),
                library.llama_sampler_init_top_p(top_p, 1),
                library.llama_sampler_init_dist(_RANDOM_SEED if seed is None else seed),
            ]
        for sampler in samplers:
            library.llama_sampler_chain_add(chain, sampler)
        return chain

    def _refuse(self, expected: str, errors: list[str]) -> Never:
        """Raise the error that llama.cpp has logged."""
        found = errors[-1] if errors else "an error without a message"
        if any("alloc" in error.lower() for error in errors):
            raise DoesNotFitError(
                f"{expected}: not enough memory: {found}",
                hint="stop other programs, or ask for fewer tokens (--context)",
            )
        raise BadBundleError(f"{expected}, found: {found}", hint=_HINT)


def _finalizer(
    engine: LlamaEngine, free: Callable[[int], None], pointer: int
) -> weakref.finalize[..., LlamaEngine]:
    """What frees a pointer of the library when the engine goes, or when it is called before."""
    finalizer = weakref.finalize(engine, free, pointer)
    # At the end of the process the system takes everything back, and the library may be half gone by then.
    finalizer.atexit = False
    return finalizer


def _threads() -> int:
    """Threads to compute with: the cores that this process may use, each once."""
    import psutil  # type: ignore[import-untyped]

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, psutil.cpu_count(logical=False) or usable)
