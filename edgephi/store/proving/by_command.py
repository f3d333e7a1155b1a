"""The probe of an edgephi that is older than `edgephi.runtime.proof.first_answer`: by its command line.

`edgephi run BUNDLE - --json` is what every version has, and what its users rely on. A bundle whose wheels
hold such an edgephi, or a box that has one, is probed by it as it always was.
"""

import json
import subprocess
from collections.abc import Callable
from typing import Any, Self

from edgephi.commands import PROGRAM_MODULE
from edgephi.processes.ask import NoAnswerError, end_process
from edgephi.processes.child_process import start_child
from edgephi.processes.ending import ending
from edgephi.processes.exchange import Exchange, NotInTimeError
from edgephi.runtime.proof.first_answer import FirstAnswer, FirstQuestion

_ERROR = "error: "


class AskedByCommand:
    """The command line of a Python's edgephi that has been asked; as `edgephi.processes.ask.Asked`."""

    def __init__(self, question: FirstQuestion, *, interpreter: str) -> None:
        self.process: subprocess.Popen[bytes] = start_child(
            # -P: a module of the working directory must not stand in for one of ours.
            [
                *(interpreter, "-P", "-m", PROGRAM_MODULE, "run", question.bundle, "-"),
                *("--json", "--max-tokens", str(question.max_tokens)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._exchange = Exchange(self.process, question.prompt.encode(errors="surrogatepass"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        end_process(self.process, own_session=True)

    def answer(
        self,
        answer: type[FirstAnswer],
        *,
        seconds: float,
        look: Callable[[], object],
        look_seconds: float,
    ) -> FirstAnswer:
        """Wait for the answer; the process has ended then. Raises NoAnswerError."""
        output: list[bytes] = []
        try:
            words = self._exchange.to_the_end(
                output.append, seconds=seconds, look=look, look_seconds=look_seconds
            )
        except NotInTimeError:
            raise _no_answer(f"gave no answer within {seconds:g} s", None) from None
        said = words.decode(errors="replace")
        code = self.process.returncode
        if code:
            errors = [line.removeprefix(_ERROR) for line in said.splitlines() if line.startswith(_ERROR)]
            raise _no_answer(f"{ending(code)}{': ' if errors else ''}{''.join(errors)}", code, said)
        try:
            document: dict[str, Any] = json.loads(b"".join(output))
            return answer(
                str(document["text"]),
                int(document["tokens"]["generated"]),
                float(document["timings"]["decode_tokens_per_second"]),
                bool(document.get("emulated")),
            )
        except (ValueError, KeyError, TypeError):
            raise _no_answer("gave no answer that can be read", code, said) from None


def _no_answer(how: str, code: int | None, said: str = "") -> NoAnswerError:
    return NoAnswerError(how, code=code, said=said, is_understood=True)
