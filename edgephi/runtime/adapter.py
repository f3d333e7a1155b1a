"""The engines that can run a bundle, and what each of their adapters offers.

An engine's adapter is a file or a folder of `edgephi/runtime/engines`. It is imported only when a bundle that
needs it is opened, because a device installs exactly one engine.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

from edgephi.bundle.manifest import Manifest
from edgephi.bundle.switched_adapter import AdapterFiles
from edgephi.commands import edgephi_command, pip_command
from edgephi.engines.facts.engine import EngineFacts
from edgephi.engines.facts.registry import known_engines
from edgephi.errors import BadBundleError, NotSupportedError
from edgephi.installed.version_range import is_inside

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgephi.runtime.images.rows import ImageRows

_EMULATION = "-emulation"
EMULATION_NOTE = "emulated here: the answers are the device's, the speed is not"
"""What every report says of a bundle whose provider `is_emulated`."""


def is_emulated(provider: str) -> bool:
    """Whether a provider computes in software what a device's hardware would, with the same results.

    Its speed says nothing about any device, and must not be shown as if it did.
    """
    return provider.endswith(_EMULATION)


class Adapter(Protocol):
    """What the file of an engine offers. Importing it imports no engine."""

    def provider_problem(self, provider: str) -> str | None:
        """Why the installed engine cannot use `provider` on this machine, in a few words; None when it can.

        None, too, when none is installed: that is for `open_engine` to say. May import the engine.
        """

    def open_engine(
        self,
        bundle: Path,
        manifest: Manifest,
        *,
        context: int,
        provider: str,
        adapters: AdapterFiles | None = None,
    ) -> Engine:
        """Load the model of a bundle for at most `context` tokens on exactly that provider.

        `adapters` are those that caches may be opened with. Raises NotSupportedError when the engine is
        missing, cannot be loaded or has the wrong version.
        """


class Engine(Protocol):
    """A loaded model with its tokenizer. One call at a time; every failure is an EdgephiError."""

    name: str
    version: str
    provider: str
    """What really computes: never another one than was asked for."""
    allocates_ahead: bool
    """Whether a KV cache takes the memory of its whole capacity when it is opened; else as tokens come."""
    copies_caches: bool
    """Whether `KvCache.fork` gives copies."""
    told_factors: bool
    """Whether it knows before the first piece of a text which of LongRoPE's factors hold for all of it."""
    image_rows: ImageRows | None
    """The images that it knows: their tokens are ids below 0, wherever ids are taken. None: it cannot see."""
    tile_encoder: TileEncoder | None
    """What computes these tokens; there where `image_rows` are."""

    def render_chat(self, messages: Sequence[dict[str, Any]], tools: Sequence[Any] | None = None) -> str:
        """The prompt text of a conversation, ready for the model's answer. `tools` are JSON schemas."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written in it become their ids."""

    def decode_stream(self, before: int) -> TextStream:
        """A decoder for the tokens that follow the token `before`."""

    def logits(
        self, token_ids: Sequence[int], *, step: int, adapter: str = ""
    ) -> Iterator[NDArray[np.float32]]:
        """Logits after each of `token_ids`, `step` tokens at a time: arrays of (step, vocabulary).

        Computed with the adapter of that name, where one is named.
        """

    def open_cache(self, capacity: int, *, adapter: str = "") -> KvCache:
        """An empty cache for at most `capacity` tokens; any number of them can be open side by side.

        All that is ever in it is computed with the adapter of that name, or without one. Raises
        DoesNotFitError when that is more than the engine was opened for, or more than memory allows;
        BadInputError when there is no such adapter, and BadBundleError when it cannot be read.
        """


class TileEncoder(Protocol):
    """The image encoder of an engine, with the projection behind it. It is loaded when it is first used."""

    def encode_tile(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """A tile of an image, float32 [3, tile, tile], as its tokens: float32 [side * side, hidden]."""

    def separators(self) -> NDArray[np.float32]:
        """The token that ends a line of an image, and the one between its parts: float32 [2, hidden]."""


class KvCache(Protocol):
    """Keys and values of one sequence of tokens, and the logits after its last one.

    Whatever was rewound, stopped or forked before: the logits are those of a fresh prefill of `tokens`, up
    to rounding. What that takes is done inside; where keys and values cannot be used again (LongRoPE's other
    factors hold for the new length, or they have left a sliding window), they are computed again.
    """

    capacity: int
    """The most tokens that it can hold."""

    @property
    def tokens(self) -> Sequence[int]:
        """What it holds, in order. Not a copy: look at it, and keep no hold of it."""

    def rewind(self, count: int) -> None:
        """Keep only the first `count` tokens. Takes no time; there are no logits until the next `append`."""

    def append(self, tokens: Sequence[int]) -> Iterator[int]:
        """Compute `tokens` after those held, piece by piece.

        After each piece it yields how many of `tokens` are done; 0 while tokens before them are computed
        again. A caller may stop between two pieces and close the iterator: the cache then holds the tokens
        that are done, and can be used on. Nothing is computed before the first piece is asked for. One token
        is one piece. Raises DoesNotFitError at once, and leaves the cache as it was, when there would be
        more than `capacity` tokens.
        """

    def logits(self) -> NDArray[np.float32]:
        """Logits after the last token, [vocabulary]; valid until the next `append` or `rewind`.

        Only after an `append` of one token or more that ran to its end: else EdgephiError.
        """

    def next_greedy(self) -> int:
        """The most likely token after the last one, as `logits().argmax()` but quicker where that can be.

        It is not appended. An engine may begin to compute what follows it, so ask only when `append` of
        that token is likely to come next.
        """

    def fork(self) -> KvCache | None:
        """A copy with the same tokens and capacity, which goes its own way; its memory is its own.

        It has no logits until the next `append`, as after `rewind`. None where the engine cannot copy.
        """

    def close(self) -> None:
        """Give its memory back; it cannot be used after that. Closing again does nothing."""


class TextStream(Protocol):
    """Turns tokens into text; a token that ends inside a character gives the empty string."""

    def decode(self, token: int) -> str:
        """The text that is complete after `token`."""


def adapter_of(facts: EngineFacts) -> Adapter:
    """The adapter of an engine."""
    return cast("Adapter", adapter_module(facts))


def adapter_module(facts: EngineFacts) -> ModuleType:
    """The module of an engine's adapter: a file of the engine's name, or `adapter` in such a folder."""
    module = importlib.import_module(f"edgephi.runtime.engines.{facts.module}")
    is_folder = hasattr(module, "__path__")
    return importlib.import_module(f"{module.__name__}.adapter") if is_folder else module


def open_engine(
    bundle: Path,
    manifest: Manifest,
    *,
    context: int | None = None,
    provider: str | None = None,
    beside: Path | None = None,
) -> Engine:
    """Load the model of a bundle with its engine.

    The manifest's adapters lie in the folder `beside`, or in the bundle's.
    `context` and `provider` are the manifest's when they are not given; another provider is only ever used
    when it is named here, but for an emulator of it where the device is missing. Raises NotSupportedError
    when the engine is unknown, not installed or of the wrong version or when the provider cannot be used
    here, and BadBundleError when the engine cannot read the model.
    """
    engine = manifest.target.engine
    facts = known_engines().get(engine)
    if facts is None:
        raise NotSupportedError(
            f"{bundle}: made for the engine {engine!r}, this edgephi runs {', '.join(known_engines())}",
            hint="use the edgephi version that wrote this bundle, or build it for another target",
        )
    adapter = adapter_of(facts)
    provider = provider or _own_provider(facts, adapter, manifest.target.provider)
    stand_in = facts.provider(provider).stand_in
    problem = adapter.provider_problem(provider)
    if problem is not None:
        instead = f"; or run it on the {stand_in}: --provider {stand_in}" if stand_in else ""
        raise NotSupportedError(
            f"{engine} on {provider}: {problem}",
            hint=f"`{edgephi_command('doctor')}` shows what this machine can use{instead}",
        )
    return adapter.open_engine(
        bundle,
        manifest,
        context=context or manifest.limits.context,
        provider=provider,
        adapters=AdapterFiles(beside or bundle, manifest.adapters),
    )


def _own_provider(facts: EngineFacts, adapter: Adapter, provider: str) -> str:
    """The provider of a bundle or, where it is missing and can be emulated, its emulator."""
    emulator = facts.provider(provider).stand_in
    if not is_emulated(emulator) or adapter.provider_problem(provider) is None:
        return provider
    return emulator if adapter.provider_problem(emulator) is None else provider


def check_version(engine: str, installed: str, allowed: str) -> None:
    """Check that `installed` is inside `allowed`, a PEP 440 range of ">=", ">", "<", "<=", "==" or "!=".

    Only release numbers are compared, which is all that engines use. Raises NotSupportedError.
    """
    try:
        is_right = is_inside(installed, allowed)
    except ValueError:
        raise BadBundleError(
            f"bundle.json: requires: engines: {engine}: expected a version range like '>=0.18,<0.19', "
            f"found {allowed!r}",
            hint="build the bundle again",
        ) from None
    if not is_right:
        raise NotSupportedError(
            f"the bundle needs {engine} {allowed}, found {installed}",
            hint=f"`{pip_command('install', f'{engine}{allowed}')}`, "
            "or build the bundle again for this version",
        )
