"""An adapter of the hub, through the hub's real client."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgephi.checkpoint.adapter.locate_adapter import asked_for
from edgephi.checkpoint.adapter.merged import StrengthenedAdapter
from edgephi.checkpoint.located import Located
from tests.chat.shapes import CHATML
from tests.checkpoint.adapter.peft_adapter import save_adapter
from tests.checkpoint.hub.server import HubServer, serve_hub
from tests.tiny_checkpoint import write_tiny_checkpoint

REPO = "someone/my-adapter"
PROGRAM = """
import dataclasses, json, sys
from edgephi.checkpoint.adapter.locate_adapter import locate_adapters
from edgephi.errors import EdgephiError
try:
    (found,) = locate_adapters(sys.argv[1:])
except EdgephiError as error:
    sys.exit(error.message)
located = {**dataclasses.asdict(found.located), "folder": str(found.located.folder)}
print(json.dumps({"scale": found.scale, **located}))
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    base = write_tiny_checkpoint(folder / "base", hidden=64, ffn=96)
    adapter = save_adapter(base, folder / "adapter")
    shutil.copy(base / "tokenizer.json", adapter)
    (adapter / "chat_template.jinja").write_text(CHATML)
    (adapter / "optimizer.pt").write_bytes(b"never loaded")
    return adapter


def locate(
    asked: str, cache: Path, endpoint: str, *, more: str | None = None, **environment: str
) -> tuple[str, dict[str, Any]]:
    """The message of an error, and what was located."""
    hub = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, asked, *([more] if more else [])],
        env={**kept, **hub},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stderr.strip(), json.loads(done.stdout or "{}")


@pytest.fixture
def hub(published: Path) -> Any:
    with serve_hub(REPO, published) as server:
        yield server


def test_gets_what_a_build_needs_and_has_it_without_a_network(
    hub: HubServer, published: Path, tmp_path: Path
) -> None:
    problem, found = locate(f"{REPO}@0.25", tmp_path, hub.url)
    assert problem == ""
    assert (found["id"], found["revision"], found["scale"]) == (REPO, hub.commit, 0.25)
    names = {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert {file.name for file in Path(found["folder"]).iterdir()} == names
    expected = hashlib.sha256((published / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert found["expected_sha256"] == {"adapter_model.safetensors": expected}
    hub.requests.clear()
    assert locate(f"{REPO}@0.25", tmp_path, hub.url, HF_HUB_OFFLINE="1") == ("", found)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("words", "revision", "scale"),
    [(":v1.0", "v1.0", 1), (":v1.0@0.25", "v1.0", 0.25), (":v2@3@0.5", "v2@3", 0.5), (":{commit}", None, 1)],
)
def test_a_revision_is_resolved_to_its_commit(
    hub: HubServer, tmp_path: Path, words: str, revision: str | None, scale: float
) -> None:
    hub.names = ("main", "v1.0", "v2@3")
    asked = REPO + words.format(commit=hub.commit)
    problem, found = locate(asked, tmp_path, hub.url)
    assert problem == ""
    assert (found["id"], found["revision"], found["scale"]) == (REPO, hub.commit, scale)
    assert f"/api/models/{REPO}/revision/{revision or hub.commit}" in [each.path for each in hub.requests]
    assert locate(asked, tmp_path, hub.url, HF_HUB_OFFLINE="1") == ("", found)


def test_a_commit_in_the_cache_needs_no_hub(hub: HubServer, tmp_path: Path) -> None:
    pinned = f"{REPO}:{hub.commit}"
    before = locate(pinned, tmp_path, hub.url)
    assert locate(pinned, tmp_path, "http://127.0.0.1:9") == before
    problem, _ = locate(REPO, tmp_path, "http://127.0.0.1:9")
    assert problem.startswith(f"{REPO}: expected the hub, found ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (":none", f"{REPO}: expected revision 'none', found no such revision on the hub"),
        (":", f"--adapter: expected a revision after the colon of {REPO}:, found none"),
        (":v1@strong", "--adapter: expected a factor such as 0.5 after the @, found 'strong'"),
    ],
)
def test_a_revision_that_is_none(hub: HubServer, tmp_path: Path, words: str, expected: str) -> None:
    assert locate(f"{REPO}{words}", tmp_path, hub.url)[0] == expected


def test_two_revisions_of_one_adapter(hub: HubServer, tmp_path: Path) -> None:
    problem, _ = locate(REPO, tmp_path, hub.url, more=f"{REPO}:{hub.commit}@2")
    assert problem == f"--adapter: expected each adapter once, found {REPO}:{hub.commit} twice"


def test_a_checkpoint_is_no_adapter(tmp_path: Path) -> None:
    base = write_tiny_checkpoint(tmp_path / "base", hidden=64, ffn=96)
    with serve_hub(REPO, base) as hub:
        problem, _ = locate(REPO, tmp_path / "cache", hub.url)
    assert problem == f"{REPO}: expected adapter_config.json, found none in the repository"


def test_one_that_cannot_be_merged_costs_no_download(hub: HubServer, published: Path, tmp_path: Path) -> None:
    file = published / "adapter_config.json"
    before = file.read_text()
    file.write_text(json.dumps({**json.loads(before), "peft_type": "LOHA"}))
    try:
        problem, _ = locate(REPO, tmp_path, hub.url)
    finally:
        file.write_text(before)
    assert "peft_type: expected what edgephi can merge, found 'LOHA'" in problem
    assert hub.weight_requests() == []


@pytest.mark.parametrize(
    ("revision", "scale", "expected"),
    [
        ("0123", 1.0, "me/it:0123"),
        ("0123", 0.5, "me/it:0123@0.5"),
        ("local", -2.0, "me/it@-2"),
        ("local", 0.12345678, "me/it@0.12345678"),
    ],
)
def test_what_asks_for_it_again(revision: str, scale: float, expected: str) -> None:
    located = Located("me/it", revision, Path("somewhere"))
    assert asked_for(StrengthenedAdapter(located, scale)) == expected
