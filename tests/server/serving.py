"""A real server in a process of its own, as a shell starts it, and what tests ask of it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai

SLOW = Path(__file__).parent / "slow"
"""A folder whose `sitecustomize` delays each piece of a prompt and each token: see `slowly`."""

PATIENCE = 60.0  # seconds until a test gives up waiting


@dataclasses.dataclass(frozen=True)
class Server:
    """A server, by default one that has said that it is ready."""

    process: subprocess.Popen[str]
    url: str
    log_file: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def log(self) -> str:
        """What it has written to standard error so far."""
        return self.log_file.read_text()

    def line_of(self, response: httpx2.Response) -> str:
        """The line of the log about a request; its response may be there sooner."""
        request = response.headers["x-request-id"]
        until(lambda: request in self.log, "a line in the log")
        (line,) = [line for line in self.log.splitlines() if request in line]
        return line

    def worker(self) -> int:
        """Process id of its engine."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (worker,) = [
            int(pid) for pid in children if b"edgephi.server.engine.worker" in command_line(int(pid))
        ]
        return worker

    def client(self, **options: Any) -> openai.OpenAI:
        """The client that applications use; it does not try again, so that tests see what happens."""
        return openai.OpenAI(
            **{
                "base_url": f"{self.url}/v1",
                "api_key": "none",
                "max_retries": 0,
                "timeout": PATIENCE,
                **options,
            }
        )

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=PATIENCE, **options)

    def chat(self, content: str = "turn on the kitchen light", **members: Any) -> httpx2.Response:
        """Post a chat of one message."""
        body = {"messages": [{"role": "user", "content": content}], **members}
        return httpx2.post(f"{self.url}/v1/chat/completions", json=body, timeout=PATIENCE)

    def metric(self, name: str) -> float:
        """The value of a series of /metrics, labels included in its name."""
        (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return float(value)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal it, and wait for its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE)


@contextlib.contextmanager
def serving(bundle: Path, folder: Path, *options: object, **variables: str) -> Iterator[Server]:
    """`edgephi serve` on a free port, ready, with its log in `folder`; `variables` are of its environment."""
    with starting(bundle, folder, *options, **variables) as server:
        assert server.process.stdout is not None
        line = server.process.stdout.readline()
        assert line, server.log
        yield dataclasses.replace(server, url=line.split()[0])


@contextlib.contextmanager
def starting(bundle: Path, folder: Path, *options: object, **variables: str) -> Iterator[Server]:
    """The same before it is ready; its `url` is not known yet."""
    log = folder / f"log-{time.monotonic_ns()}"
    main = "from edgephi.cli.main import main; main()"
    port = () if "--port" in options else ("--port", 0)
    command = [sys.executable, "-c", main, "serve", bundle, *port, *options]
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **variables},
        )
    try:
        yield Server(process, "", log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def slowly(seconds: float) -> dict[str, str]:
    """The environment of a server whose engine takes at least so long for each step."""
    folders = [str(SLOW), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(folders), "EDGEPHI_TEST_DELAY": str(seconds)}


def command_line(pid: int) -> bytes:
    """The words of a process, with zeros between them; nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until something is true."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {PATIENCE:.0f} s"
        time.sleep(0.02)
