"""The process that renders a stranger's chat template: `python -P -m edgephi.runtime.text.template_process`.

A template is a program: it can loop for ever and fill the memory, in Jinja as in the engines' own renderers,
which nobody can interrupt. See `edgephi.runtime.text.chat_template` for the other end, and
`edgephi.processes.limited_process` for how the two talk. A question is a JSON document of `template` and
`messages`, and its answer the prompt.
"""

from __future__ import annotations

import json

from edgephi.processes.limited_process import Answer, answer_questions
from edgephi.runtime.text.checkpoint_text import render_chat

_LONGEST_FRAME = 1 << 20  # letters around the messages


def _answer(question: bytes) -> bytes:
    asked = json.loads(question)
    messages = asked["messages"]
    said = sum(len(message["content"]) for message in messages)
    prompt = render_chat(asked["template"], messages, most_letters=2 * said + _LONGEST_FRAME)
    return prompt.encode(errors="surrogatepass")


def _prepare(_arguments: list[str]) -> Answer:
    import jinja2.sandbox  # noqa: F401 - before the limit of memory begins

    return _answer


if __name__ == "__main__":
    answer_questions(_prepare)
