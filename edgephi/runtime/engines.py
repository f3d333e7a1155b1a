"""The engines that can run a bundle, and what each of their adapters offers.

An engine is one file beside this one. It is imported only when a bundle that needs it is opened, because
a device installs exactly one engine.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from edgephi.errors import BadBundleError, NotSupportedError
from edgephi.manifest import Manifest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ADAPTERS: dict[str, str] = {
    "onnxruntime-genai": "edgephi.runtime.onnxruntime_genai",
}
"""Module of each engine's adapter, by the name that a manifest gives the engine."""


class Engine(Protocol):
    """A loaded model with its tokenizer. One call at a time; every failure is an EdgephiError."""

    name: str
    version: str

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt text of a conversation, ready for the model's answer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written in it become their ids."""

    def decode_stream(self, before: int) -> TextStream:
        """A decoder for the tokens that follow the token `before`."""

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
        """The tokens that follow `prompt`: to a stop token, or until there are `length` tokens in all.

        The other arguments mean what they mean in `edgephi.runtime.session.Options`.
        """

    def logits(self, token_ids: Sequence[int], *, step: int) -> Iterator[NDArray[np.float32]]:
        """Logits after each of `token_ids`, `step` tokens at a time: arrays of (step, vocabulary)."""


class TextStream(Protocol):
    """Turns tokens into text; a token that ends inside a character gives the empty string."""

    def decode(self, token: int) -> str:
        """The text that is complete after `token`."""


def open_engine(bundle: Path, manifest: Manifest) -> Engine:
    """Load the model of a bundle with its engine.

    Raises NotSupportedError when the engine is unknown, not installed or of the wrong version, and
    BadBundleError when the engine cannot read the model.
    """
    engine = manifest.target.engine
    if engine not in ADAPTERS:
        raise NotSupportedError(
            f"{bundle}: made for the engine {engine!r}, this edgephi runs {', '.join(ADAPTERS)}",
            hint="use the edgephi version that wrote this bundle, or build it for another target",
        )
    adapter = importlib.import_module(ADAPTERS[engine])
    return cast("Engine", adapter.open_engine(bundle, manifest))


def check_version(engine: str, installed: str, allowed: str) -> None:
    """Check that `installed` is inside `allowed`, a PEP 440 range of ">=", ">", "<", "<=", "==" or "!=".

    Only release numbers are compared, which is all that engines use. Raises NotSupportedError.
    """
    compare = {
        ">=": lambda a, b: a >= b,
        "<=": lambda a, b: a <= b,
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
        ">": lambda a, b: a > b,
        "<": lambda a, b: a < b,
    }
    for part in filter(None, (part.strip() for part in allowed.split(","))):
        sign = next((sign for sign in compare if part.startswith(sign)), None)
        if sign is None:
            raise BadBundleError(
                f"bundle.json: requires: engines: {engine}: expected a version range like '>=0.18,<0.19', "
                f"found {allowed!r}",
                hint="build the bundle again",
            )
        if not compare[sign](_release(installed), _release(part.removeprefix(sign))):
            raise NotSupportedError(
                f"the bundle needs {engine} {allowed}, found {installed}",
                hint=f"pip install '{engine}{allowed}', or build the bundle again for this version",
            )


def _release(version: str) -> tuple[int, ...]:
    """The release numbers of a version, without the zeros at its end: "0.18.0rc1" -> (0, 18)."""
    numbers: list[int] = []
    for part in version.strip().split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if digits:
            numbers.append(int(digits))
        if digits != part:
            break
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
