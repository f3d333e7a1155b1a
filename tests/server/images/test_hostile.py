"""Whatever is sent as an image: it is refused in one line, and the server goes on as it was."""

from __future__ import annotations

import base64
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from edgephi.server.engine.process_facts import resident_bytes
from tests.runtime.images.drawn import drawn, saved
from tests.runtime.images.mutated_files import mutated, whole_files
from tests.server.images.test_asking import MODEL, part
from tests.server.serving import PATIENCE, Server, serving, until

WHOLE = saved(drawn(90, 60), "PNG")
COUNT = 160
MEGABYTES = 1 << 20


def bomb() -> bytes:
    """A PNG of some bytes that promises 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


HOSTILE = {
    "cut off": WHOLE[: len(WHOLE) // 2],
    "a bomb": bomb(),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>',
    "words": b"no image at all",
    "a program": b"\x7fELF" + bytes(1000),
    "TIFF": saved(drawn(20, 20), "TIFF"),
    "too narrow": saved(drawn(4000, 1), "PNG"),
    "zeros": bytes(5 * MEGABYTES),
}


def asked(server: Server, image: bytes, **members: Any) -> httpx2.Response:
    url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1, **members}
    return httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=PATIENCE)


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("stream", [False, True])
def test_it_is_refused_in_one_line(seeing_server: Server, kind: str, stream: bool) -> None:
    engine = seeing_server.worker()
    answer = asked(seeing_server, HOSTILE[kind], stream=stream)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert message.startswith("image 1: expected")
    assert "\n" not in message
    assert seeing_server.worker() == engine
    assert asked(seeing_server, WHOLE).status_code == 200


def test_broken_files_leave_the_engine_as_it_was(seeing_server: Server) -> None:
    asked(seeing_server, WHOLE)
    engine = seeing_server.worker()
    files = list(mutated(whole_files(), COUNT, seed=2))
    statuses = [asked(seeing_server, each).status_code for each in files[: COUNT // 4]]
    before = [resident_bytes(pid) for pid in (engine, seeing_server.process.pid)]
    statuses += [asked(seeing_server, each).status_code for each in files[COUNT // 4 :]]
    assert set(statuses) == {200, 400}
    assert statuses.count(400) > COUNT // 3
    assert seeing_server.worker() == engine
    after = [resident_bytes(pid) for pid in (engine, seeing_server.process.pid)]
    assert all(late - early < 32 * MEGABYTES for early, late in zip(before, after, strict=True))


def test_large_images_are_given_back(seeing_server: Server) -> None:
    noise = saved(drawn(2400, 2400), "PNG")
    assert len(noise) > 8 * MEGABYTES
    before = resident_bytes(seeing_server.process.pid)
    for _ in range(3):
        assert asked(seeing_server, noise).status_code == 200
    # It is given back behind the answer.
    until(
        lambda: resident_bytes(seeing_server.process.pid) - before < 8 * MEGABYTES, "a server without images"
    )


def test_who_finds_no_room_comes_back_and_is_answered(vision_bundle: Path, tmp_path: Path) -> None:
    image = saved(drawn(180, 180), "PNG")
    message: Any = {"role": "user", "content": [part(image), {"type": "text", "text": "what?"}]}
    options = ("--context", 512, "--max-images", 2 * len(image), "--max-body", "20KB")
    with serving(vision_bundle, tmp_path, *options) as server:
        statuses: list[int] = []
        with server.client(max_retries=20) as client, ThreadPoolExecutor(6) as pool:
            client._client.event_hooks["response"].append(lambda answer: statuses.append(answer.status_code))

            def ask(number: int) -> str | None:
                answer = client.chat.completions.create(
                    model=MODEL, messages=[message, {"role": "user", "content": str(number)}], max_tokens=8
                )
                return answer.choices[0].message.content

            assert all(pool.map(ask, range(6)))
        assert set(statuses) <= {200, 429}
        assert statuses.count(200) == 6
        until(lambda: server.get("/health").json()["waiting"] == 0, "an idle server")
        assert asked(server, image).status_code == 200


def test_a_request_has_a_bound_for_images_and_one_for_all_else(vision_bundle: Path, tmp_path: Path) -> None:
    options = ("--context", 512, "--max-images", "1MB", "--max-body", "100KB")
    with serving(vision_bundle, tmp_path, *options) as server:
        assert asked(server, saved(drawn(300, 300), "PNG")).status_code == 200
        large = asked(server, bytes(MEGABYTES))
        assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
        words = asked(server, WHOLE, user="x " * 100_000)
        assert words.status_code == 413
        assert "beside its images" in words.json()["error"]["message"]
        assert asked(server, WHOLE).status_code == 200
        assert server.get("/health").json()["restarts"] == 0
