"""The first answer of a bundle on a device, in a process of its own: the store's probe asks for it.

It is asked across versions. The store that asks travels to a box with whoever flashes; what answers is the
edgephi that will run the bundle there, of the box or of the bundle's wheels, and may be older or newer. So
this module's name and its two records are never changed: they are read strictly, and a field more on one side
would be an error on the other. Another question gets a module of its own beside this one, and who finds that
missing asks this one. An edgephi that is older than this module is asked by its command line: see
`edgephi.store.proving.by_command`.
"""

from dataclasses import dataclass
from pathlib import Path

import edgephi.runtime
from edgephi.processes.ask import Done, answer
from edgephi.runtime.adapter import is_emulated
from edgephi.runtime.options import Options


@dataclass(frozen=True)
class FirstQuestion:
    """Answer `prompt`, a user's message, as `edgephi run` does by default, in at most `max_tokens` tokens."""

    bundle: str
    prompt: str
    max_tokens: int


@dataclass(frozen=True)
class FirstAnswer:
    """Its text, how many tokens that are, and how fast they came after the first.

    When the device was `emulated`, the speed is none of a device.
    """

    text: str
    generated_tokens: int
    decode_tokens_per_second: float
    emulated: bool = False


def first_answer(question: FirstQuestion, _done: Done) -> FirstAnswer:
    """Do what is asked, in this process."""
    session = edgephi.runtime.load(Path(question.bundle), warn=lambda _text: None)
    said = session.generate(question.prompt, Options(max_tokens=question.max_tokens))
    return FirstAnswer(
        said.text,
        said.generated_tokens,
        said.decode_tokens_per_second,
        is_emulated(session.engine.provider),
    )


if __name__ == "__main__":
    answer(FirstQuestion, first_answer)
