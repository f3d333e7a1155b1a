"""What `edgephi.runtime` adds to a bare loop of onnxruntime-genai: import time, cold start, memory.

The bare loop is what the engine's documentation shows, for the same prompt and as many tokens. Every run is a
process of its own, and runs alternate. A cold start is timed from outside: from the start of the process to
its first token.

The server is two processes. Their proportional set sizes count what they share once, beside the resident size
of the bare loop; both have one cache for the whole context. Where other programs use the same libraries
meanwhile, the server looks smaller than it is: measure alone.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.load import at_rest_bytes, bare_loop_bytes
from tests.bench.measure import report

PROMPT = "Tell me all that you know about this device and what it can do."

_RESIDENT = """
import pathlib
print(next(line.split()[1] for line in pathlib.Path("/proc/self/status").read_text().splitlines()
           if line.startswith("VmRSS")))
"""
OURS = """
import sys
import edgephi.runtime
from edgephi.runtime.session import Options
session = edgephi.runtime.load(sys.argv[1])
for _ in session.stream(sys.argv[2], Options(max_tokens=int(sys.argv[3]))):
    print("token", flush=True)
"""
BARE = """
import json, pathlib, sys
import onnxruntime_genai as engine
bundle = pathlib.Path(sys.argv[1])
model = engine.Model(str(bundle / "model"))
tokenizer = engine.Tokenizer(model)
template = json.loads((bundle / "bundle.json").read_text())["chat"]["template"]
messages = json.dumps([{"role": "user", "content": sys.argv[2]}])
prompt = tokenizer.encode(tokenizer.apply_chat_template(
    messages=messages, template_str=template, add_generation_prompt=True))
parameters = engine.GeneratorParams(model)
parameters.set_search_options(max_length=len(prompt) + int(sys.argv[3]), do_sample=False)
generator = engine.Generator(model, parameters)
generator.append_tokens(prompt)
stream = tokenizer.create_stream()
while not generator.is_done():
    generator.generate_next_token()
    stream.decode(generator.get_next_tokens()[0])
    print("token", flush=True)
"""


@dataclass(frozen=True)
class Run:
    """Seconds from the start of the process to its first token, and its resident bytes at the end."""

    first_token_seconds: float
    resident_bytes: int


def main() -> None:
    """Measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("bundle", type=Path, help="a bundle for the target cpu")
    arguments.add_argument("--tokens", type=int, default=16)
    arguments.add_argument("--runs", type=int, default=5)
    options = arguments.parse_args()
    imports = [(_seconds("import edgephi.runtime"), _seconds("pass")) for _ in range(max(11, options.runs))]
    ours, bare = [], []
    for _ in range(options.runs):
        ours.append(_run(OURS, options.bundle, options.tokens))
        bare.append(_run(BARE, options.bundle, options.tokens))
    first = [statistics.median(run.first_token_seconds for run in runs) for runs in (ours, bare)]
    resident = [statistics.median(run.resident_bytes for run in runs) for runs in (ours, bare)]
    imported = [statistics.median(column) for column in zip(*imports, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        server = sum(at_rest_bytes(options.bundle, Path(folder)))
    _, beside_server = bare_loop_bytes(options.bundle)
    rows = [
        (
            "import edgephi.runtime / bare Python",
            *(f"{each * 1e3:.0f} ms" for each in imported),
            f"+{(imported[0] - imported[1]) * 1e3:.0f} ms",
        ),
        ("cold start to first token", *(f"{each:.2f} s" for each in first), f"{first[0] / first[1]:.3f}"),
        (
            "resident memory",
            *(f"{each / 1e6:.0f} MB" for each in resident),
            f"{(resident[0] - resident[1]) / 1e6:+.0f} MB",
        ),
        (
            "resident memory of the server's two processes, whole context",
            *(f"{each / 1e6:.0f} MB" for each in (server, beside_server)),
            f"{(server - beside_server) / 1e6:+.1f} MB",
        ),
    ]
    report(("", "edgephi.runtime", "bare", "difference"), rows)


def _seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
    return time.perf_counter() - start


def _run(code: str, bundle: Path, tokens: int) -> Run:
    start = time.perf_counter()
    command = [sys.executable, "-P", "-c", code + _RESIDENT, str(bundle), PROMPT, str(tokens)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        first = time.perf_counter() - start
        *_, last = process.stdout
    if process.returncode or line.strip() != "token":
        raise SystemExit(f"the run ended with {process.returncode} after {line!r}")
    return Run(first, int(last) << 10)


if __name__ == "__main__":
    main()
