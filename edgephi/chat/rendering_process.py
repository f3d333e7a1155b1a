"""The process that renders a stranger's chat template: `python -P -m edgephi.chat.rendering_process`.

A template is a program: it can loop for ever and fill the memory, in Jinja as in the engines' own renderers,
which nobody can interrupt. See `edgephi.chat.template` for the other end, and
`edgephi.processes.limited_process` for how the two talk. A question is a JSON document of the arguments of
`render_chat`, and its answer the prompt.
"""

from __future__ import annotations

import json

from edgephi.chat.rendering import render_chat
from edgephi.processes.limited_process import Answer, answer_questions

_LONGEST_FRAME = 1 << 20  # letters around the messages


def _answer(question: bytes) -> bytes:
    asked = json.loads(question)
    given = json.dumps([asked["messages"], asked["tools"]], ensure_ascii=False)
    prompt = render_chat(
        asked["template"],
        asked["messages"],
        asked["variables"],
        tools=asked["tools"],
        answer_follows=asked["answer_follows"],
        most_letters=2 * len(given) + _LONGEST_FRAME,
        where=asked["where"],
    )
    return prompt.encode(errors="surrogatepass")


def _prepare(_arguments: list[str]) -> Answer:
    # Before the limit of memory begins.
    import jinja2.ext
    import jinja2.sandbox  # noqa: F401

    return _answer


if __name__ == "__main__":
    answer_questions(_prepare)
