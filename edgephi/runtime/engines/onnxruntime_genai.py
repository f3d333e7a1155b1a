"""The adapter of ONNX Runtime GenAI, checked against its version 0.18.

Two packages hold the same module: onnxruntime-genai for CPUs (extra `cpu`) and
onnxruntime-genai-cuda, which runs on CPUs too (extra `cuda`).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.bundle.manifest import ARTIFACT_FOLDER, TOKENIZER_FILE, Manifest
from edgephi.bundle.switched_adapter import AdapterFiles
from edgephi.chat.template import ChatTemplate
from edgephi.commands import edgephi_command, install_command
from edgephi.engines.onnxruntime_genai import (
    ADAPTABLE_GRAPH_FILE,
    FACTS,
    IMAGE_ROWS_INPUT,
    ROWS_GRAPH_FILE,
    TOLD_LENGTH_INPUT,
    own_graph,
)
from edgephi.errors import NotSupportedError
from edgephi.runtime.adapter import TextStream, TileEncoder, check_version
from edgephi.runtime.engines.errors import cannot_import, one_line, opening_adapter, translated
from edgephi.runtime.engines.sequence_cache import SequenceCache, too_many
from edgephi.runtime.engines.tile_encoder import OnnxTileEncoder
from edgephi.runtime.images.rows import ImageRows
from edgephi.runtime.text.checkpoint_text import CheckpointTokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = FACTS.name

# Failures come back as exceptions; the engine must not print them to the user's terminal as well.
_QUIET = '{"model": {"decoder": {"session_options": {"log_severity_level": 4}}}}'

# A model that sees as a plain decoder. The engine's pipeline for such models is not opened: it cannot go back
# to an earlier token, nor take a picture after the first prompt, nor change LongRoPE's factors.
_PLAIN = {
    "type": "llama",
    "decoder": {"filename": ROWS_GRAPH_FILE, "inputs": {"input_ids": "input_ids"}},
    "embedding": {"filename": ""},
}


def provider_problem(provider: str) -> str | None:
    """Why the installed engine cannot use `provider` here; None when it can."""
    if provider == "cpu":
        return None
    try:
        import onnxruntime_genai
    except ModuleNotFoundError:
        return None  # what to install is for `open_engine` to say
    except ImportError as cause:
        return f"the engine cannot be loaded: {one_line(cause)}"
    if not onnxruntime_genai.is_cuda_available():
        return f"the installed {NAME} is made without CUDA (with it: edgephi's extra cuda in place of cpu)"
    from edgephi.machine.accelerators import find_accelerators

    # The engine would only fail at the first allocation, and with a message about memory.
    gpus = [gpu for gpu in find_accelerators() if gpu.vendor == "NVIDIA"]
    if not gpus:
        return "this machine has no NVIDIA GPU"
    return None if any(not gpu.problem for gpu in gpus) else gpus[0].problem


def open_engine(
    bundle: Path,
    manifest: Manifest,
    *,
    context: int,
    provider: str,
    adapters: AdapterFiles | None = None,
) -> GenaiEngine:
    """Load the model in `bundle` after checking the engine's version. Raises EdgephiError."""
    try:
        import onnxruntime_genai
    except ImportError as cause:
        raise cannot_import(NAME, cause, extra=FACTS.provider(provider).extra) from None
    check_version(
        FACTS.provider(provider).package,  # which the hint tells to install
        onnxruntime_genai.__version__,
        manifest.requires.engines.get(NAME, ""),
    )
    missing = [name for name in ("jinja2", "tokenizers") if importlib.util.find_spec(name) is None]
    if missing:
        raise NotSupportedError(
            f"this bundle runs on {NAME} with {' and '.join(missing)}, not installed",
            hint=install_command(FACTS.provider(provider).extra),
        )
    onnxruntime_genai.disable_telemetry_events()
    files = adapters or AdapterFiles(bundle)
    return GenaiEngine(
        onnxruntime_genai,
        bundle / ARTIFACT_FOLDER,
        manifest,
        context=context,
        provider=provider,
        adapters=files,
    )


def is_told_length(artifact: Path) -> bool:
    """Whether a graph reads how long a sequence will be; without the onnx library, which no device has."""
    return TOLD_LENGTH_INPUT.encode() in own_graph(artifact).read_bytes()


class GenaiEngine:
    """One loaded model with its tokenizer."""

    name = NAME
    allocates_ahead = True
    copies_caches = False

    def __init__(
        self,
        engine: Any,
        artifact: Path,
        manifest: Manifest,
        *,
        context: int,
        provider: str,
        adapters: AdapterFiles,
    ) -> None:
        self.version: str = engine.__version__
        self.provider = provider
        self._engine = engine
        self._template = ChatTemplate(manifest.chat.template, manifest.chat.variables)
        self._context = context
        self._adapter_files = adapters
        self._loaded: set[str] = set()  # adapters that the engine has
        self._long_above = manifest.limits.whole_prefill_above
        self.image_rows: ImageRows | None = None
        self.tile_encoder: TileEncoder | None = None
        images, installed = manifest.model.images, FACTS.provider(provider)
        if images is not None:
            self.image_rows = ImageRows(images.hidden_size, context)
            self.tile_encoder = OnnxTileEncoder(
                artifact, provider, package=installed.package, extra=installed.extra
            )
        with translated(f"{artifact}: expected a model that {NAME} {self.version} can read"):
            config = engine.Config(str(artifact))
            config.overlay(_QUIET)
            if images is not None:
                config.overlay(json.dumps({"model": _PLAIN}))
            self.told_factors = self._long_above is not None and is_told_length(artifact)
            if adapters.adapters:
                # That graph may lie in another folder than the weights, which no graph may lead out of its
                # own to find. So the engine is given it as bytes; they must live until it has read them.
                graph = (adapters.folder / ARTIFACT_FOLDER / ADAPTABLE_GRAPH_FILE).read_bytes()
                config.overlay(json.dumps({"model": {"decoder": {"filename": ADAPTABLE_GRAPH_FILE}}}))
                config.add_model_data(ADAPTABLE_GRAPH_FILE, graph)
            # Exactly the provider that was asked for, whatever the artifact's own configuration names.
            config.clear_providers()
            if provider != "cpu":
                config.append_provider(provider)
            self._model = engine.Model(config)
            self._adapters = engine.Adapters(self._model)
        self._tokenizer = CheckpointTokenizer(artifact / TOKENIZER_FILE)
        device: str = self._model.device_type.lower()
        if device != provider:
            raise NotSupportedError(
                f"expected {NAME} to run on {provider}, found it on {device}",
                hint=f"`{edgephi_command('doctor')}` shows what this machine can use",
            )

    def render_chat(self, messages: Sequence[dict[str, Any]], tools: Sequence[Any] | None = None) -> str:
        """The prompt text of a conversation, rendered with the template of the manifest.

        Not by the engine's own renderer, which takes the members of a message for JSON.
        """
        return self._template.render(messages, tools=tools)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written in it become their ids.

        The checkpoint's own tokenizer: the engine's cuts byte-level words at English contractions, and merges
        the pieces of a word in another order.
        """
        return self._tokenizer.encode(text)

    def decode_stream(self, before: int) -> TextStream:
        """A decoder for the tokens that follow `before`, which decides about a space at the start."""
        return self._tokenizer.decode_stream(before)

    def logits(
        self, token_ids: Sequence[int], *, step: int, adapter: str = ""
    ) -> Iterator[NDArray[np.float32]]:
        """Logits after each of `token_ids`: arrays of (step, vocabulary), the last one maybe shorter.

        Memory is `step` x vocabulary floats, twice. For a LongRoPE model a prompt past the original
        context is one prefill only when its first step is past it too.
        """
        generator = self._generator(len(token_ids), adapter)
        told = self._told_length(generator)
        if told is not None:
            told[0] = len(token_ids)
        images = self._images(generator, min(step, len(token_ids)))
        for start in range(0, len(token_ids), step):
            piece = list(token_ids[start : start + step])
            with translated(f"expected to compute {len(piece)} tokens"):
                generator.append_tokens(piece if images is None else images.placed(piece))
                block = generator.get_output("logits")[0]  # in the type of the graph's activations
            yield block.astype("float32", copy=False)

    def open_cache(self, capacity: int, *, adapter: str = "") -> GenaiCache:
        """An empty KV cache, allocated at once for `capacity` tokens."""
        generator = self._generator(capacity, adapter)
        piece_tokens = FACTS.provider(self.provider).prefill.tokens
        return GenaiCache(
            generator,
            capacity,
            piece_tokens=piece_tokens,
            long_above=self._long_above,
            told_length=self._told_length(generator),
            images=self._images(generator, piece_tokens),
        )

    def logits_after(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits after every token of one prefill, (tokens, vocabulary)."""
        return next(self.logits(token_ids, step=len(token_ids)))

    def _generator(self, capacity: int, adapter: str) -> Any:
        """The engine's empty KV cache, allocated for `capacity` tokens, of an adapter or of none."""
        if capacity > self._context:
            raise too_many(capacity, self._context)
        with translated(f"expected a KV cache for {capacity} tokens"):
            parameters = self._engine.GeneratorParams(self._model)
            parameters.set_search_options(max_length=capacity, do_sample=False)
            generator = self._engine.Generator(self._model, parameters)
        if adapter:
            self._switch_on(adapter, generator)
        return generator

    def _told_length(self, generator: Any) -> NDArray[np.int64] | None:
        """What the graph reads as the length of a whole sequence, whenever that is changed; [1].

        None where it does not read one. It must live as long as the generator.
        """
        if not self.told_factors:
            return None
        import numpy as np

        length = np.zeros(1, np.int64)
        generator.set_model_input(TOLD_LENGTH_INPUT, length)
        return length

    def _images(self, generator: Any, tokens: int) -> _ImageInput | None:
        """Where a generator that computes so many tokens at once reads images; None where it does not."""
        return None if self.image_rows is None else _ImageInput(generator, self.image_rows, tokens)

    def _switch_on(self, adapter: str, generator: Any) -> None:
        """Have what a generator computes be computed with an adapter."""
        file = self._adapter_files.file(adapter)
        with opening_adapter(file, translated):
            if adapter not in self._loaded:
                self._adapters.load(str(file), adapter)
                self._loaded.add(adapter)
            generator.set_active_adapter(self._adapters, adapter)


class _ImageInput:
    """The rows of images that a generator reads beside the tokens of a piece.

    The engine looks at the array in each piece anew, but takes no other one after the first piece.
    """

    def __init__(self, generator: Any, table: ImageRows, tokens: int) -> None:
        import numpy as np

        self._table = table
        self._rows = np.zeros((tokens, table.hidden_size), np.float32)
        generator.set_model_input(IMAGE_ROWS_INPUT, self._rows)

    def placed(self, tokens: Sequence[int]) -> list[int]:
        """The tokens of a piece as the graph reads them: those of images are -1, -2, … in their order."""
        seen = [token for token in tokens if token < 0]
        if not seen:
            return list(tokens)
        self._rows[: len(seen)] = self._table.take(seen)
        numbers = iter(range(-1, -1 - len(seen), -1))
        return [next(numbers) if token < 0 else token for token in tokens]


class GenaiCache(SequenceCache):
    """The KV cache of a `Generator` of the engine, which is used for nothing else. It cannot be copied."""

    def __init__(
        self,
        generator: Any,
        capacity: int,
        *,
        piece_tokens: int,
        long_above: int | None,
        told_length: NDArray[np.int64] | None,
        images: _ImageInput | None = None,
    ) -> None:
        super().__init__(
            capacity,
            piece_tokens=piece_tokens,
            long_above=long_above,
            told_factors=told_length is not None,
        )
        self._generator = generator
        self._told_length = told_length
        self._images = images

    def _compute(self, tokens: list[int], past: int) -> None:
        if self._told_length is not None:
            self._told_length[0] = self.capacity if self._long else 0
        with translated(f"expected to compute {len(tokens)} tokens after {past}"):
            self._generator.append_tokens(tokens if self._images is None else self._images.placed(tokens))

    def _keep(self, count: int) -> int:
        with translated(f"expected to keep {count} tokens"):
            self._generator.rewind_to(count)
        return count

    def _last_logits(self) -> NDArray[np.float32]:
        with translated("expected logits"):
            logits: NDArray[np.float32] = self._generator.get_logits()[0, -1]
        return logits.astype("float32", copy=False)

    def _free(self) -> None:
        self._generator = self._images = None
