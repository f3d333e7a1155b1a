"""Where a checkpoint comes from: the demo, a folder, or the hub, through the hub's real client."""

import dataclasses
import errno
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from edgephi.checkpoint.hub.pull import pull
from edgephi.checkpoint.rank_file.phi_3_small import RANK_FILE
from edgephi.errors import DoesNotFitError, EdgephiError
from tests.checkpoint.hub.server import HubServer, serve_hub
from tests.checkpoint.rank_file.rank_files import whole_tokens, write_checkpoint_with_ranks
from tests.tiny_checkpoint import write_tiny_checkpoint

REPO = "someone/tiny-phi"
FIRST = "model-00001-of-00002.safetensors"

# Each pull is a process of its own, as a command is, because the client reads its environment on import.
# Everything but the client is loaded once, in the server that these processes are forked from.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["httpx2", "httpcore2", "tqdm.contrib.concurrent", "yaml", "filelock", __name__]
)


def pull_in_this_process(
    answer: Connection, environment: dict[str, str], repo: str, revision: str | None, offline: bool
) -> None:
    for name in [name for name in os.environ if name.startswith("HF_")]:
        del os.environ[name]
    os.environ.update(environment)
    time.sleep = lambda _: None  # no pauses between attempts
    try:
        located = pull(repo, revision, offline=offline)
        answer.send({**dataclasses.asdict(located), "folder": str(located.folder)})
    except EdgephiError as error:
        answer.send({"message": error.message, "hint": error.hint})
        sys.exit(error.exit_code)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("published"), "mini-4k", shards=2)
    (folder / "pytorch_model.bin").write_bytes(b"never loaded")
    (folder / "modeling_phi3.py").write_text("raise SystemExit('never run')")
    return folder


@pytest.fixture
def hub(published: Path) -> Iterator[HubServer]:
    with serve_hub(REPO, published) as server:
        yield server


@pytest.fixture
def machine(tmp_path: Path, hub: HubServer) -> "Machine":
    return Machine(tmp_path / "cache", hub.url)


class Machine:
    """A machine with an empty cache."""

    def __init__(self, cache: Path, endpoint: str) -> None:
        self.cache = cache
        self.environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}

    def start(
        self, repo: str = REPO, revision: str | None = None, *, offline: bool = False, **environment: str
    ) -> tuple[BaseProcess, Connection]:
        receiver, sender = processes.Pipe(duplex=False)
        process = processes.Process(
            target=pull_in_this_process,
            args=(sender, {**self.environment, **environment}, repo, revision, offline),
        )
        process.start()
        sender.close()
        return process, receiver

    def pull(
        self, repo: str = REPO, revision: str | None = None, *, offline: bool = False, **environment: str
    ) -> tuple[int | None, dict[str, Any]]:
        """The exit code, and what was located or why not."""
        process, receiver = self.start(repo, revision, offline=offline, **environment)
        answer = receiver.recv()
        process.join()
        return process.exitcode, answer

    def pull_until_killed(self, *, after: int) -> Path:
        """The partial file of a pull that is killed once `after` bytes have arrived."""
        process, _ = self.start()
        for _ in range(600):
            for file in self.cache.rglob("*.edgephi.incomplete"):
                if file.stat().st_size >= after:
                    process.kill()
                    process.join()
                    return file
            time.sleep(0.05)
        raise AssertionError("nothing arrived")


class TestPull:
    def test_gets_what_a_build_needs_and_nothing_else(
        self, machine: Machine, hub: HubServer, published: Path
    ) -> None:
        code, found = machine.pull()
        assert (code, found["id"], found["revision"]) == (0, REPO, hub.commit)
        got = {file.name for file in Path(found["folder"]).iterdir()}
        assert got == {file.name for file in published.iterdir()} - {"pytorch_model.bin", "modeling_phi3.py"}
        for name, expected in found["expected_sha256"].items():
            data = (Path(found["folder"]) / name).read_bytes()
            assert data == (published / name).read_bytes()
            assert hashlib.sha256(data).hexdigest() == expected
        assert len(found["expected_sha256"]) == 2

    def test_gets_the_ranks_of_a_tokenizer_that_is_published_so(self, tmp_path: Path) -> None:
        folder = write_checkpoint_with_ranks(tmp_path / "small", whole_tokens())
        with serve_hub(REPO, folder) as server:
            code, found = Machine(tmp_path / "cache", server.url).pull()
        assert code == 0
        got = {file.name for file in Path(found["folder"]).iterdir()}
        assert got == {file.name for file in folder.iterdir()}

    def test_broken_ranks_cost_no_download_of_weights(self, tmp_path: Path) -> None:
        folder = write_checkpoint_with_ranks(tmp_path / "small", [b"a"])
        with serve_hub(REPO, folder) as server:
            code, found = Machine(tmp_path / "cache", server.url).pull()
            assert code == 4
            assert f"{RANK_FILE}: expected 100,256 tokens, found 1" in found["message"]
            assert not any("safetensors" in request for request in map(str, server.requests))

    def test_again_offline_from_the_cache(self, machine: Machine, hub: HubServer) -> None:
        _, online = machine.pull()
        hub.requests.clear()
        assert machine.pull(offline=True) == (0, online)
        assert machine.pull(HF_HUB_OFFLINE="1") == (0, online)
        assert machine.pull(REPO, hub.commit, offline=True) == (0, online)
        assert hub.requests == []

    def test_a_pinned_commit_in_the_cache_survives_the_hub_being_down(
        self, machine: Machine, hub: HubServer
    ) -> None:
        _, online = machine.pull(REPO, hub.commit)
        code, found = machine.pull(REPO, hub.commit, HF_ENDPOINT="http://127.0.0.1:9")
        assert (code, found) == (0, online)

    def test_again_online_downloads_nothing(self, machine: Machine, hub: HubServer) -> None:
        machine.pull()
        hub.requests.clear()
        assert machine.pull()[0] == 0
        assert [request for request in hub.requests if request.method == "GET"][1:] == []

    def test_offline_and_not_cached(self, machine: Machine) -> None:
        code, error = machine.pull(offline=True)
        assert code == 6
        assert "found nothing" in error["message"]

    def test_hub_out_of_reach(self, machine: Machine) -> None:
        code, error = machine.pull(HF_ENDPOINT="http://127.0.0.1:9")
        assert code == 6
        assert "resumes" in error["hint"]

    def test_progress_stays_off_standard_output(self, machine: Machine) -> None:
        command = f"from edgephi.checkpoint.hub.pull import pull; pull({REPO!r}, progress=True)"
        environment = {**os.environ, **machine.environment, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout == ""


class TestResume:
    def test_a_cut_connection_is_taken_up_again(
        self, machine: Machine, hub: HubServer, published: Path
    ) -> None:
        hub.cut_after[FIRST] = [700_000, 300_000]
        code, found = machine.pull()
        assert code == 0
        assert (Path(found["folder"]) / FIRST).read_bytes() == (published / FIRST).read_bytes()
        assert hub.bytes_sent[FIRST] < 1.2 * (published / FIRST).stat().st_size

    def test_the_next_command_goes_on_where_the_network_went(
        self, machine: Machine, hub: HubServer, published: Path
    ) -> None:
        hub.cut_after[FIRST] = [700_000, 0, 0, 0, 0]
        code, error = machine.pull()
        assert code == 6
        assert "resumes" in error["hint"]
        hub.cut_after.clear()
        hub.requests.clear()
        code, found = machine.pull()
        assert code == 0
        asked = [request.range for request in hub.weight_requests() if request.path.startswith("/cdn/")]
        assert asked[0] == "bytes=700000-"
        assert hub.bytes_sent[FIRST] < 1.2 * (published / FIRST).stat().st_size
        assert (Path(found["folder"]) / FIRST).read_bytes() == (published / FIRST).read_bytes()

    def test_after_a_kill(self, machine: Machine, hub: HubServer, published: Path) -> None:
        hub.hold_after[FIRST] = 700_000
        partial = machine.pull_until_killed(after=700_000)
        hub.released.set()
        assert machine.pull()[0] == 0
        assert hub.bytes_sent[FIRST] < 1.2 * (published / FIRST).stat().st_size
        assert not partial.exists()

    def test_a_server_that_knows_no_ranges(self, machine: Machine, hub: HubServer, published: Path) -> None:
        hub.ignore_range = True
        hub.cut_after[FIRST] = [700_000]
        code, found = machine.pull()
        assert code == 0
        assert (Path(found["folder"]) / FIRST).read_bytes() == (published / FIRST).read_bytes()

    def test_damaged_bytes_are_noticed_and_dropped(self, machine: Machine, hub: HubServer) -> None:
        hub.hold_after[FIRST] = 700_000
        partial = machine.pull_until_killed(after=700_000)
        hub.released.set()
        with partial.open("r+b") as file:
            file.write(b"\xff" * 8)
        code, error = machine.pull()
        assert code == 6
        assert f"{FIRST}: expected sha256" in error["message"]
        assert machine.pull()[0] == 0


class TestAHubThatIsNotTrusted:
    def test_a_store_that_it_redirects_to_gets_no_token(self, machine: Machine, hub: HubServer) -> None:
        code, answer = machine.pull(HF_TOKEN="hf_secret")
        assert code == 0, answer
        assert {each.authorization for each in hub.requests if "/api/" in each.path} == {"Bearer hf_secret"}
        stored = [each for each in hub.requests if each.path.startswith("/cdn/")]
        assert stored and {each.authorization for each in stored} == {""}

    @pytest.mark.parametrize("name", [FIRST, "tokenizer.json"])
    def test_a_file_without_an_end_fills_no_disk(self, machine: Machine, hub: HubServer, name: str) -> None:
        hub.endless.add(name)
        code, answer = machine.pull()
        assert code == 6, answer
        kept = sum(each.stat().st_size for each in machine.cache.rglob("*") if each.is_file())
        assert kept < 300 << 20

    @pytest.mark.slow
    def test_one_that_drips_is_given_up(self, machine: Machine, hub: HubServer) -> None:
        hub.dripping.add("config.json")
        begun = time.monotonic()
        code, answer = machine.pull()
        assert code == 6, answer
        assert time.monotonic() - begun < 45


class TestRefusals:
    def test_no_such_model(self, machine: Machine) -> None:
        code, error = machine.pull("someone/else")
        assert code == 4
        assert "someone/else: expected a model on the hub, found none of that name" in error["message"]

    def test_no_such_revision(self, machine: Machine) -> None:
        code, error = machine.pull(REPO, "v9")
        assert code == 4
        assert "'v9'" in error["message"]

    def test_gated(self, machine: Machine, hub: HubServer) -> None:
        hub.gated_for_token = "hf_right"
        code, error = machine.pull()
        assert code == 4
        assert "HF_TOKEN" in error["hint"]
        assert machine.pull(HF_TOKEN="hf_wrong")[0] == 4
        assert hub.weight_requests() == []
        assert machine.pull(HF_TOKEN="hf_right")[0] == 0

    def test_disk_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def download(*arguments: object, **options: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("edgephi.checkpoint.hub.pull._download", download)
        with pytest.raises(DoesNotFitError, match="disk full"):
            pull(REPO)

    def test_hub_answers_with_an_error(self, machine: Machine, hub: HubServer) -> None:
        hub.broken[FIRST] = 503
        code, error = machine.pull()
        assert code == 6
        assert "503" in error["message"]

    @pytest.mark.parametrize(
        ("model_type", "name"),
        [("phi4mm", "Phi-4-multimodal"), ("phimoe", "attention_bias")],
    )
    def test_an_unsupported_model_costs_no_weights(self, tmp_path: Path, model_type: str, name: str) -> None:
        folder = write_tiny_checkpoint(tmp_path / "published")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": model_type}))
        with serve_hub(REPO, folder) as hub:
            code, error = Machine(tmp_path / "cache", hub.url).pull()
            assert code == 3
            assert name in error["message"]
            assert hub.weight_requests() == []

    @pytest.mark.parametrize(
        ("missing", "message"),
        [
            ("config.json", "expected config.json"),
            ("tokenizer.json", "expected the tokenizer"),
            ("model.safetensors", "found pytorch_model.bin"),
        ],
    )
    def test_a_repository_without(self, tmp_path: Path, missing: str, message: str) -> None:
        folder = write_tiny_checkpoint(tmp_path / "published")
        (folder / missing).unlink()
        (folder / "pytorch_model.bin").touch()
        with serve_hub(REPO, folder) as hub:
            code, error = Machine(tmp_path / "cache", hub.url).pull()
            assert code == 4
            assert message in error["message"]
            assert hub.weight_requests() == []

    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("model-Q4_K_M.gguf", "found model-Q4_K_M.gguf"),
            ("consolidated.safetensors", "found Mistral's own format: consolidated.safetensors"),
            ("adapter_config.json", "found an adapter for one"),
        ],
    )
    def test_what_is_no_checkpoint_of_transformers(self, tmp_path: Path, name: str, found: str) -> None:
        (tmp_path / "published").mkdir()
        (tmp_path / "published" / name).write_text("{}")
        with serve_hub(REPO, tmp_path / "published") as hub:
            code, error = Machine(tmp_path / "cache", hub.url).pull()
            assert code == 4
            assert error["message"].startswith(f"{REPO}: expected a checkpoint")
            assert found in error["message"]

    def test_a_model_whose_template_comes_from_elsewhere(self, tmp_path: Path) -> None:
        folder = write_tiny_checkpoint(tmp_path / "published")
        (folder / "chat_template.jinja").write_text("{{ broken")
        with serve_hub(REPO, folder) as hub:
            code, _ = Machine(tmp_path / "cache", hub.url).pull()
            assert code == 0

    def test_a_missing_shard(self, tmp_path: Path) -> None:
        folder = write_tiny_checkpoint(tmp_path / "published", shards=2)
        (folder / FIRST).unlink()
        with serve_hub(REPO, folder) as hub:
            code, error = Machine(tmp_path / "cache", hub.url).pull()
            assert code == 4
            assert FIRST in error["message"]
