"""OpenAI's own client for JavaScript, in a page of another origin, as applications in a browser use it."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome

from tests.server.page.conftest import ANSWER, QUESTION
from tests.server.serving import Server, serving, until

# What a bundler would resolve: the one name in the package that is no path.
PAGE = """<!doctype html>
<title>an application</title>
<link rel="icon" href="data:,">
<script type="importmap">
{"imports": {"openai": "/node_modules/openai/index.mjs",
             "#x509-transport-state": "/node_modules/openai/internal/auth/x509-transport-state.mjs"}}
</script>
<script type="module">
import OpenAI from "openai";
window.connect = (baseURL, apiKey) =>
  new OpenAI({ baseURL, apiKey, dangerouslyAllowBrowser: true, maxRetries: 0 });
</script>
"""
KEY = "a-key-for-the-page"
MESSAGES = [{"role": "user", "content": QUESTION}]


class _Files(http.server.SimpleHTTPRequestHandler):
    """A folder's files; the log is nobody's."""

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@pytest.fixture(scope="module")
def site(node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The origin of the application's page."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text(PAGE)
    (folder / "node_modules").symlink_to(node_modules)
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Files, directory=str(folder))
    ) as files:
        threading.Thread(target=files.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{files.server_port}"
        files.shutdown()


@pytest.fixture(scope="module")
def api(demo_bundle: Path, site: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that lets pages of that origin in, with a key."""
    folder = tmp_path_factory.mktemp("api")
    with serving(demo_bundle, folder, "--allow-origin", site, EDGEPHI_API_KEY=KEY) as running:
        yield running


@dataclass(frozen=True)
class Application:
    """The page with the client."""

    driver: Chrome
    url: str

    def run(self, body: str, *arguments: object, key: str = KEY, url: str = "") -> Any:
        """What `body` returns, in which `client` is the client; {"error": …} for what it throws."""
        script = (
            "const done = arguments[arguments.length - 1], [url, key, ...given] = arguments;"
            "const client = connect(url, key);"
            f"(async () => {{ {body} }})().then(done, (error) =>"
            " done({ error: error.constructor.name, status: error.status ?? null, message: error.message }));"
        )
        return self.driver.execute_async_script(script, url or f"{self.url}/v1", key, *arguments)


@pytest.fixture
def application(driver: Chrome, site: str, api: Server) -> Application:
    """The page, loaded."""
    driver.get(f"{site}/")
    until(lambda: driver.execute_script("return 'connect' in window"), "the client")
    return Application(driver, api.url)


def test_models_are_listed(application: Application) -> None:
    body = "const ids = []; for await (const each of client.models.list()) ids.push(each.id); return ids"
    assert "demo-cpu" in application.run(body)
    assert application.run("return (await client.models.retrieve(given[0])).id", "demo-cpu") == "demo-cpu"


def test_a_chat_is_answered(application: Application) -> None:
    body = "return await client.chat.completions.create({ model: 'demo-cpu', messages: given[0] })"
    completion = application.run(body, MESSAGES)
    assert completion["choices"][0]["message"]["content"] == ANSWER
    assert completion["choices"][0]["finish_reason"] == "stop"
    assert completion["usage"]["completion_tokens"] > 5


def test_a_chat_is_streamed(application: Application) -> None:
    body = (
        "const stream = await client.chat.completions.create({ model: 'demo-cpu', messages: given[0],"
        " stream: true, stream_options: { include_usage: true } });"
        "const pieces = []; let usage = null;"
        "for await (const chunk of stream) {"
        " pieces.push(chunk.choices[0]?.delta?.content ?? ''); usage = chunk.usage ?? usage; }"
        "return { pieces, usage }"
    )
    streamed = application.run(body, MESSAGES)
    assert "".join(streamed["pieces"]) == ANSWER
    assert len([piece for piece in streamed["pieces"] if piece]) > 5
    assert streamed["usage"]["total_tokens"] > 10


def test_the_streaming_helper_and_messages_replayed_with_their_null_members(application: Application) -> None:
    body = (
        "const stream = client.chat.completions.stream({ model: 'demo-cpu', messages: given[0] });"
        "const first = (await stream.finalChatCompletion()).choices[0].message;"
        "const messages = [...given[0], { ...first, audio: null, function_call: null }, ...given[0]];"
        "const second = await client.chat.completions.create({ model: 'demo-cpu', messages });"
        "return [first.content, second.choices[0].message.role]"
    )
    assert application.run(body, MESSAGES) == [ANSWER, "assistant"]


def test_a_stream_that_is_given_up_frees_the_server(application: Application, api: Server) -> None:
    body = (
        "const stream = await client.chat.completions.create({ model: 'demo-cpu', messages: given[0],"
        " stream: true });"
        "for await (const chunk of stream) { stream.controller.abort(); break; } return true"
    )
    assert application.run(body, MESSAGES) is True
    assert application.run("return (await client.models.list()).data.length > 0") is True


def test_errors_are_those_of_the_client(application: Application) -> None:
    body = "return await client.chat.completions.create({ model: given[0], messages: given[1] })"
    wrong_key = application.run(body, "demo-cpu", MESSAGES, key="another")
    no_model = application.run(body, "none", MESSAGES)
    assert (wrong_key["status"], no_model["status"]) == (401, 404)
    assert "none" in no_model["message"]


def test_a_page_of_another_origin_is_kept_out(application: Application, locked_server: Server) -> None:
    """That server was told of no origin: the browser does not even send the question."""
    url = f"{locked_server.url}/v1"
    refused = application.run("return (await client.models.list()).data", url=url)
    assert refused["status"] is None
    assert "Connection" in refused["message"]


def test_the_browser_complains_of_nothing_that_is_allowed(application: Application) -> None:
    application.driver.get_log("browser")  # type: ignore[no-untyped-call]
    application.run("return (await client.models.list()).data", MESSAGES)
    assert json.dumps(application.driver.get_log("browser")) == "[]"  # type: ignore[no-untyped-call]
