"""Answers that are held to rules: before each token, those that would break the rules are masked.

The rules are a JSON schema, a regular expression or a grammar: see `edgephi.runtime.text.rules`. The library
`llguidance` (extra `serve`) says which tokens may come. It reads the bundle's `tokenizer.json`, so this works
alike with every engine. It works in a process of its own, because a schema of a few hundred bytes can take
minutes and gigabytes: see `edgephi.runtime.text.constraint_process`.
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
from edgephi.runtime.text.constraint_process import FINISHED, OPENING
from edgephi.runtime.text.rules import Kind, Rules

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONSTRAINT_SECONDS = 5.0
"""The most time for rules to be compiled, and for what may come after each token."""
CONSTRAINT_MEMORY_BYTES = 512 << 20
"""The most memory for it, beside what the vocabulary takes."""

_LONGEST_RULES = 1 << 18  # letters


class ConstraintCompiler:
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
                "answers that are held to rules need the library llguidance, which is not installed",
                hint=install_command("serve"),
            )
        if not tokenizer_file.is_file():
            raise BadBundleError(
                f"{tokenizer_file}: expected a tokenizer, which answers held to rules need, found none",
                hint="build the bundle again with this edgephi",
            )
        self._arguments = [str(tokenizer_file), *map(str, stop_token_ids)]
        self._in_background = in_background
        self._numbers = itertools.count()
        self._forgotten: list[int] = []
        self._process = self._start()

    def compile(self, rules: Rules) -> Constraint:
        """What holds one answer to `rules`.

        Raises BadInputError when they are none, some that no answer can be held to, or some that take too
        much time or memory.
        """
        if len(rules.text) > _LONGEST_RULES:
            raise BadInputError(
                f"expected {rules.name} of at most {_LONGEST_RULES} letters, found {len(rules.text)}",
                hint=f"make the {rules.short_name} shorter",
            )
        if not self._process.is_alive:  # the last rules were too much for it
            self._process = self._start()
            self._forgotten = []
        return Constraint(self._process, next(self._numbers), rules, self._forgotten)

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def kill(self) -> None:
        """The same while another thread compiles, which gets BadInputError."""
        self._process.kill()

    def _start(self) -> LimitedProcess:
        return LimitedProcess(
            "edgephi.runtime.text.constraint_process",
            *self._arguments,
            memory_bytes=CONSTRAINT_MEMORY_BYTES,
            in_background=self._in_background,
        )


class Constraint:
    """Which tokens may come next in one answer.

    `forgotten` takes its number when nobody holds it any more.
    """

    def __init__(self, process: LimitedProcess, number: int, rules: Rules, forgotten: list[int]) -> None:
        self._process = process
        self._number = number
        self._rules = rules
        self._forgotten = forgotten
        self._state = self._ask({"compile": number, "rules": vars(rules)}, "one that takes more")

    @property
    def is_finished(self) -> bool:
        """Whether the answer is complete and nothing but its end may come."""
        return self._state[:1] == FINISHED

    @property
    def leaves_out_space(self) -> bool:
        """Whether a space that comes now is no part of the answer's text: in some vocabularies the first."""
        return self._state[:1] == OPENING

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
            asked = json.dumps({**question, "forget": forgotten}).encode()
            return self._process.ask(asked, CONSTRAINT_SECONDS)
        except LimitReachedError as cause:
            raise BadInputError(
                f"expected {self._rules.name} that takes at most {cause.limit}, found {found}",
                hint=f"make the {self._rules.short_name} simpler: {_SIMPLER[self._rules.kind]}",
            ) from None


_SIMPLER: dict[Kind, str] = {
    "json_schema": "fewer patterns, and no multipleOf of large numbers",
    "regex": "fewer repetitions inside each other",
    "tools": "fewer of them, fewer patterns in their schemas, and no multipleOf of large numbers",
    "grammar": "fewer rules, and what is no rule's name in terminals",
}
