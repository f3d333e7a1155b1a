"""Many clients against one server here, good ones and bad ones: is every answer right, and how soon?

Each client asks again and again for some time. A third of them read whole answers and a third streams; the
others read slowly, or go away in the middle. An answer is right when it is, letter for letter, what the
server answered when it was alone. Those who are told to come back later (429) do as Retry-After says.

What the server adds to the engine is what its own histograms in /metrics say: from a piece of an answer in
the engine's process to the client's socket, and of each request the time that neither queue nor engine took.

Memory is the proportional set size (PSS) of both processes, and under load also what of it they have
allocated: the rest are pages of libraries, whose share falls and rises with every other program that opens or
closes them, so run nothing beside this. At rest, that is with one cache for the whole context and after one
answer, it stands beside that of a bare loop of the same engine with the same cache.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgephi.bundle.manifest import read_manifest
from tests.bench.measure import edgephi, report
from tests.server.serving import Server, serving

ROOMS = ("kitchen", "bath", "hall", "bedroom", "living room", "office", "garage")
PROMPTS = [
    f"turn {state} the {room} {thing}"
    for room in ROOMS
    for state in ("on", "off")
    for thing in ("light", "fan")
]
KINDS = ("whole", "stream", "whole", "stream", "slow", "leaving")
SLOW_READ_BYTES, SLOW_READ_SECONDS = 128, 0.02
WARM_UP = 0.25  # of the time, before memory is compared
FLAT = 0.05
AT_REST_TOKENS = 8  # a full-size model of random weights never stops by itself

BARE_LOOP = """
import re, sys
import onnxruntime_genai as engine
model = engine.Model(sys.argv[1])
tokenizer = engine.Tokenizer(model)
parameters = engine.GeneratorParams(model)
parameters.set_search_options(max_length=int(sys.argv[2]))
generator = engine.Generator(model, parameters)
generator.append_tokens(tokenizer.encode("turn on the kitchen light"))
stream = tokenizer.create_stream()
for _ in range(int(sys.argv[3])):
    if generator.is_done():
        break
    generator.generate_next_token()
    stream.decode(generator.get_next_tokens()[0])
text = open("/proc/self/smaps_rollup").read()
print(*(re.search(rf"^{name}: +(\\d+)", text, re.M)[1] for name in ("Pss", "Rss")))
"""


@dataclass
class Tally:
    """What happened. `problems` should stay empty."""

    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def main() -> None:
    """Measure, print; end with 1 when something was lost, mixed up, or not flat."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--bundle", type=Path, help="[default: the demo, built for this]")
    arguments.add_argument("--clients", type=int, default=50)
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--queue", type=int, default=16)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        bundle = options.bundle or Path(name) / "bundle"
        if options.bundle is None:
            subprocess.run(
                list(map(str, edgephi("build", "demo", "--target", "cpu", "-o", bundle))), check=True
            )
        with serving(bundle, Path(name), "--queue", options.queue) as server:
            expected = {prompt: _alone(server, prompt) for prompt in PROMPTS}
            before = server.get("/metrics").text
            tally, memory = asyncio.run(_load(server, options.clients, options.seconds, expected))
            after = server.get("/metrics").text
            lines = [line for line in server.log.splitlines() if " error: " in line or "Traceback" in line]
        rest, bare = at_rest_bytes(bundle, Path(name)), bare_loop_bytes(bundle)[0]
    wrong = [*tally.problems, *lines, *_wrong_counts(tally, before, after)]
    warm = [each for each in memory if each.seconds > WARM_UP * options.seconds]
    whole, allocated = _Swing.of([each.whole for each in warm]), _Swing.of([each.allocated for each in warm])
    problems = [*wrong, *(f"memory swings by {each}" for each in (whole, allocated) if each.share > FLAT)]
    answered = sum(tally.outcomes[kind] for kind in ("whole", "stream", "slow"))
    rows = [
        ("answers, each as expected", f"{answered}", f"{answered / options.seconds:.0f}/s"),
        ("of these to slow readers", f"{tally.outcomes['slow']}", ""),
        ("clients that went away", f"{tally.outcomes['leaving']}", ""),
        ("refused with 429", f"{tally.outcomes['429']}", ""),
        ("lost, mixed up or wrong", f"{len(wrong)}", ""),
        ("piece: engine to socket, p50", *_percentile(before, after, "edgephi_piece_delivery_seconds", 0.5)),
        ("piece: engine to socket, p99", *_percentile(before, after, "edgephi_piece_delivery_seconds", 0.99)),
        (
            "request without queue and engine, p50",
            *_percentile(before, after, "edgephi_request_overhead_seconds", 0.5),
        ),
        (
            "request without queue and engine, p99",
            *_percentile(before, after, "edgephi_request_overhead_seconds", 0.99),
        ),
        ("memory under load", f"{whole.middle / 1e6:.1f} MB", str(whole)),
        ("of that allocated", f"{allocated.middle / 1e6:.1f} MB", str(allocated)),
        ("memory at rest: server", f"{rest[0] / 1e6:.1f} MB", ""),
        ("memory at rest: engine's process", f"{rest[1] / 1e6:.1f} MB", ""),
        ("memory of the engine's bare loop", f"{bare / 1e6:.1f} MB", f"{(sum(rest) - bare) / 1e6:+.1f} MB"),
    ]
    report((f"{options.clients} clients, {options.seconds:.0f} s", "", ""), rows)
    for problem in problems[:20]:
        print(problem)
    sys.exit(bool(problems))


@dataclass(frozen=True)
class _Memory:
    """What processes hold some `seconds` after the start, in bytes: all of it, and what is no file's."""

    seconds: float
    whole: int
    allocated: int

    @classmethod
    def of(cls, pids: Sequence[int], seconds: float) -> _Memory:
        return cls(seconds, sum(map(_pss, pids)), sum(map(_allocated, pids)))


@dataclass(frozen=True)
class _Swing:
    """The median of many values, and how far one of them was from it at most."""

    middle: int
    share: float

    @classmethod
    def of(cls, values: list[int]) -> _Swing:
        middle = sorted(values)[len(values) // 2]
        return cls(middle, max(max(values) / middle - 1, 1 - min(values) / middle))

    def __str__(self) -> str:
        return f"±{self.share:.1%}"


def _alone(server: Server, prompt: str, **members: object) -> str:
    """The answer to a prompt while nobody else asks."""
    return str(server.chat(prompt, **members).json()["choices"][0]["message"]["content"])


async def _load(
    server: Server, clients: int, seconds: float, expected: dict[str, str]
) -> tuple[Tally, list[_Memory]]:
    """Let the clients ask for some time. Returns what happened, and the memory at moments of it."""
    tally = Tally()
    start = time.monotonic()
    end = start + seconds
    pids = (server.process.pid, server.worker())
    memory = [_Memory.of(pids, 0.0)]

    async def watch() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(min(1.0, seconds / 30))
            memory.append(_Memory.of(pids, time.monotonic() - start))

    tasks = [_client(server.port, KINDS[i % len(KINDS)], i, end, expected, tally) for i in range(clients)]
    await asyncio.gather(watch(), *tasks)
    return tally, memory


async def _client(
    port: int, kind: str, number: int, end: float, expected: dict[str, str], tally: Tally
) -> None:
    """One client, asking until the end."""
    chance = random.Random(number)
    while time.monotonic() < end:
        prompt = chance.choice(PROMPTS)
        try:
            async with asyncio.timeout(60):
                wait = await _ask(port, kind, prompt, expected[prompt], chance, tally)
        except (OSError, TimeoutError, ValueError, LookupError) as cause:
            tally.problems.append(f"{kind}: {prompt}: {type(cause).__name__}: {cause}")
            wait = 1.0
        await asyncio.sleep(wait)


async def _ask(
    port: int, kind: str, prompt: str, expected: str, chance: random.Random, tally: Tally
) -> float:
    """One request on a connection of its own. Returns how many seconds to wait before the next."""
    stream = kind != "whole"
    body = json.dumps({"messages": [{"role": "user", "content": prompt}], "stream": stream}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + body)
        if kind == "leaving":
            await asyncio.sleep(chance.expovariate(1 / 0.05))
            tally.outcomes[kind] += 1
            return 0.0
        data = b""
        while part := await reader.read(SLOW_READ_BYTES if kind == "slow" else 1 << 16):
            data += part
            if kind == "slow":
                await asyncio.sleep(SLOW_READ_SECONDS)
    finally:
        writer.transport.abort() if kind == "leaving" else writer.close()
    status = int(data.split(b" ", 2)[1])
    headers, _, content = data.partition(b"\r\n\r\n")
    if status == 429:
        tally.outcomes["429"] += 1
        return float(re.search(rb"retry-after: (\d+)", headers)[1])  # type: ignore[index]
    if status != 200:
        raise ValueError(f"status {status}: {content[:200]!r}")
    answer = _streamed(content) if stream else json.loads(content)["choices"][0]["message"]["content"]
    if answer != expected:
        raise ValueError(f"expected {expected!r}, found {answer!r}")
    tally.outcomes[kind] += 1
    return 0.0


def _streamed(content: bytes) -> str:
    """The text of a stream, which must have come to its end."""
    text = b"".join(
        part for size, part in re.findall(rb"([0-9a-f]+)\r\n(.*?)\r\n(?=[0-9a-f]+\r\n)", content, re.DOTALL)
    )
    *events, done = re.findall(rb"^data: (.*)$", text, re.MULTILINE)
    if done != b"[DONE]":
        raise ValueError(f"a stream without an end: {content[-200:]!r}")
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
    return "".join(delta.get("content", "") for delta in deltas)


def _wrong_counts(tally: Tally, before: str, after: str) -> Sequence[str]:
    """What the server has counted other than we have."""

    def count(status: str) -> int:
        name = f'edgephi_requests_total{{route="/v1/chat/completions",status="{status}"}}'
        return int(_value(after, name) - _value(before, name))

    answered = sum(tally.outcomes[kind] for kind in ("whole", "stream", "slow"))
    found = {status: count(status) for status in ("200", "429", "499", "500", "503", "504")}
    problems = [
        f"the server counts {found[status]} of {status}" for status in ("500", "503", "504") if found[status]
    ]
    # Those who leave may do so after their answer, or before the server has read what they ask.
    if not answered <= found["200"] <= answered + tally.outcomes["leaving"]:
        problems.append(f"{answered} answers came, the server counts {found['200']}")
    if not tally.outcomes["429"] <= found["429"] <= tally.outcomes["429"] + tally.outcomes["leaving"]:
        problems.append(f"{tally.outcomes['429']} of 429 came, the server counts {found['429']}")
    return problems


def _value(metrics: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", metrics, re.MULTILINE)
    return float(found[1]) if found else 0.0


def _percentile(before: str, after: str, name: str, share: float) -> tuple[str, str]:
    """The bound of the histogram's bucket that the percentile lies in, and how many were observed."""
    bounds = re.findall(rf'^{name}_bucket{{le="([^"]+)"}}', after, re.MULTILINE)
    counts = {
        bound: _value(after, f'{name}_bucket{{le="{bound}"}}')
        - _value(before, f'{name}_bucket{{le="{bound}"}}')
        for bound in bounds
    }
    total = counts["+Inf"]
    bound = next(bound for bound in bounds if counts[bound] >= share * total)
    return f"≤ {float(bound) * 1e3:g} ms", f"of {total:.0f}"


def _pss(pid: int) -> int:
    """Proportional set size of a process in bytes: what it shares is divided among those who share it."""
    return _rollup(pid, "Pss")


def _allocated(pid: int) -> int:
    """The part of it that is not pages of files, in bytes."""
    return _rollup(pid, "Pss_Anon")


def _rollup(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(rf"^{name}: +(\d+)", text, re.MULTILINE)[1]) << 10  # type: ignore[index]


def at_rest_bytes(bundle: Path, folder: Path) -> tuple[int, int]:
    """Memory of the server and of the engine's process after one answer, with one cache."""
    manifest = read_manifest(bundle)
    one_cache = manifest.limits.context * manifest.requires.memory_per_token_bytes
    with serving(bundle, folder, "--cache-memory", one_cache) as server:
        _alone(server, PROMPTS[0], max_tokens=AT_REST_TOKENS)
        return _pss(server.process.pid), _pss(server.worker())


def bare_loop_bytes(bundle: Path) -> tuple[int, int]:
    """PSS and RSS of a process that does nothing but generate, with a cache for the whole context."""
    context = read_manifest(bundle).limits.context
    command = [sys.executable, "-c", BARE_LOOP, str(bundle / "model"), str(context), str(AT_REST_TOKENS)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pss, rss = (int(kilobytes) << 10 for kilobytes in printed.split())
    return pss, rss


if __name__ == "__main__":
    main()
