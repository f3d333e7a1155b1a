"""Prompts of megabytes and of special tokens: refused at once, and the engine goes on."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.build.demo import build_demo
from tests.server.serving import PATIENCE, Server, serving

LETTERS = 3_900_000  # what `--max-body` lets through
MOST_SECONDS = 15.0  # on a busy machine; OpenVINO took a minute for 70 kB of special tokens
MOST_BYTES = 200 << 20


def user(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 1}


PROMPTS: dict[str, dict[str, Any]] = {
    "one letter": user("a" * LETTERS),
    "digits": user("1234567890" * (LETTERS // 10)),
    "letters of three bytes": user("\u4e2d" * (LETTERS // 7)),
    "halves of special tokens": user("<|" * (LETTERS // 2 - 10)),
    "special tokens": user("<|end|>" * (LETTERS // 7 - 10)),
    "fewer special tokens": user("<|end|>" * 10_000),
    "special tokens and others": user("".join(f"<|end|>{i}" for i in range(4000))),
    "messages": {"messages": [{"role": "user", "content": ""}] * 100_000, "max_tokens": 1},
}


@pytest.fixture(scope="module", params=["cpu", "openvino"])
def serving_it(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("long")
    pytest.importorskip({"cpu": "onnxruntime_genai", "openvino": "openvino_genai"}[request.param])
    build_demo(request.param, folder / "bundle", verify="off")
    with serving(folder / "bundle", folder) as running:
        yield running


@pytest.mark.parametrize("name", PROMPTS)
def test_what_cannot_fit_is_refused_at_once(serving_it: Server, name: str) -> None:
    worker, before = serving_it.worker(), _peak_bytes(serving_it.worker())
    start = time.monotonic()
    url = serving_it.url + "/v1/chat/completions"
    response = httpx2.post(url, json=PROMPTS[name], timeout=PATIENCE)
    assert time.monotonic() - start < MOST_SECONDS
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert serving_it.worker() == worker
    assert _peak_bytes(worker) - before < MOST_BYTES


def test_a_message_of_special_tokens_that_fits_is_answered_soon(serving_it: Server) -> None:
    start = time.monotonic()
    response = serving_it.chat("<|end|>" * 500, max_tokens=1)
    assert response.status_code == 200
    assert time.monotonic() - start < MOST_SECONDS


def _peak_bytes(pid: int) -> int:
    (size,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(size) << 10
