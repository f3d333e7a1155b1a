"""Is every call of a function whole? Random tools, called by bundles over HTTP with OpenAI's own client.

    python -m tests.bench.tool_calls BUNDLE... [--count 500] [--provider cpu]

Each bundle is served. For each of `count` tools, whose schemas are drawn by chance (nested objects, arrays,
enums, unions, limits, letters of many scripts, the same ones for every bundle), the model must call it, once
in a stream and once not. A call is right when its arguments are JSON that jsonschema finds valid. One that
the limit of tokens cut off is counted apart: in a whole answer it is no call. So are streams that say
otherwise than the whole answer: the prompt is computed once and used again, and rounding can decide between
tokens that are equally likely. Prints a table, and ends with 1 when anything is wrong.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import openai

from edgephi.bundle.manifest import read_manifest
from tests.server.serving import serving

WORDS = (
    "room",
    "größe",
    "название",
    "都市",
    "café",
    "is_on",
    "Ünïcode",
    "x-y",
    "a b",
    "level",
    "🙂",
    "id",
    "tags",
)
TEXTS = ("kitchen", "Küche", "кухня", "厨房", "مطبخ", "☕", 'say "hi"', "a\\b", "line\nbreak", "", "1")
MAX_TOKENS = 400
CONTEXT = 1536


@dataclass
class Tally:
    """What came of one bundle's calls."""

    right: int = 0
    cut_off: int = 0
    wrong: int = 0
    different: int = 0
    seconds: float = 0.0


def schema(random_: random.Random, depth: int = 3) -> dict[str, Any]:
    """A JSON schema by chance, in which nothing can go on for ever."""
    kinds = ["string", "enum", "integer", "number", "boolean", "const", "nullable", "anyOf"]
    kinds += ["object", "object", "array"] if depth else []
    kind = random_.choice(kinds)
    if kind == "object":
        return object_schema(random_, depth - 1)
    if kind == "array":
        least = random_.randint(0, 1)
        return {
            "type": "array",
            "items": schema(random_, depth - 1),
            "minItems": least,
            "maxItems": least + random_.randint(1, 2),
        }
    if kind == "enum":
        return {"enum": random_.sample(TEXTS, random_.randint(1, 4))}
    if kind == "const":
        return {"const": random_.choice([*TEXTS, 0, True, None, [1, "2"]])}
    if kind == "integer":
        least = random_.randint(-50, 50)
        return {"type": "integer", "minimum": least, "maximum": least + random_.randint(0, 1000)}
    if kind == "number":
        return {"type": "number", "minimum": -10, "maximum": 10}
    if kind == "boolean":
        return {"type": "boolean"}
    if kind == "nullable":
        return {"type": ["string", "null"], "maxLength": random_.randint(1, 12)}
    if kind == "anyOf":
        return {"anyOf": [{"type": "boolean"}, {"type": "string", "maxLength": 8}]}
    return {"type": "string", "maxLength": random_.randint(1, 20)}


def object_schema(random_: random.Random, depth: int) -> dict[str, Any]:
    """The schema of an object by chance."""
    names = random_.sample(WORDS, random_.randint(1, 3))
    properties = {name: schema(random_, depth) for name in names}
    required = [name for name in names if random_.random() < 0.7]
    return {"type": "object", "properties": properties, "required": required}


def tools(count: int) -> Iterator[dict[str, Any]]:
    """The tools, the same ones each time."""
    for number in range(count):
        random_ = random.Random(number)
        function = {
            "name": f"{random_.choice(['set', 'get', 'find'])}_{number}",
            "description": random_.choice(TEXTS),
            "parameters": object_schema(random_, 3),
        }
        yield {"type": "function", "function": function}


def call(client: openai.OpenAI, tool: dict[str, Any], *, stream: bool) -> tuple[str, str] | None:
    """The name and the arguments of the call; None where it was cut off."""
    asked: dict[str, Any] = {
        "model": "",
        "messages": [{"role": "user", "content": f"Please {tool['function']['name'].replace('_', ' ')}."}],
        "tools": [tool],
        "tool_choice": {"type": "function", "function": {"name": tool["function"]["name"]}},
        "max_tokens": MAX_TOKENS,
    }
    if not stream:
        (choice,) = client.chat.completions.create(**asked).choices
        if choice.finish_reason == "length":
            assert not choice.message.tool_calls
            return None
        (made,) = choice.message.tool_calls
        return made.function.name, made.function.arguments
    name = arguments = ""
    for chunk in client.chat.completions.create(**asked, stream=True):
        (part,) = chunk.choices
        if part.finish_reason == "length":
            return None
        for delta in part.delta.tool_calls or ():
            name += delta.function.name or ""
            arguments += delta.function.arguments or ""
    return name, arguments


def is_right(tool: dict[str, Any], made: tuple[str, str]) -> bool:
    """Whether a call is one of the tool."""
    name, arguments = made
    try:
        jsonschema.validate(json.loads(arguments), tool["function"]["parameters"])
    except (ValueError, jsonschema.ValidationError) as cause:
        print(f"{name}: {arguments!r:.200}: {cause!r:.200}", file=sys.stderr)
        return False
    return bool(name == tool["function"]["name"])


def measure(bundle: Path, count: int, provider: str | None) -> Tally:
    """Have a bundle call each tool."""
    tally = Tally()
    options = ["--context", CONTEXT, *(["--provider", provider] if provider else [])]
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(bundle, Path(folder), *options) as server,
    ):
        client = server.client()
        start = time.monotonic()
        for number, tool in enumerate(tools(count), 1):
            made = [call(client, tool, stream=stream) for stream in (False, True)]
            for each in made:
                if each is None:
                    tally.cut_off += 1
                elif is_right(tool, each):
                    tally.right += 1
                else:
                    tally.wrong += 1
            tally.different += made[0] != made[1]
            print(f"\r{bundle.name}: {number} of {count}", end="", file=sys.stderr, flush=True)
        tally.seconds = time.monotonic() - start
    print(file=sys.stderr)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundles", metavar="BUNDLE", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--provider", help="another provider than the bundles' own")
    arguments = parser.parse_args()
    print("| bundle | engine | calls | right | cut off | wrong | streams that differ | seconds a call |")
    print("|---|---|---|---|---|---|---|---|")
    wrong = 0
    for bundle in arguments.bundles:
        tally = measure(bundle, arguments.count, arguments.provider)
        wrong += tally.wrong
        calls = 2 * arguments.count
        cells = [bundle.name, read_manifest(bundle).target.engine, calls, tally.right, tally.cut_off]
        cells += [tally.wrong, tally.different, f"{tally.seconds / calls:.2f}"]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
