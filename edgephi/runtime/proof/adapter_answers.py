"""The first answers of a bundle with its adapters, in a process of its own: the store's probe asks for them.

A question of its own beside that of `first_answer`, whose records are never changed; so are these not. A
bundle with adapters is only read by an edgephi that has this module.
"""

from dataclasses import dataclass
from pathlib import Path

import edgephi.runtime
from edgephi.processes.ask import Done, answer
from edgephi.runtime.options import Options


@dataclass(frozen=True)
class AdapterProbe:
    """Answer `prompt` with the adapter of that name, in at most `max_tokens` tokens."""

    adapter: str
    prompt: str
    max_tokens: int


@dataclass(frozen=True)
class AdapterQuestions:
    """Answer all of these with one bundle."""

    bundle: str
    probes: tuple[AdapterProbe, ...]


@dataclass(frozen=True)
class AdapterAnswers:
    """The texts, in the order of the questions."""

    texts: tuple[str, ...]


def adapter_answers(asked: AdapterQuestions, _done: Done) -> AdapterAnswers:
    """Do what is asked, in this process."""
    session = edgephi.runtime.load(Path(asked.bundle), warn=lambda _text: None)
    texts = []
    for probe in asked.probes:
        options = Options(max_tokens=probe.max_tokens, adapter=probe.adapter)
        texts.append(session.generate(probe.prompt, options).text)
    return AdapterAnswers(tuple(texts))


if __name__ == "__main__":
    answer(AdapterQuestions, adapter_answers)
