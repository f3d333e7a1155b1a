"""The adapter of OpenVINO GenAI (extra `openvino`), checked against its version 2026.4.

What computes is `openvino`, which comes with it. The model is driven by `decoder` and not by `LLMPipeline`:
that keeps its cache across the length where LongRoPE's factors change, computes a prompt in one piece, and
shows no logits. Both compile the same graph for the same kernels. Text goes through the `tokenizers` library:
to the engine's own tokenizer other characters are letters, those of a later Unicode.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.bundle.manifest import ARTIFACT_FOLDER, TOKENIZER_FILE, Manifest
from edgephi.bundle.switched_adapter import AdapterFiles
from edgephi.chat.template import ChatTemplate
from edgephi.commands import edgephi_command, install_command
from edgephi.engines.facts.packages import installed_version
from edgephi.engines.openvino_genai import (
    FACTS,
    GRAPH_FILE,
    LANGUAGE_GRAPH_FILE,
    TEXT_EMBEDDINGS_GRAPH_FILE,
)
from edgephi.errors import NotSupportedError
from edgephi.runtime.adapter import TextStream, TileEncoder, check_version
from edgephi.runtime.engines.errors import cannot_import, opening_adapter
from edgephi.runtime.engines.openvino_genai.adapter_file import changed_matrices, read_factors
from edgephi.runtime.engines.openvino_genai.decoder import Decoder, DecoderCache, open_core, open_decoder
from edgephi.runtime.engines.openvino_genai.embeddings import Embeddings
from edgephi.runtime.engines.openvino_genai.errors import one_line, translated
from edgephi.runtime.engines.openvino_genai.image_encoder import OpenvinoTileEncoder
from edgephi.runtime.engines.openvino_genai.low_rank import Factors
from edgephi.runtime.engines.sequence_cache import SequenceCache, too_many
from edgephi.runtime.images.rows import ImageRows
from edgephi.runtime.text.checkpoint_text import CheckpointTokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = FACTS.name


def provider_problem(provider: str) -> str | None:
    """Why the installed engine cannot use `provider` here; None when it can."""
    if provider == "cpu":
        return None
    if provider == "npu":
        return "edgephi does not drive NPUs yet (openvino_genai.LLMPipeline(folder, 'NPU') may)"
    try:
        openvino = _import_engine()
    except ModuleNotFoundError:
        return None  # what to install is for `open_engine` to say
    except ImportError as cause:
        return f"the engine cannot be loaded: {one_line(cause)}"
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
    missing = [name for name in ("jinja2", "tokenizers") if importlib.util.find_spec(name) is None]
    if missing:
        raise NotSupportedError(
            f"this bundle runs on {NAME} with {' and '.join(missing)}, not installed",
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
    image_rows: ImageRows | None = None
    tile_encoder: TileEncoder | None = None

    def __init__(
        self,
        engine: Any,
        artifact: Path,
        manifest: Manifest,
        *,
        context: int,
        provider: str,
        version: str,
        adapters: AdapterFiles,
    ) -> None:
        self._adapter_files = adapters
        self.version = version
        self.provider = provider
        self._limit = context
        self._template = ChatTemplate(manifest.chat.template, manifest.chat.variables)
        self._long_above = manifest.limits.whole_prefill_above
        self._tokenizer = CheckpointTokenizer(artifact / TOKENIZER_FILE)
        device, images = provider.upper(), manifest.model.images
        with translated(f"{artifact}: expected a model that {NAME} {version} can read"):
            embed = None
            if images is not None:
                core = open_core(engine, device)
                self.image_rows = ImageRows(images.hidden_size, context)
                self.tile_encoder = OpenvinoTileEncoder(engine, core, artifact, device, images)
                words = artifact / TEXT_EMBEDDINGS_GRAPH_FILE
                embed = Embeddings(engine, core, words, device, self.image_rows)
            self._decoder = open_decoder(
                engine,
                artifact / (GRAPH_FILE if images is None else LANGUAGE_GRAPH_FILE),
                device=device,
                adapted=_changed_by(adapters),
                embed=embed,
            )
        self.told_factors = self._decoder.is_told_length
        self._factors = {"": self._decoder.branches.factors({})}
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
        return self._tokenizer.encode(text)

    def decode_stream(self, before: int) -> TextStream:
        """A decoder for the tokens that follow `before`, which decides about a space at the start."""
        return self._tokenizer.decode_stream(before)

    def logits(
        self, token_ids: Sequence[int], *, step: int, adapter: str = ""
    ) -> Iterator[NDArray[np.float32]]:
        """Logits after each of `token_ids`: arrays of (step, vocabulary), the last one maybe shorter.

        They are those of one prefill of all the tokens, however many are computed at once.
        """
        total = len(token_ids)
        if total > self._limit:
            raise too_many(total, self._limit)
        factors = self._factors_of(adapter)
        with translated(f"expected a KV cache for {total} tokens"):
            cache = self._decoder.open_cache(total, factors)
        with contextlib.closing(cache):
            for start in range(0, total, step):
                piece = token_ids[start : start + step]
                with translated(f"expected to compute {len(piece)} tokens"):
                    block = cache.compute(piece, past=start, total=total, kept=len(piece)).copy()
                yield block

    def open_cache(self, capacity: int, *, adapter: str = "") -> OpenvinoCache:
        """An empty KV cache for at most `capacity` tokens."""
        if capacity > self._limit:
            raise too_many(capacity, self._limit)
        factors = self._factors_of(adapter)
        with translated(f"expected a KV cache for {capacity} tokens"):
            cache = self._decoder.open_cache(capacity, factors)
        tokens = FACTS.provider(self.provider).prefill.tokens
        return OpenvinoCache(self._decoder, cache, capacity, piece_tokens=tokens, long_above=self._long_above)

    def logits_after(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits after every token of one prefill, (tokens, vocabulary)."""
        return next(self.logits(token_ids, step=len(token_ids)))

    def _factors_of(self, adapter: str) -> Factors:
        """What the decoder computes with for an adapter, which is read when it is first asked for."""
        if adapter not in self._factors:
            file = self._adapter_files.file(adapter)
            with opening_adapter(file, translated):
                self._factors[adapter] = self._decoder.branches.factors(read_factors(file))
        return self._factors[adapter]


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
        with translated(f"expected to compute {len(tokens)} tokens after {past}"):
            self._last = self._cache.compute(tokens, past=past, total=total)[-1].copy()

    def _keep(self, count: int) -> int:
        with translated(f"expected to keep {count} tokens"):
            self._cache.keep(count)
        return count

    def _last_logits(self) -> NDArray[np.float32]:
        assert self._last is not None  # noqa: S101 - for the type checker
        return self._last

    def _copy(self) -> OpenvinoCache:
        with translated("expected to copy a KV cache"):
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


def _changed_by(adapters: AdapterFiles) -> frozenset[str]:
    """The matrices that any of the adapters changes.

    One that cannot be read is told of when it is asked for: all else works without it.
    """
    changed: set[str] = set()
    for adapter in adapters.adapters:
        with contextlib.suppress(OSError, ValueError):
            changed |= changed_matrices(adapters.file(adapter.name))
    return frozenset(changed)


def _import_engine() -> Any:
    """The module openvino.

    On import, `openvino` brings in its model converter, which reports to its makers' analytics over the
    network. Nothing here converts models, so that part is kept out; importing gets faster by a third, too.
    """
    converter = "openvino.tools.ovc"
    blocked = converter not in sys.modules and "openvino" not in sys.modules
    if blocked:
        sys.modules[converter] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    finally:
        if blocked:
            del sys.modules[converter]
