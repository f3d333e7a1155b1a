"""The adapter of mlx-lm (extra `mlx`), checked against its version 0.31.

Of mlx-lm it takes the models' parts and the KV cache. The loop around them is ours, because mlx-lm's own is
bound to the device that was the default when it was imported, and text goes through the `tokenizers` library.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgephi.bundle.manifest import ARTIFACT_FOLDER, TOKENIZER_FILE, Manifest
from edgephi.bundle.switched_adapter import AdapterFiles
from edgephi.chat.template import ChatTemplate
from edgephi.engines.facts.packages import installed_version
from edgephi.engines.mlx_lm import FACTS
from edgephi.runtime.adapter import TextStream, TileEncoder, check_version
from edgephi.runtime.engines.errors import cannot_import, one_line, opening_adapter
from edgephi.runtime.engines.mlx_lm.errors import translated
from edgephi.runtime.engines.mlx_lm.image_encoder import MlxTileEncoder
from edgephi.runtime.engines.mlx_lm.model import load_model, with_adapter
from edgephi.runtime.engines.mlx_lm.package import engine_module
from edgephi.runtime.engines.sequence_cache import SequenceCache, too_many
from edgephi.runtime.images.rows import ImageRows, has_images
from edgephi.runtime.text.checkpoint_text import CheckpointTokenizer

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np
    from numpy.typing import NDArray

NAME = FACTS.name

_DEVICES = {"metal": "gpu", "cpu": "cpu"}  # as MLX calls them
# MLX keeps freed memory for the next computation; it is given back once in so many tokens.
_TOKENS_BETWEEN_CLEANING = 256


def provider_problem(provider: str) -> str | None:
    """Why the installed engine cannot use `provider` here; None when it can."""
    try:
        import mlx.core as mx
    except ModuleNotFoundError:
        return None  # what to install is for `open_engine` to say
    except ImportError as cause:
        return f"MLX cannot be loaded: {one_line(cause)}"
    if provider == "metal" and not mx.metal.is_available():
        return "Metal is not available: it needs a Mac with an Apple chip"
    return None


def open_engine(
    bundle: Path,
    manifest: Manifest,
    *,
    context: int,
    provider: str,
    adapters: AdapterFiles | None = None,
) -> MlxEngine:
    """Load the model in `bundle` after checking the engine's version. Raises EdgephiError."""
    try:
        import mlx.core
        import mlx.nn
        import tokenizers  # noqa: F401 - found missing here, not later

        caches = engine_module("cache")
    except ImportError as cause:
        raise cannot_import(NAME, cause, extra=FACTS.provider(provider).extra) from None
    version = installed_version(FACTS) or "unknown"
    check_version(NAME, version, manifest.requires.engines.get(NAME, ""))
    return MlxEngine(
        mlx=mlx,
        caches=caches,
        artifact=bundle / ARTIFACT_FOLDER,
        manifest=manifest,
        version=version,
        provider=provider,
        context=context,
        adapters=adapters or AdapterFiles(bundle),
    )


class MlxEngine:
    """One loaded model with its tokenizer."""

    name = NAME
    allocates_ahead = False
    copies_caches = True
    image_rows: ImageRows | None = None
    tile_encoder: TileEncoder | None = None
    told_factors = True

    def __init__(
        self,
        *,
        mlx: Any,
        caches: ModuleType,
        artifact: Path,
        manifest: Manifest,
        version: str,
        provider: str,
        context: int,
        adapters: AdapterFiles,
    ) -> None:
        self.version = version
        self.provider = provider
        self._limit = context
        self._adapter_files = adapters
        self.mx = mlx.core
        self._device = mlx.core.Device(getattr(mlx.core, _DEVICES[provider]), 0)
        self._caches = caches
        self._artifact = artifact
        self._template = ChatTemplate(manifest.chat.template, manifest.chat.variables)
        with translated(f"{artifact}: expected a model that {NAME} {version} can read"):
            self._tokenizer = CheckpointTokenizer(artifact / TOKENIZER_FILE)
            with mlx.core.stream(self._device):
                self._models = {"": load_model(artifact, provider)}
        images = manifest.model.images
        if images is not None:
            self.image_rows = ImageRows(images.hidden_size, context)
            self.tile_encoder = MlxTileEncoder(artifact, provider, self._device)
        if provider == "metal":
            # As mlx-lm does: weights that are to be read for every token are not paged out.
            mlx.core.set_wired_limit(mlx.core.device_info()["max_recommended_working_set_size"])

    def render_chat(self, messages: Sequence[dict[str, Any]], tools: Sequence[Any] | None = None) -> str:
        """The prompt text of a conversation, rendered with the template of the manifest."""
        return self._template.render(messages, tools=tools)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written in it become their ids."""
        return self._tokenizer.encode(text)

    def decode_stream(self, before: int) -> TextStream:
        """A decoder for the tokens that follow `before`, which decides about a space at the start."""
        return self._tokenizer.decode_stream(before)

    def logits(
        self, token_ids: Sequence[int], *, step: int, adapter: str = ""
    ) -> Iterator[NDArray[np.float32]]:
        """Logits after each of `token_ids`: arrays of (step, vocabulary), the last one maybe shorter."""
        import numpy as np

        if len(token_ids) > self._limit:
            raise too_many(len(token_ids), self._limit)
        mx, model = self.mx, self.model(adapter)
        layers = self.empty_layers()
        for start in range(0, len(token_ids), step):
            with translated("expected logits"), self.computing():
                hidden = self.hidden_states(model, token_ids[start : start + step], layers)
                block = model.head(hidden)[0].astype(mx.float32)
                array = np.array(block)  # (step, vocabulary)
            yield array

    def open_cache(self, capacity: int, *, adapter: str = "") -> MlxCache:
        """An empty KV cache; nothing is set aside for its `capacity`."""
        if capacity > self._limit:
            raise too_many(capacity, self._limit)
        return MlxCache(self, self.model(adapter), self.empty_layers(), capacity)

    def model(self, adapter: str) -> Any:
        """The model with an adapter, or without one: all of them have the same weights."""
        if adapter not in self._models:
            file = self._adapter_files.file(adapter)
            with opening_adapter(file, translated), self.computing():
                self._models[adapter] = with_adapter(self._models[""], file, self._artifact, self.provider)
        return self._models[adapter]

    def empty_layers(self) -> list[Any]:
        """An empty KVCache of mlx-lm's for each layer."""
        layers: list[Any] = self._caches.make_prompt_cache(self._models[""])
        return layers

    def computing(self) -> contextlib.AbstractContextManager[Any]:
        """Within it, MLX computes on this engine's device."""
        stream: contextlib.AbstractContextManager[Any] = self.mx.stream(self._device)
        return stream

    def hidden_states(self, model: Any, tokens: Sequence[int], layers: list[Any]) -> Any:
        """What the last layer makes of tokens, [1, tokens, hidden]. Nothing is computed yet.

        `layers` take the keys and values. Tokens below 0 are parts of images.
        """
        mx, rows = self.mx, self.image_rows
        ids = mx.array([list(tokens)])
        if rows is None or not has_images(tokens):
            return model.model(ids, layers)
        import numpy as np

        seen = np.array(tokens) < 0
        images = np.zeros((len(tokens), rows.hidden_size), np.float32)
        images[seen] = rows.take([token for token in tokens if token < 0])
        words = model.model.embed_tokens(mx.maximum(ids, 0))
        embedded = mx.where(mx.array(seen)[None, :, None], mx.array(images)[None].astype(words.dtype), words)
        return model.hidden_states(embedded, layers)


class MlxCache(SequenceCache):
    """The KV cache of mlx-lm, a KVCache for each layer.

    MLX computes in the background what it is asked for. So that a GPU never waits for Python, what follows
    the most likely token is begun before that one is told. On a CPU Python takes no time that matters, and
    what is computed in vain at the end of an answer does.
    """

    def __init__(self, engine: MlxEngine, model: Any, layers: list[Any], capacity: int) -> None:
        prefill = FACTS.provider(engine.provider).prefill
        super().__init__(capacity, piece_tokens=prefill.tokens, long_above=None)
        self._engine = engine
        self._model = model
        self._layers = layers
        self.begins_ahead = engine.provider == "metal"
        self._step: _Step | None = None  # of the last token
        self._next: tuple[int, _Step] | None = None  # a token that is not appended, and its step

    def next_greedy(self) -> int:
        """See KvCache."""
        self._check_logits()
        step = self._step
        assert step is not None  # noqa: S101 - for the type checker
        with translated("expected a next token"):
            if self.begins_ahead and self._next is None and len(self._tokens) < self.capacity:
                with self._engine.computing():
                    hidden = self._model.model(step.most_likely[None], self._layers)
                following = self._begin(hidden)
                self._next = int(step.most_likely.item()), following
            return self._next[0] if self._next else int(step.most_likely.item())

    def _compute(self, tokens: list[int], past: int) -> None:
        mx = self._engine.mx
        begun, self._next = self._next, None
        if begun is not None and [begun[0]] == tokens:
            self._step = begun[1]
            return
        with translated(f"expected to compute {len(tokens)} tokens after {past}"):
            self._keep(past)
            with self._engine.computing():
                hidden = self._engine.hidden_states(self._model, tokens, self._layers)
            self._step = self._begin(hidden)
            if len(tokens) > 1:
                mx.eval([layer.state for layer in self._layers])
            if len(tokens) > 1 or past % _TOKENS_BETWEEN_CLEANING == 0:
                mx.clear_cache()

    def _begin(self, hidden: Any) -> _Step:
        """Begin to compute what comes after the last of hidden states, [1, tokens, hidden].

        What comes after more than one waits until it is asked for.
        """
        mx = self._engine.mx
        with self._engine.computing():
            logits = self._model.head(hidden[:, -1, :])
            step = _Step(logits, mx.argmax(logits, axis=-1))
            if hidden.shape[1] == 1:
                mx.async_eval(step.most_likely)
        return step

    def _keep(self, count: int) -> int:
        self._next = None
        for layer in self._layers:
            layer.offset = min(layer.offset, count)
        return count

    def _last_logits(self) -> NDArray[np.float32]:
        import numpy as np

        assert self._step is not None  # noqa: S101 - for the type checker
        with translated("expected logits"), self._engine.computing():
            logits: NDArray[np.float32] = np.array(self._step.logits[0].astype(self._engine.mx.float32))
        return logits

    def _copy(self) -> MlxCache:
        layers = self._engine.empty_layers()
        for copied, layer in zip(layers, self._layers, strict=True):
            if layer.keys is not None:
                # Arrays of their own, over the same memory: MLX copies that when one of the two is written.
                copied.keys, copied.values = layer.keys[..., :, :], layer.values[..., :, :]
                copied.offset = self._computed
        return MlxCache(self._engine, self._model, layers, self.capacity)

    def _free(self) -> None:
        self._layers.clear()
        self._step = self._next = None
        self._engine.mx.clear_cache()


class _Step(NamedTuple):
    """What comes after a token, computed or not: logits [1, vocabulary], and the most likely token, [1]."""

    logits: Any
    most_likely: Any
