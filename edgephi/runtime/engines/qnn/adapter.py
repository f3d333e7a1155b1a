"""The adapter of Qualcomm's NPU (extra `qnn`), checked against onnxruntime-qnn 2.7.

onnxruntime drives the graphs through Qualcomm's plugin; the loop around them X, and
text goes through the `tokenizers` library. On a Snapdragon the context binaries run on the Hexagon HTP. On
x86-64 Qualcomm's emulator of the HTP computes the graphs that they were compiled from: the same numbers, and
a speed that says nothing about a device. The two are providers of their own, so that every report tells.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.bundle.artifact.qnn_artifact import GraphFiles, Head, QnnArtifact, read_artifact
from edgephi.bundle.manifest import ARTIFACT_FOLDER, TOKENIZER_FILE, Manifest
from edgephi.bundle.switched_adapter import AdapterFiles, merge_hint
from edgephi.chat.template import ChatTemplate
from edgephi.commands import install_command
from edgephi.engines.facts.packages import installed_version
from edgephi.engines.qnn import EMULATION, FACTS, NPU
from edgephi.errors import NotSupportedError
from edgephi.runtime.adapter import TextStream, TileEncoder, check_version
from edgephi.runtime.engines.errors import cannot_import, translated
from edgephi.runtime.engines.qnn.chip import check_soc, chips_here, npu_problem
from edgephi.runtime.engines.qnn.library import (
    PACKAGE,
    HtpSessions,
    binary_qairt_version,
    check_qairt,
    emulates,
    platform_problem,
    qairt_version,
)
from edgephi.runtime.engines.sequence_cache import SequenceCache, too_many
from edgephi.runtime.text.checkpoint_text import CheckpointTokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgephi.runtime.engines.qnn.decoder import QnnDecoder, Slots
    from edgephi.runtime.images.rows import ImageRows

__all__ = ["NAME", "details", "open_engine", "platform_problem", "provider_problem"]

NAME = FACTS.name

_NEEDED = ("numpy", "tokenizers", "jinja2")


def provider_problem(provider: str) -> str | None:
    """Why the installed engine cannot use `provider` here; None when it can."""
    if installed_version(FACTS) is None:
        return platform_problem()  # else what to install is for `open_engine` to say
    if provider == EMULATION:
        return None if emulates() else "the emulator of the HTP exists for x86-64 only"
    return npu_problem()


def details() -> str:
    """The version of Qualcomm's libraries that come with the engine, and the chip that is here."""
    chips = chips_here()
    found = f"{chips[0]} found" if chips else "no Qualcomm chip found"
    return f"QAIRT {qairt_version() or 'of an unknown version'}, {found}"


def open_engine(
    bundle: Path,
    manifest: Manifest,
    *,
    context: int,
    provider: str,
    adapters: AdapterFiles | None = None,
) -> QnnEngine:
    """Load the model in `bundle` after all that can be checked before. Raises EdgephiError."""
    if adapters is not None and adapters.adapters:
        raise NotSupportedError(
            f"{manifest.name}: expected no adapters to switch: the weights lie inside of context binaries",
            hint=merge_hint("qnn"),
        )
    version = installed_version(FACTS)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if version is not None and missing:
        raise NotSupportedError(
            f"this bundle runs on {PACKAGE} with {' and '.join(missing)}, not installed",
            hint=install_command(FACTS.provider(provider).extra),
        )
    try:
        if version is None:
            raise ModuleNotFoundError(PACKAGE)
        import onnxruntime  # noqa: F401
        import onnxruntime_qnn  # noqa: F401 - found missing here, not later
    except ImportError as cause:
        raise cannot_import(PACKAGE, cause, extra=FACTS.provider(provider).extra) from None
    check_version(PACKAGE, version, manifest.requires.engines.get(NAME, ""))
    folder = bundle / ARTIFACT_FOLDER
    artifact = read_artifact(folder)
    here = qairt_version()
    for needed in (artifact.qairt, *_versions_inside(folder, artifact)):
        check_qairt(needed, here, onnxruntime_qnn=artifact.onnxruntime_qnn)
    if provider == NPU:
        check_soc(artifact.soc)
    elif not artifact.has_graphs:
        raise NotSupportedError(
            f"{manifest.name}: holds context binaries only, and the emulator needs the graphs",
            hint=f"run it on its device: {artifact.soc.name}",
        )
    return QnnEngine(folder, artifact, manifest, context=context, provider=provider, version=version)


def _versions_inside(folder: Path, artifact: QnnArtifact) -> set[str]:
    """The versions of QAIRT that the context binaries themselves name."""
    names = {artifact.head.binary, *(part.binary for part in artifact.parts)}
    with _translated(f"{folder}: expected context binaries"):
        return {version for name in names if (version := binary_qairt_version(folder / name))}


class QnnEngine:
    """One loaded model with its tokenizer."""

    name = NAME
    allocates_ahead = False
    copies_caches = True
    image_rows: ImageRows | None = None
    tile_encoder: TileEncoder | None = None
    told_factors = True

    def __init__(
        self,
        folder: Path,
        artifact: QnnArtifact,
        manifest: Manifest,
        *,
        context: int,
        provider: str,
        version: str,
    ) -> None:
        from edgephi.runtime.engines.qnn.decoder import QnnDecoder

        self.version = version
        self.provider = provider
        self._limit = min(context, artifact.context)
        self._template = ChatTemplate(manifest.chat.template, manifest.chat.variables)
        compiles = provider == EMULATION
        with _translated(f"{folder}: expected a model that {PACKAGE} {version} can read"):
            self._tokenizer = CheckpointTokenizer(folder / TOKENIZER_FILE)
            sessions = HtpSessions(artifact.provider_options)

            def open_graph(graph: GraphFiles | Head) -> Any:
                file = graph.graph if compiles else graph.wrapper
                return sessions.open(folder / file, compiles=compiles)

            self.decoder = QnnDecoder(folder, artifact, open_graph)

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
        self,
        token_ids: Sequence[int],
        *,
        step: int,
        adapter: str = "",  # noqa: ARG002 - there are none
    ) -> Iterator[NDArray[np.float32]]:
        """Logits after each of `token_ids`: arrays of (step, vocabulary), the last one maybe shorter.

        The head computes one position a call, and the layers a chunk.
        """
        import numpy as np

        if len(token_ids) > self._limit:
            raise too_many(len(token_ids), self._limit)
        slots = self.empty_slots()
        size = min(step, self.decoder.artifact.chunk)
        for start in range(0, len(token_ids), step):
            block = []
            for past in range(start, min(start + step, len(token_ids)), size):
                piece = token_ids[past : min(past + size, start + step, len(token_ids))]
                with _translated(f"expected to compute {len(piece)} tokens"):
                    hidden = self.decoder.compute(slots, piece, past)
                    block += [self.decoder.logits(row) for row in hidden]
            yield np.stack(block)

    def open_cache(self, capacity: int, *, adapter: str = "") -> QnnCache:  # noqa: ARG002 - there are none
        """An empty KV cache. It has the graphs' slots whatever its capacity; memory is taken as they fill."""
        if capacity > self._limit:
            raise too_many(capacity, self._limit)
        return QnnCache(self, self.empty_slots(), capacity)

    def empty_slots(self) -> Slots:
        """The arrays of an empty cache."""
        from edgephi.runtime.engines.qnn.decoder import Slots

        return Slots(self.decoder.artifact, self.decoder.layers)


class QnnCache(SequenceCache):
    """The KV cache of one sequence. Nothing is dropped from it: the mask hides what is not held."""

    def __init__(self, engine: QnnEngine, slots: Slots, capacity: int) -> None:
        super().__init__(capacity, piece_tokens=engine.decoder.artifact.chunk, long_above=None)
        self._engine = engine
        self._slots: Slots | None = slots
        self._hidden: NDArray[np.float32] | None = None  # of the last token, [hidden]
        self._known: NDArray[np.float32] | None = None  # its logits, when somebody has asked for them

    def _compute(self, tokens: list[int], past: int) -> None:
        assert self._slots is not None  # noqa: S101 - for the type checker
        with _translated(f"expected to compute {len(tokens)} tokens after {past}"):
            self._hidden = self._decoder.compute(self._slots, tokens, past)[-1]
        self._known = None

    def _keep(self, count: int) -> int:
        return count

    def _last_logits(self) -> NDArray[np.float32]:
        assert self._hidden is not None  # noqa: S101 - for the type checker
        if self._known is None:
            with _translated("expected logits"):
                self._known = self._decoder.logits(self._hidden)
        return self._known

    def _copy(self) -> QnnCache:
        assert self._slots is not None  # noqa: S101 - for the type checker
        slots = self._engine.empty_slots()
        slots.copy_from(self._slots, self._computed)
        return QnnCache(self._engine, slots, self.capacity)

    def _free(self) -> None:
        self._slots = self._hidden = self._known = None

    @property
    def _decoder(self) -> QnnDecoder:
        return self._engine.decoder


def _translated(doing: str) -> contextlib.AbstractContextManager[None]:
    # onnxruntime has a class for each of its errors, all of them plain exceptions.
    return translated(doing, kinds=(Exception,))
