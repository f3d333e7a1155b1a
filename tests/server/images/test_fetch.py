"""Images that are fetched: from a real server on this machine, in good and in hostile ways."""

from __future__ import annotations

import asyncio
import http.server
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from edgephi.server.images import asked
from edgephi.server.images.asked import AskedImages, Sight
from edgephi.server.images.fetch import Fetcher
from edgephi.server.images.room import ImageRoom
from edgephi.server.refusal import Refusal
from tests.server.images.facts import FACTS

IMAGE = bytes(range(256)) * 100
MOST = 50_000


class Host(http.server.BaseHTTPRequestHandler):
    """Answers by the path of a request."""

    seen: list[str] = []  # noqa: RUF012 - of the one server

    def do_GET(self) -> None:
        self.seen.append(self.path)
        kind, _, rest = urlsplit(self.path).path[1:].partition("/")
        if kind == "image":
            self._say(200, IMAGE, ("Content-Length", str(len(IMAGE))))
        elif kind == "unannounced":
            self._say(200, IMAGE)
        elif kind == "large":
            self._say(200, b"x", ("Content-Length", str(MOST + 1)))
        elif kind == "endless":
            self._say(200, b"x" * (MOST + 1))
        elif kind == "missing":
            self._say(404, b"")
        elif kind == "gzip":
            self._say(200, b"x", ("Content-Encoding", "gzip"))
        elif kind == "to":
            self._say(302, b"", ("Location", f"/{rest}"))
        elif kind == "round":
            self._say(302, b"", ("Location", "/round"))
        elif kind == "file":
            self._say(302, b"", ("Location", "file:///etc/passwd"))
        elif kind == "slow":
            time.sleep(1.5)
            self._say(200, IMAGE)
        elif kind == "cut":
            self._say(200, b"x", ("Content-Length", "1000"))
        elif kind == "nothing":
            self.wfile.write(b"220 smtp.example ready\r\n")

    def _say(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def fetched(*urls: str, private: bool = True) -> tuple[bytes, ...]:
    """What a server has of a request with these URLs."""

    async def fetch() -> tuple[bytes, ...]:
        with ImageRoom(2 * MOST, MOST).place() as place:
            images = AskedImages(Sight(FACTS, 4096, Fetcher(private=private)), place)
            for number, url in enumerate(urls):
                images.at_url(url, f"url[{number}]")
            return await images.all_fetched()

    return asyncio.run(fetch())


@pytest.mark.parametrize("path", ["image", "unannounced", "to/image", "to/to/to/image", "image?a=b#c"])
def test_the_bytes_that_are_there(host: str, path: str) -> None:
    assert fetched(f"{host}/{path}") == (IMAGE,)


def test_what_is_asked_is_the_path_and_nothing_of_us(host: str) -> None:
    fetched(f"{host}/image?a=b#c")
    assert Host.seen[-1] == "/image?a=b"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing", "answers 404"),
        ("gzip", "encoded"),
        ("round", "more than 3 times"),
        ("to/to/to/to/image", "more than 3 times"),
        ("file", "address of http or https, found 'file:"),
        ("cut", "no HTTP"),
        ("nothing", "no HTTP"),
    ],
)
def test_what_has_no_image(host: str, path: str, said: str) -> None:
    with pytest.raises(Refusal, match=said) as caught:
        fetched(f"{host}/{path}")
    assert (caught.value.status, caught.value.error.error.code) == (400, "image_not_fetched")
    assert caught.value.error.error.param == "url[0]"


@pytest.mark.parametrize("path", ["large", "endless", "to/large"])
def test_what_is_too_large(host: str, path: str) -> None:
    with pytest.raises(Refusal, match=f"at most {MOST} bytes") as caught:
        fetched(f"{host}/{path}")
    assert caught.value.status == 413


def test_the_bound_is_for_all_images_of_a_request(host: str) -> None:
    assert fetched(f"{host}/image") == (IMAGE,)
    with pytest.raises(Refusal, match=f"at most {MOST} bytes"):
        fetched(f"{host}/image", f"{host}/image")


def test_what_does_not_come_in_time(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(Refusal, match="were not there within"):
        fetched(f"{host}/slow")
    assert time.monotonic() - start < 1.2


def test_this_machine_is_not_asked_unless_that_is_allowed(host: str) -> None:
    before = len(Host.seen)
    for url in (f"{host}/image", f"{host}/image".replace("127.0.0.1", "localhost")):
        with pytest.raises(Refusal, match="no host of the public internet") as caught:
            fetched(url, private=False)
        assert caught.value.error.error.code == "address_not_allowed"
    assert len(Host.seen) == before


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///image",
        "http://user:password@127.0.0.1/image",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/a\r\nHost: other",
        "http://bücher.example/",
        "http://[::1/",
        "http://127.0.0.1/" + "a" * 5000,
    ],
    ids=lambda url: repr(url)[:30],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(Refusal, match="expected") as caught:
        fetched(url)
    assert caught.value.status == 400


def test_nobody_answers() -> None:
    with pytest.raises(Refusal, match="cannot fetch the image: its host"):
        fetched("http://127.0.0.1:9/image")
