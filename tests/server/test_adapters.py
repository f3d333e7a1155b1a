"""With each of a bundle's adapters the model is one of its own: asked for by name, and no other's answers."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import edgephi.runtime
from edgephi.runtime.options import Options
from tests.build.switched_adapters.demo_adapters import ASKED
from tests.cli.conftest import Edgephi, is_one_error
from tests.server.conftest import CONTEXT
from tests.server.serving import Server, serving

BASE, OPPOSITE, FAINT = "demo-cpu", "demo-cpu:opposite", "demo-cpu:faint"


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def whole(demo_bundle: Path, demo_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base and adapters in one folder, as a device has them."""
    folder = shutil.copytree(demo_bundle, tmp_path_factory.mktemp("whole") / "bundle")
    return Path(shutil.copytree(demo_artifact, folder, dirs_exist_ok=True))


@pytest.fixture(scope="module")
def adapted(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The whole behind a server that no adapter was named to."""
    with serving(whole, tmp_path_factory.mktemp("server"), "--context", CONTEXT) as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def expected(whole: Path) -> dict[str, str]:
    """The answers without any server."""
    session = edgephi.runtime.load(whole, context=CONTEXT)
    return {
        model: session.generate(ASKED, Options(adapter=model.partition(":")[2])).text
        for model in (BASE, OPPOSITE, FAINT)
    }


def test_are_listed_beside_the_base(adapted: Server) -> None:
    client = adapted.client()
    listed = client.models.list().data
    assert [model.id for model in listed] == [BASE, OPPOSITE, FAINT]
    for model in listed:
        assert client.models.retrieve(model.id) == model
        assert (model.model_extra or {})["edgephi"]["bundle"] == BASE
    assert client.models.retrieve("edgephi/demo:opposite") == listed[1]


def test_a_chat_is_answered_as_without_a_server(adapted: Server, expected: dict[str, str]) -> None:
    client = adapted.client()
    assert expected[OPPOSITE] == expected[BASE].replace("turn_off", "turn_on") != expected[BASE]
    for model in (OPPOSITE, BASE, FAINT, OPPOSITE):
        answer = client.chat.completions.create(model=model, messages=user(ASKED))
        assert answer.choices[0].message.content == expected[model]
        assert answer.model == model
        chunks = list(client.chat.completions.create(model=model, messages=user(ASKED), stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected[model]
        assert {chunk.model for chunk in chunks} == {model}


def test_a_completion_too(adapted: Server, whole: Path) -> None:
    session = edgephi.runtime.load(whole, context=CONTEXT)
    prompt = session.render(ASKED)
    said = {}
    for model in (BASE, OPPOSITE):
        answer = adapted.client().completions.create(model=model, prompt=prompt, max_tokens=24)
        said[model] = answer.choices[0].text
        assert answer.model == model
        options = Options(max_tokens=24, adapter=model.partition(":")[2])
        assert said[model] == "".join(session.complete(prompt, options))
    assert said[BASE] != said[OPPOSITE]


def test_nothing_read_with_one_is_reused_with_another(adapted: Server) -> None:
    client, long = adapted.client(), user("what is the temperature in the bath room? " * 8)

    def cached(model: str) -> int:
        usage = client.chat.completions.create(model=model, messages=long, max_tokens=1).usage
        assert usage is not None and usage.prompt_tokens_details is not None
        return usage.prompt_tokens_details.cached_tokens or 0

    models = (BASE, OPPOSITE, FAINT)
    assert all(cached(model) < 20 for model in models)  # of the system message's place alone
    assert all(cached(model) > 40 for model in models)


@pytest.mark.parametrize("name", ["demo-cpu:milk", "demo-cpu:", "opposite", "demo-cpu:opposite:faint", ":"])
def test_another_is_not_found_and_the_known_are_named(adapted: Server, name: str) -> None:
    known = "expected the model 'demo-cpu' or 'demo-cpu:opposite' or 'demo-cpu:faint', found "
    with pytest.raises(openai.NotFoundError, match=known):
        adapted.client().chat.completions.create(model=name, messages=user(ASKED))
    with pytest.raises(openai.NotFoundError, match=known):
        adapted.client().models.retrieve(name)


def test_serve_can_be_told_which_one_answers_without_a_name(
    demo_bundle: Path, demo_artifact: Path, tmp_path: Path, expected: dict[str, str]
) -> None:
    """And it takes an artifact that lies elsewhere, whose first one is meant."""
    options = ("--context", CONTEXT, "--adapter", demo_artifact)
    with serving(demo_bundle, tmp_path, *options) as server:
        answer = server.chat(ASKED)
        assert answer.json()["choices"][0]["message"]["content"] == expected[OPPOSITE]
        answer = server.chat(ASKED, model=FAINT)
        assert answer.json()["choices"][0]["message"]["content"] == expected[FAINT]
        assert [model["id"] for model in server.get("/v1/models").json()["data"]] == [BASE, OPPOSITE, FAINT]


def test_one_that_there_is_not_is_said_at_once(edgephi: Edgephi, whole: Path, tmp_path: Path) -> None:
    done = edgephi("serve", whole, "--port", 0, "--adapter", "milk")
    assert is_one_error(done, 4)
    assert "which has opposite, faint; found 'milk'" in done.stderr
    done = edgephi("serve", whole, "--port", 0, "--adapter", tmp_path)
    assert is_one_error(done, 4)
    assert "expected an artifact with adapters, found no bundle.json" in done.stderr


def test_a_bundle_without_any_is_one_model(server: Server) -> None:
    assert [model["id"] for model in server.get("/v1/models").json()["data"]] == [BASE]
    refused = server.chat(ASKED, model=OPPOSITE)
    assert refused.status_code == 404
    assert json.loads(refused.text)["error"]["message"].startswith("expected the model 'demo-cpu', found ")


def test_one_that_cannot_be_opened_ends_nothing_but_its_own_requests(whole: Path, tmp_path: Path) -> None:
    """Its file was damaged after the engine had looked at the bundle; conversations of others go on."""
    folder = Path(shutil.copytree(whole, tmp_path / "bundle"))
    with serving(folder, tmp_path, "--context", CONTEXT) as running:
        file = folder / "model/adapters/opposite.onnx_adapter"
        file.write_bytes(bytes(file.stat().st_size))
        client = running.client(max_retries=0)
        before = client.chat.completions.create(model=BASE, messages=user(ASKED)).choices[0].message
        for _ in range(2):
            with pytest.raises(openai.InternalServerError, match="expected an adapter for this model"):
                client.chat.completions.create(model=OPPOSITE, messages=user(ASKED))
        again = client.chat.completions.create(model=BASE, messages=user(ASKED))
        assert again.choices[0].message.content == before.content
        assert "started again" not in running.log
