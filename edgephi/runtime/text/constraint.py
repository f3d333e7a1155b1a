"""Answers that are JSON of a given schema: before each token, those that would break it are masked.

The library `llguidance` (extra `serve`) says which tokens may come. It reads the bundle's
`tokenizer.json`, so this works alike with every engine. It works in a process of its own, because a schema
of a few hundred bytes can take minutes and gigabytes: see `edgephi.runtime.text.schema_process`.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.commands import install_command
from edgephi.errors import BadBundleError, BadInputError, NotSupportedError
from edgephi.processes.limited_process import LimitedProcess, LimitReachedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA_SECONDS = 5.0
"""The most time for a schema to be compiled, and for what may come after each token."""
SCHEMA_MEMORY_BYTES = 512 << 20
"""The most memory for it, beside what the vocabulary takes."""

_LARGEST_SCHEMA = 1 << 18  # letters


class SchemaCompiler:
    """Makes constraints for the tokens of one bundle. One thread at a time.

    Its process takes some tens of megabytes for a large vocabulary. `stop_token_ids` end an answer;
    `in_background` is that of LimitedProcess. Raises NotSupportedError without the library, and
    BadBundleError when it cannot read the tokenizer in `tokenizer_file`.
    """

    def __init__(
        self, tokenizer_file: Path, stop_token_ids: Sequence[int], *, in_background: bool = False
    ) -> None:
        if importlib.util.find_spec("llguidance") is None:
            raise NotSupportedError(
                "answers of a JSON schema need the library llguidance, which is not installed",
                hint=install_command("serve"),
            )
        if not tokenizer_file.is_file():
            raise BadBundleError(
                f"{tokenizer_file}: expected a tokenizer for answers of a JSON schema, found no such file",
                hint="build the bundle again with this edgephi",
            )
        self._arguments = [str(tokenizer_file), *map(str, stop_token_ids)]
        self._in_background = in_background
        self._numbers = itertools.count()
        self._forgotten: list[int] = []
        self._process = self._start()

    def compile(self, schema: str) -> Constraint:
        """What holds one answer to a JSON schema, given as JSON text.

        Raises BadInputError when it is no schema, one that no answer can be held to, or one that takes too
        much time or memory.
        """
        if len(schema) > _LARGEST_SCHEMA:
            raise BadInputError(
                f"expected a JSON schema of at most {_LARGEST_SCHEMA} letters, found {len(schema)}",
                hint=_HINT,
            )
        if not self._process.is_alive:  # the last schema was too much for it
            self._process = self._start()
            self._forgotten = []
        return Constraint(self._process, next(self._numbers), schema, self._forgotten)

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def kill(self) -> None:
        """The same while another thread compiles, which gets BadInputError."""
        self._process.kill()

    def _start(self) -> LimitedProcess:
        return LimitedProcess(
            "edgephi.runtime.text.schema_process",
            *self._arguments,
            memory_bytes=SCHEMA_MEMORY_BYTES,
            in_background=self._in_background,
        )


class Constraint:
    """Which tokens may come next in one answer.

    `forgotten` takes its number when nobody holds it any more.
    """

    def __init__(self, process: LimitedProcess, number: int, schema: str, forgotten: list[int]) -> None:
        self._process = process
        self._number = number
        self._forgotten = forgotten
        self._state = self._ask({"compile": number, "schema": schema}, "one that takes more")

    @property
    def is_finished(self) -> bool:
        """Whether the answer is complete and nothing but its end may come."""
        return self._state[:1] == b"\1"

    def masked(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy of logits [vocabulary], -inf for tokens that must not come next.

        A stop token may come only where the answer may end.
        """
        import numpy as np

        bits = np.unpackbits(np.frombuffer(self._state, np.uint8, offset=1), bitorder="little")
        masked = np.full_like(logits, -np.inf)
        size = min(len(bits), len(logits))  # some vocabularies are filled up with tokens that do not exist
        np.copyto(masked[:size], logits[:size], where=bits[:size].view(np.bool_))
        return masked

    def take(self, token: int) -> None:
        """The token that has come. Raises BadInputError when it must not, or nothing can come after it."""
        question = {"take": self._number, "token": token}
        self._state = self._ask(question, "one that takes more after some tokens")

    def __del__(self) -> None:
        # Told with the next question: right now another one may be under way.
        self._forgotten.append(self._number)

    def _ask(self, question: dict[str, Any], found: str) -> bytes:
        forgotten = self._forgotten[:]
        del self._forgotten[: len(forgotten)]
        try:
            return self._process.ask(json.dumps({**question, "forget": forgotten}).encode(), SCHEMA_SECONDS)
        except LimitReachedError as cause:
            raise BadInputError(
                f"expected a JSON schema that takes at most {cause.limit}, found {found}",
                hint="make the schema simpler: fewer patterns, and no multipleOf of large numbers",
            ) from None


_HINT = "see which keywords llguidance supports: https://github.com/guidance-ai/llguidance"
