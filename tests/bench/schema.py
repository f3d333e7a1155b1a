"""What it costs to hold an answer to a JSON schema: decode speed without and with one, in one run.

The answers are written side by side, a piece of each in turn, so that a busy moment of the machine meets all
of them; each has as many tokens as were asked for, unless the model ends a free one. The first round warms
up. Tokens that are drawn, without a schema, show what it costs not to use the engine's own greedy step.
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import edgephi.runtime
from edgephi.runtime.session import Options, Session
from tests.bench.measure import report

PROMPT = "List the lamps of a house, as JSON."
LAMPS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "room": {"type": "string", "maxLength": 30},
            "kind": {"enum": ["ceiling", "desk", "wall"]},
            "on": {"type": "boolean"},
            "level": {"type": "integer", "minimum": 0, "maximum": 100},
        },
        "required": ["room", "kind", "on", "level"],
        "additionalProperties": False,
    },
    "minItems": 1000,  # so that it does not end before the tokens do
}


@dataclass(frozen=True)
class Spent:
    """Seconds for so many tokens."""

    seconds: float = 0.0
    tokens: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.seconds + other.seconds, self.tokens + other.tokens)


def side_by_side(session: Session, kinds: Mapping[str, Options]) -> dict[str, Spent]:
    """What each kind of answer takes behind its first piece, for which the prompt is read."""
    answers = {name: session.stream(PROMPT, how) for name, how in kinds.items()}
    pieces = {name: answer.pieces() for name, answer in answers.items()}
    for each in pieces.values():
        next(each)
    seconds, left = dict.fromkeys(kinds, 0.0), list(kinds)
    while left:
        for name in list(left):
            start = time.perf_counter()
            if next(pieces[name], None) is None:
                left.remove(name)
            seconds[name] += time.perf_counter() - start
    return {
        name: Spent(seconds[name], answer.generation.generated_tokens - 1) for name, answer in answers.items()
    }


def main() -> None:
    """Measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("bundle", type=Path)
    arguments.add_argument("--tokens", type=int, default=64, help="tokens to decode in each answer")
    arguments.add_argument("--rounds", type=int, default=5, help="answers of each kind")
    arguments.add_argument("--provider", help="another provider than the bundle's own")
    options = arguments.parse_args()
    session = edgephi.runtime.load(options.bundle, provider=options.provider)
    kinds = {
        "without": Options(max_tokens=options.tokens),
        "without, tokens drawn": Options(max_tokens=options.tokens, temperature=1.0, seed=1),
        "with a schema": Options(max_tokens=options.tokens, json_schema=json.dumps(LAMPS)),
    }
    spent = {name: Spent() for name in kinds}
    for number in range(options.rounds + 1):
        found = side_by_side(session, kinds)
        if number:
            spent = {name: spent[name] + found[name] for name in kinds}
    engine = session.engine
    print(f"{session.manifest.name}: {engine.name} {engine.version} on {engine.provider}")
    speeds = {name: each.tokens / each.seconds for name, each in spent.items()}
    rows = [
        (
            name,
            f"{speed:.2f}",
            f"{1000 / speed:.2f}",
            f"{speed / speeds['without']:.3f}",
            f"{spent[name].tokens}",
        )
        for name, speed in speeds.items()
    ]
    report(("", "decode tokens/s", "ms a token", "ratio", "tokens"), rows)


if __name__ == "__main__":
    main()
