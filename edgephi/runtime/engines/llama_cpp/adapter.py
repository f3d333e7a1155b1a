"""The adapter of llama.cpp (extra `gguf`), checked against xllamacpp 2026.10.11549.

Two things llama.cpp does otherwise than the checkpoint, and we mend. It chooses LongRoPE's factors by the
context that it has allocated, not by the length of the text: here a text within the original context gets a
context no longer than that one, and a text that grows past it gets another context and a new prefill. And it
has no sliding window for Phi-3: see `context`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.bundle.manifest import ARTIFACT_FOLDER, TOKENIZER_FILE, Manifest
from edgephi.bundle.switched_adapter import AdapterFiles
from edgephi.chat.template import ChatTemplate
from edgephi.commands import install_command
from edgephi.engines.facts.packages import installed_version
from edgephi.engines.llama_cpp import FACTS, MODEL_FILE
from edgephi.errors import NotSupportedError
from edgephi.runtime.adapter import TextStream, TileEncoder, check_version
from edgephi.runtime.engines.errors import opening_adapter
from edgephi.runtime.engines.llama_cpp.context import LlamaContext, finalizer, refuse, runs
from edgephi.runtime.engines.llama_cpp.library import (
    PACKAGE,
    READ_INTO_MEMORY,
    collected_errors,
    devices,
    float_rows,
    load_library,
)
from edgephi.runtime.engines.sequence_cache import SequenceCache, too_many
from edgephi.runtime.engines.tile_encoder import OnnxTileEncoder
from edgephi.runtime.images.rows import ImageRows
from edgephi.runtime.text.checkpoint_text import CheckpointTokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = FACTS.name

# In the header behind the name of the graph.
_WINDOW_KEY = b"attention.sliding_window"
_LONG_ABOVE_KEY = b"rope.scaling.original_context_length"
# What llama.cpp calls a back end, in lower case, where it is not the provider's name.
_BACK_ENDS = {"mtl": "metal"}


def provider_problem(provider: str) -> str | None:
    """Why the installed wheel cannot use `provider` here; None when it can."""
    version = installed_version(FACTS)
    if version is None:
        return None  # what to install is for `open_engine` to say
    try:
        found = sorted({_provider_of(name) for name, _ in devices(load_library())})
    except NotSupportedError as error:
        return error.message
    return None if provider in found else f"{PACKAGE} {version} finds only {', '.join(found)} here"


def open_engine(
    bundle: Path,
    manifest: Manifest,
    *,
    context: int,
    provider: str,
    adapters: AdapterFiles | None = None,
) -> LlamaEngine:
    """Load the model in `bundle` after checking the engine's version. Raises EdgephiError."""
    missing = [name for name in ("jinja2", "tokenizers") if importlib.util.find_spec(name) is None]
    if missing:
        raise NotSupportedError(
            f"this bundle runs on {NAME} with {' and '.join(missing)}, not installed",
            hint=install_command(FACTS.provider(provider).extra),
        )
    version = installed_version(FACTS)
    if version is not None:
        check_version(PACKAGE, version, manifest.requires.engines.get(NAME, ""))
    files = adapters or AdapterFiles(bundle)
    return LlamaEngine(
        load_library(), bundle / ARTIFACT_FOLDER, manifest, context=context, provider=provider, adapters=files
    )


def _provider_of(back_end: str) -> str:
    return _BACK_ENDS.get(back_end, back_end)


class LlamaEngine:
    """One loaded model with its tokenizer."""

    name = NAME
    allocates_ahead = True
    copies_caches = True
    told_factors = True

    def __init__(
        self,
        library: ctypes.CDLL,
        artifact: Path,
        manifest: Manifest,
        *,
        context: int,
        provider: str,
        adapters: AdapterFiles,
    ) -> None:
        self.version = installed_version(FACTS) or ""
        self.provider = provider
        self._library = library
        self._tokenizer = CheckpointTokenizer(artifact / TOKENIZER_FILE)
        self._template = ChatTemplate(manifest.chat.template, manifest.chat.variables)
        self._limit = context
        self._adapter_files = adapters
        self._adapters: dict[str, int] = {}  # those that were opened; they go with the model
        self.prefill_tokens = FACTS.provider(provider).prefill.tokens
        self.long_above = manifest.limits.whole_prefill_above
        self._model = self._load(artifact / MODEL_FILE)
        self.vocabulary_size: int = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self._model))
        self._window = self._number(_WINDOW_KEY)
        self.image_rows: ImageRows | None = None
        self.tile_encoder: TileEncoder | None = None
        if manifest.model.images is not None:
            self.image_rows = ImageRows(manifest.model.images.hidden_size, context)
            self.tile_encoder = OnnxTileEncoder(
                artifact, "cpu", package="onnxruntime", extra=FACTS.seeing_extra
            )
        self._free_model = finalizer(self, library.llama_model_free, self._model)
        self._greedy = library.llama_sampler_init_greedy()
        self._free_greedy = finalizer(self, library.llama_sampler_free, self._greedy)

    def render_chat(self, messages: Sequence[dict[str, Any]], tools: Sequence[Any] | None = None) -> str:
        """The prompt text of a conversation, rendered with the template of the manifest."""
        return self._template.render(messages, tools=tools)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written in it become their ids.

        The checkpoint's own tokenizer: llama.cpp's cuts Phi-4-mini's words at combining marks, for one.
        """
        return self._tokenizer.encode(text)

    def decode_stream(self, before: int) -> TextStream:
        """A decoder for the tokens that follow `before`, which decides about a space at the start."""
        return self._tokenizer.decode_stream(before)

    def logits(
        self, token_ids: Sequence[int], *, step: int, adapter: str = ""
    ) -> Iterator[NDArray[np.float32]]:
        """Logits after each of `token_ids`: arrays of (step, vocabulary), the last one maybe shorter.

        All of them are rotated as one text of that length is. Memory is `step` x vocabulary floats.
        """
        if len(token_ids) > self._limit:
            raise too_many(len(token_ids), self._limit)
        context = self.make_context(len(token_ids), long=self._needs_long(len(token_ids)), adapter=adapter)
        for start in range(0, len(token_ids), step):
            rows = token_ids[start : start + step]
            block, done = float_rows(len(rows), self.vocabulary_size), 0
            while done < len(rows):
                piece = rows[done : done + context.piece_size(start + done)]
                piece = piece[: next(runs(piece))]  # llama.cpp has the logits of its last call only
                context.compute(piece, start + done, all_logits=True)
                for row in range(len(piece)):
                    context.copy_logits(row, block[done + row])
                done += len(piece)
            yield block

    def open_cache(self, capacity: int, *, adapter: str = "") -> LlamaCache:
        """An empty KV cache, allocated at once for `capacity` tokens."""
        if capacity > self._limit:
            raise too_many(capacity, self._limit)
        context = self.make_context(capacity, long=False, adapter=adapter)
        return LlamaCache(self, capacity, context, adapter=adapter)

    def make_context(self, capacity: int, *, long: bool, adapter: str = "") -> LlamaContext:
        """A context whose length makes llama.cpp choose the factors that are wanted."""
        tokens = capacity
        if long:  # llama.cpp takes the long factors for a context that is longer than the file says
            tokens = max(tokens, self._number(_LONG_ABOVE_KEY) + 1)
        elif self.long_above is not None:
            tokens = min(tokens, self.long_above)
        return LlamaContext(
            self._library,
            self._model,
            tokens=tokens,
            window=self._window,
            batch=self.prefill_tokens,
            whole=long,
            adapter=self._adapter(adapter) if adapter else None,
            images=self.image_rows,
        )

    def most_likely(self, context: LlamaContext) -> int:
        """The most likely token after the last one that was computed. Needs no NumPy."""
        token: int = self._library.llama_sampler_sample(self._greedy, context.pointer, -1)
        return token

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
            refuse(f"{file}: expected a model that {NAME} ({PACKAGE} {self.version}) can read", errors)
        return model

    def _adapter(self, name: str) -> int:
        """An opened adapter."""
        if name not in self._adapters:
            file = self._adapter_files.file(name)
            with collected_errors(self._library) as errors:
                adapter: int | None = self._library.llama_adapter_lora_init(self._model, os.fsencode(file))
            if not adapter:
                with opening_adapter(file, lambda _: contextlib.nullcontext()):
                    refuse(f"{file}: expected an adapter for this model", errors)
            self._adapters[name] = adapter
        return self._adapters[name]

    def _number(self, key: bytes) -> int:
        """A number that the file's header has of the model; 0 when it is not there."""
        graph = self._text(b"general.architecture")
        return int(self._text(b".".join((graph, key))) or b"0")

    def _text(self, key: bytes) -> bytes:
        """A short text of the file's header; empty when it is not there."""
        text = ctypes.create_string_buffer(32)
        self._library.llama_model_meta_val_str(self._model, key, text, len(text))
        return text.value

    def _needs_long(self, tokens: int) -> bool:
        """Whether a text of so many tokens is rotated by LongRoPE's long factors."""
        return self.long_above is not None and tokens > self.long_above


class LlamaCache(SequenceCache):
    """The KV cache of one context of llama.cpp."""

    def __init__(
        self,
        engine: LlamaEngine,
        capacity: int,
        context: LlamaContext | None,
        *,
        adapter: str,
        long: bool = False,
    ) -> None:
        super().__init__(capacity, piece_tokens=engine.prefill_tokens, long_above=engine.long_above)
        self._engine = engine
        self._context = context
        self._context_is_long = long
        self._adapter = adapter

    def next_greedy(self) -> int:
        """See KvCache."""
        self._check_logits()
        return self._engine.most_likely(self._matching_context())

    def _matching_context(self) -> LlamaContext:
        """The context with the factors that are wanted. The other one goes first: never the memory of two."""
        if self._context is None or self._context_is_long != self._long:
            self._free()
            self._context = self._engine.make_context(self.capacity, long=self._long, adapter=self._adapter)
            self._context_is_long = self._long
        return self._context

    def _piece_size(self, past: int) -> int:
        return self._matching_context().piece_size(past)

    def _compute(self, tokens: list[int], past: int) -> None:
        self._matching_context().compute(tokens, past)

    def _keep(self, count: int) -> int:
        if self._context is None:
            return 0
        return self._context.keep(count)

    def _last_logits(self) -> NDArray[np.float32]:
        row: NDArray[np.float32] = float_rows(1, self._engine.vocabulary_size)[0]
        self._matching_context().copy_logits(-1, row)
        return row

    def _copy(self) -> LlamaCache:
        context = None if self._context is None else self._context.copy()
        return LlamaCache(
            self._engine, self.capacity, context, adapter=self._adapter, long=self._context_is_long
        )

    def _free(self) -> None:
        if self._context is not None:
            self._context.free()
            self._context = None
