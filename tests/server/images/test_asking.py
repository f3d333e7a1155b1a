"""A model that is asked about images over HTTP, by the clients that applications have."""

from __future__ import annotations

import base64
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

import edgephi.runtime
from edgephi.bundle.image_tokens import grid_of, token_count
from edgephi.bundle.manifest import read_manifest
from edgephi.runtime.session import Options, Session
from tests.runtime.images.drawn import drawn, saved
from tests.server.conftest import CONTEXT
from tests.server.serving import PATIENCE, Server, serving

WIDE, TALL = saved(drawn(200, 60), "PNG"), saved(drawn(40, 150), "JPEG")
SIZES = {WIDE: (200, 60), TALL: (40, 150)}
ASKED = "what is it?"
MODEL = "tiny-vision-cpu"
LENGTH = 24


@pytest.fixture(scope="module")
def session(vision_bundle: Path) -> Session:
    """The model without any server."""
    return edgephi.runtime.load(vision_bundle, context=CONTEXT)


@pytest.fixture
def client(seeing_server: Server) -> openai.OpenAI:
    return seeing_server.client()


def part(image: bytes, detail: str | None = None) -> dict[str, Any]:
    """An image as OpenAI's API has it."""
    url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    return {"type": "image_url", "image_url": {"url": url} | ({"detail": detail} if detail else {})}


def user(*images: bytes, text: str = ASKED, detail: str | None = None) -> Any:
    return {
        "role": "user",
        "content": [*(part(each, detail) for each in images), {"type": "text", "text": text}],
    }


def tokens_of(bundle: Path, *images: bytes, crops: int | None = None) -> int:
    """How many tokens some images are."""
    facts = read_manifest(bundle).model.images
    assert facts is not None
    return sum(token_count(grid_of(*SIZES[each], facts, crops), facts) for each in images)


def expected(session: Session, *images: bytes, **options: Any) -> str:
    """The answer without any server."""
    return session.generate(ASKED, Options(max_tokens=LENGTH, **options), images=images).text


class TestChat:
    @pytest.mark.parametrize("images", [(WIDE,), (TALL,), (WIDE, TALL), (TALL, WIDE, TALL)], ids=len)
    def test_the_answer_is_that_of_the_session(
        self, client: openai.OpenAI, session: Session, vision_bundle: Path, images: tuple[bytes, ...]
    ) -> None:
        answer = client.chat.completions.create(model=MODEL, messages=[user(*images)], max_tokens=LENGTH)
        assert answer.choices[0].message.content == expected(session, *images)
        assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
        of_images = tokens_of(vision_bundle, *images)
        assert answer.usage.prompt_tokens_details.model_dump()["image_tokens"] == of_images
        assert of_images < answer.usage.prompt_tokens < of_images + 60

    def test_in_a_stream(self, client: openai.OpenAI, session: Session) -> None:
        pieces = client.chat.completions.create(
            model=MODEL, messages=[user(WIDE)], max_tokens=LENGTH, stream=True
        )
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        assert text == expected(session, WIDE)

    def test_what_is_seen_changes_the_answer(self, client: openai.OpenAI) -> None:
        answers = {
            client.chat.completions.create(model=MODEL, messages=[user(image)], max_tokens=LENGTH)
            .choices[0]
            .message.content
            for image in (WIDE, TALL, saved(drawn(200, 60, seed=5), "PNG"))
        }
        assert len(answers) == 3

    def test_a_second_question_goes_on_from_what_was_seen(self, client: openai.OpenAI) -> None:
        messages = [user(WIDE, TALL)]
        first = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=LENGTH)
        messages += [
            {"role": "assistant", "content": first.choices[0].message.content},
            {"role": "user", "content": "and now?"},
        ]
        second = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=LENGTH)
        assert second.usage is not None and second.usage.prompt_tokens_details is not None
        assert (second.usage.prompt_tokens_details.cached_tokens or 0) >= 32  # as it is told

    def test_low_detail_is_one_tile(
        self, client: openai.OpenAI, session: Session, vision_bundle: Path
    ) -> None:
        for detail, crops in (("low", 1), ("high", None), ("auto", None)):
            answer = client.chat.completions.create(
                model=MODEL, messages=[user(WIDE, detail=detail)], max_tokens=LENGTH
            )
            assert answer.choices[0].message.content == expected(session, WIDE, crops=crops)
            assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
            found = answer.usage.prompt_tokens_details.model_dump()["image_tokens"]
            assert found == tokens_of(vision_bundle, WIDE, crops=crops)

    def test_a_mark_that_a_user_writes_is_no_image(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "<|image_1|>\nwhat?"}], max_tokens=1
        )
        assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.model_dump()["image_tokens"] == 0

    def test_images_past_the_context(self, client: openai.OpenAI) -> None:
        for count in (30, 200):
            with pytest.raises(openai.BadRequestError) as caught:
                client.chat.completions.create(model=MODEL, messages=[user(*[WIDE] * count)])
            assert caught.value.code == "context_length_exceeded"
            assert f"the context is {CONTEXT} tokens" in caught.value.message

    @pytest.mark.parametrize("role", ["system", "assistant", "tool"])
    def test_images_are_the_users(self, client: openai.OpenAI, role: str) -> None:
        message: Any = {"role": role, "content": [part(WIDE)]}
        with pytest.raises(openai.BadRequestError, match=f"in a message of the {role}"):
            client.chat.completions.create(model=MODEL, messages=[message, user()])


class TestResponses:
    def test_images_are_kept_with_a_response(
        self, client: openai.OpenAI, session: Session, vision_bundle: Path
    ) -> None:
        url = part(WIDE)["image_url"]["url"]
        content = [
            {"type": "input_image", "image_url": url, "detail": "auto"},
            {"type": "input_text", "text": ASKED},
        ]
        asked: Any = [{"role": "user", "content": content}]
        first = client.responses.create(model=MODEL, input=asked, max_output_tokens=LENGTH)
        assert first.output_text == expected(session, WIDE)
        second = client.responses.create(
            model=MODEL, input="and now?", previous_response_id=first.id, max_output_tokens=LENGTH
        )
        told: list[dict[str, Any]] = [
            {"role": "user", "content": [{"type": "image", "image": WIDE}, {"type": "text", "text": ASKED}]},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "and now?"},
        ]
        answer = session.answer(told, Options(max_tokens=LENGTH))
        assert second.output_text == "".join(answer)
        assert second.usage is not None
        of_images = second.usage.input_tokens_details.model_dump()["image_tokens"]
        assert second.usage.input_tokens > of_images == tokens_of(vision_bundle, WIDE)

    def test_a_files_id(self, client: openai.OpenAI) -> None:
        asked: Any = [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}]
        with pytest.raises(openai.BadRequestError, match="none are kept here") as caught:
            client.responses.create(model=MODEL, input=asked)
        assert caught.value.param == "input[0].content[0].image_url"


class TestOllama:
    def ask(self, server: Server, path: str, **members: Any) -> httpx2.Response:
        body = {"model": MODEL, "stream": False, "options": {"num_predict": LENGTH}, **members}
        return httpx2.post(f"{server.url}/api/{path}", json=body, timeout=PATIENCE)

    def test_both_ways(self, seeing_server: Server, session: Session, vision_bundle: Path) -> None:
        images = [base64.b64encode(each).decode() for each in (WIDE, TALL)]
        message = {"role": "user", "content": ASKED, "images": images}
        chat = self.ask(seeing_server, "chat", messages=[message]).json()
        generated = self.ask(seeing_server, "generate", prompt=ASKED, images=images).json()
        assert chat["message"]["content"] == generated["response"] == expected(session, WIDE, TALL)
        assert chat["prompt_eval_count"] > tokens_of(vision_bundle, WIDE, TALL)

    def test_it_is_told_that_the_model_sees(self, seeing_server: Server) -> None:
        shown = httpx2.post(f"{seeing_server.url}/api/show", json={"model": MODEL}).json()
        assert "vision" in shown["capabilities"]
        assert "clip" in shown["details"]["families"]

    @pytest.mark.parametrize(
        ("path", "members"),
        [
            ("generate", {"prompt": "x", "images": ["!"]}),
            ("generate", {"prompt": "x", "images": [""]}),
            ("generate", {"prompt": "x", "images": ["AAAA"]}),
            ("generate", {"prompt": "x", "images": [5]}),
            ("generate", {"prompt": "x", "images": [base64.b64encode(WIDE).decode()], "raw": True}),
            ("chat", {"messages": [{"role": "system", "content": "x", "images": ["AAAA"]}]}),
            ("chat", {"messages": [{"role": "user", "content": "x", "images": ["/etc/passwd"]}]}),
        ],
        ids=str,
    )
    def test_what_is_refused(self, seeing_server: Server, path: str, members: dict[str, Any]) -> None:
        answer = self.ask(seeing_server, path, **members)
        assert answer.status_code == 400
        assert isinstance(answer.json()["error"], str)


class TestTold:
    def test_which_models_see(self, client: openai.OpenAI, server: Server) -> None:
        (seeing,), (reading,) = client.models.list().data, server.client().models.list().data
        modalities = [each.model_dump()["architecture"]["input_modalities"] for each in (seeing, reading)]
        assert modalities == [["text", "image"], ["text"]]
        images = seeing.model_dump()["edgephi"]["images"]
        assert (images["tile"], images["patch"], images["crops"]) == (56, 14, 4)
        assert reading.model_dump()["edgephi"]["images"] is None


class TestFetched:
    @pytest.fixture(scope="class")
    def address(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        """A file server on this machine."""
        folder = tmp_path_factory.mktemp("site")
        (folder / "wide.png").write_bytes(WIDE)
        handler = functools.partial(_Files, directory=str(folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_address[1]}/wide.png"
            server.shutdown()

    def asked(self, server: Server, url: str) -> httpx2.Response:
        message = {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": ASKED}],
        }
        body = {"messages": [message], "max_tokens": LENGTH}
        return httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=PATIENCE)

    def test_only_where_an_option_allows_it(
        self, seeing_server: Server, vision_bundle: Path, session: Session, tmp_path: Path, address: str
    ) -> None:
        refused = self.asked(seeing_server, address)
        assert refused.status_code == 400
        assert "--image-urls public" in refused.json()["error"]["message"]
        for allowed in ("public", "all"):
            with serving(vision_bundle, tmp_path, "--context", CONTEXT, "--image-urls", allowed) as server:
                answer = self.asked(server, address)
                if allowed == "all":
                    assert answer.json()["choices"][0]["message"]["content"] == expected(session, WIDE)
                    missing = self.asked(server, f"{address}x").json()["error"]
                    assert (missing["code"], missing["param"]) == (
                        "image_not_fetched",
                        "messages[0].content[0].image_url.url",
                    )
                else:
                    assert answer.json()["error"]["code"] == "address_not_allowed"


class _Files(http.server.SimpleHTTPRequestHandler):
    """A folder's files; the log is nobody's."""

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""
