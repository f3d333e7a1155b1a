"""`edgephi flash`, `status`, `rollback` and `gc` for a folder of this machine, as a shell calls them."""

import dataclasses
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.bundle.chunks import CHUNK_BYTES
from edgephi.bundle.manifest import ARTIFACT_FOLDER, MANIFEST_NAME, read_manifest
from edgephi.cli.show.progress import _Transfer, duration
from edgephi.flash.signing.keys import public_half
from edgephi.store.trust.change import trust_key
from tests.cli.conftest import MAIN, Edgephi, is_one_error
from tests.store.bundles import BALLAST, digest_of, flip_bit, remade

PROMPT = "turn off the kitchen light"


@pytest.fixture(scope="module")
def releases(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two releases of the demo; the second says something else about itself and is the same model."""
    folder = tmp_path_factory.mktemp("releases")
    data = random.Random(4).randbytes(3 * CHUNK_BYTES)
    first = remade(demo_bundle, folder / "first", {BALLAST: data})
    return first, remade(first, folder / "second", {"model/notes.txt": b"better"}, sequence=2)


@pytest.fixture(scope="module")
def installed(
    edgephi: Edgephi, releases: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store with both releases, proven; not to be changed."""
    root = tmp_path_factory.mktemp("installed") / "store"
    for bundle in releases:
        assert edgephi("flash", bundle, root).returncode == 0
    return root


@pytest.fixture
def store(installed: Path, tmp_path: Path) -> Path:
    """A copy of that store, its hard links kept."""
    subprocess.run(["cp", "--archive", installed, tmp_path / "store"], check=True)
    return tmp_path / "store"


def test_flash_says_what_it_sent_and_how_the_bundle_answered(
    edgephi: Edgephi, releases: tuple[Path, Path], tmp_path: Path
) -> None:
    done = edgephi("flash", releases[0], tmp_path / "store")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == f"{tmp_path}/store: demo-cpu, release 1, is active ({digest_of(releases[0])[:12]})"
    assert lines[1].startswith("sent 5.32 MB (100.0%), saved 0 B, in ")
    assert "probe: it answered at " in lines[2]
    assert lines[3] == '  {"action": "turn_off", "room": "kitchen", "device": "light"}'
    assert [line.split("  ")[0] for line in done.stderr.splitlines()] == ["copy", "probe"]
    again = edgephi("flash", releases[0], tmp_path / "store")
    assert "was active already" in again.stdout
    assert "sent 0 B (0.0%), saved 5.32 MB" in again.stdout


def test_flash_in_one_json_document(edgephi: Edgephi, releases: tuple[Path, Path], store: Path) -> None:
    done = edgephi("flash", releases[1], store, "--json")
    document = json.loads(done.stdout)
    assert document["digest"] == digest_of(releases[1])
    assert document["previous"] == digest_of(releases[0])
    assert (document["sent_bytes"], document["was_current"], document["probe"]) == (0, True, None)
    assert (document["changed"], document["answer"]) == (False, None)


def test_the_first_words_of_the_answer_are_in_the_document(
    edgephi: Edgephi, demo_bundle: Path, tmp_path: Path
) -> None:
    document = json.loads(edgephi("flash", demo_bundle, tmp_path / "store", "--json").stdout)
    assert document["changed"]
    assert document["answer"] == '{"action": "turn_off", "room": "kitchen", "device": "light"}'
    assert document["probe"]["text"].startswith(document["answer"])


def test_a_check_says_what_would_be_done_and_makes_no_store(
    edgephi: Edgephi, releases: tuple[Path, Path], tmp_path: Path
) -> None:
    done = edgephi("flash", releases[0], tmp_path / "store", "--check")
    assert done.returncode == 0
    which = f"demo-cpu, release 1 ({digest_of(releases[0])[:12]})"
    assert done.stdout.splitlines() == [
        f"{tmp_path}/store: {which} would be flashed; nothing was written",
        "to send 5.32 MB (100.0%), there 0 B",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_check_of_several_stores(
    edgephi: Edgephi, releases: tuple[Path, Path], store: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    places = (store, tmp_path / "new", tmp_path / "file")
    done = edgephi("flash", releases[1], *places, "--check", "--json")
    assert done.returncode == 6
    boxes = json.loads(done.stdout)["boxes"]
    assert [each["destination"] for each in boxes] == list(map(str, places))
    assert [each.get("changed") for each in boxes] == [False, True, None]
    assert [each["error"] and each["error"]["exit_code"] for each in boxes] == [None, None, 2]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "store"]


def test_an_image_cannot_be_checked(edgephi: Edgephi, releases: tuple[Path, Path], tmp_path: Path) -> None:
    assert is_one_error(edgephi("flash", releases[0], f"image:{tmp_path}/phi.img", "--check"), 2)
    assert list(tmp_path.iterdir()) == []


def test_the_active_bundle_runs_by_the_name_of_its_store(edgephi: Edgephi, store: Path) -> None:
    for path in (store, store / "current"):
        answer = edgephi("run", path, PROMPT)
        assert json.loads(answer.stdout) == {"action": "turn_off", "room": "kitchen", "device": "light"}
    assert "release 2" in edgephi("inspect", store).stdout
    assert edgephi("verify", store).returncode == 0
    unit = edgephi("service", store).stdout
    assert f"serve {store} --host" in unit, "each start shall serve what is active then"


def test_rollback_says_what_answered_and_forward_again(
    edgephi: Edgephi, releases: tuple[Path, Path], store: Path
) -> None:
    done = edgephi("rollback", store)
    first, probe, words = done.stdout.splitlines()
    assert first.startswith(f"{store}: demo-cpu, release 1, is active")
    assert probe.startswith("probe: it answered at ")
    assert json.loads(words)["action"] == "turn_off"
    assert [line.split("  ")[0] for line in done.stderr.splitlines()] == ["verify", "probe"]
    document = json.loads(edgephi("rollback", store, "--json").stdout)
    assert (document["digest"], document["signer"]) == (digest_of(releases[1]), None)
    assert document["probe"]["text"]


def test_rollback_refuses_what_flash_would_refuse(
    edgephi: Edgephi, releases: tuple[Path, Path], store: Path, tmp_path: Path
) -> None:
    edgephi("rollback", store)
    flip_bit(store / "previous" / "model" / "notes.txt", 1)  # the file that the other bundle has not
    refused = edgephi("rollback", store)
    assert (refused.returncode, refused.stdout) == (4, "")
    assert "model/notes.txt: expected sha256" in refused.stderr
    assert json.loads(edgephi("run", store, PROMPT).stdout)["action"] == "turn_off"
    probe = read_manifest(releases[1]).probe
    assert probe is not None
    strange = dataclasses.replace(probe, expected="Good morning")
    bad = remade(releases[1], tmp_path / "bad", {}, probe=strange, sequence=3)
    other = tmp_path / "other"
    for bundle, options in ((bad, ["--elsewhere"]), (releases[0], ["--allow-downgrade"])):
        assert edgephi("flash", bundle, other, *options).returncode == 0
    failed = edgephi("rollback", other)
    assert (failed.returncode, failed.stdout) == (5, "")
    assert "expected an answer that begins 'Good morning'" in failed.stderr
    left_out = edgephi("rollback", other, "--elsewhere")
    assert left_out.returncode == 0
    assert "not proven: the machine that it is for has to answer with it" in left_out.stdout


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["in words", "as JSON"])
def test_rollback_says_that_no_key_vouches(
    edgephi: Edgephi, releases: tuple[Path, Path], store: Path, options: tuple[str, ...]
) -> None:
    """The key came after the bundles: what is active runs on, and nothing goes back."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([33]) * 32)
    trust_key(store, "release.pub", public_half(key).pem)
    refused = edgephi("rollback", store, *options)
    assert is_one_error(refused, 4)
    assert "expected a signature by release (" in refused.stderr
    assert "found an unsigned bundle" in refused.stderr
    assert (store / "current").resolve().name == digest_of(releases[1])


def test_status_is_a_table(edgephi: Edgephi, releases: tuple[Path, Path], store: Path) -> None:
    done = edgephi("status", store)
    assert (done.returncode, done.stderr) == (0, "")
    header, current, previous, totals = done.stdout.splitlines()
    assert header.split() == ["generation", "bundle", "release", "created", "size", "state"]
    assert current.split()[:4] == ["current", digest_of(releases[1])[:12], "demo-cpu", "2"]
    assert previous.split()[:4] == ["previous", digest_of(releases[0])[:12], "demo-cpu", "1"]
    assert totals.startswith("5.34 MB stored, ")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    document = json.loads(edgephi("status", store, "--json").stdout)
    assert [each["role"] for each in document["generations"]] == ["current", "previous"]
    assert document["damages"] is None


def test_scrub_names_what_has_changed_and_flash_mends_it(
    edgephi: Edgephi, releases: tuple[Path, Path], store: Path
) -> None:
    flip_bit(store / "current" / BALLAST, CHUNK_BYTES + 7)
    done = edgephi("status", store, "--scrub")
    assert done.returncode == 4
    assert f"{BALLAST}: {CHUNK_BYTES} bytes at {CHUNK_BYTES}" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("hint: flash demo-cpu release 2 again, of which only what")
    assert json.loads(edgephi("flash", releases[1], store, "--json").stdout)["sent_bytes"] == CHUNK_BYTES
    assert "every byte is as it was installed" in edgephi("status", store, "--scrub").stdout


def test_what_is_active_after_a_roll_back_is_mended_by_the_hint_of_scrub(
    edgephi: Edgephi, releases: tuple[Path, Path], store: Path
) -> None:
    """It is older than the newest release that the store has had, and still the one to mend."""
    assert edgephi("rollback", store, "--elsewhere").returncode == 0
    flip_bit(store / "current" / BALLAST, CHUNK_BYTES + 7)  # both releases have that file
    (store / "previous" / MANIFEST_NAME).chmod(0o644)
    flip_bit(store / "previous" / MANIFEST_NAME, 70)
    for damaged, bundle in (("current", releases[0]), ("previous", releases[1])):
        digest = (store / damaged).readlink().name
        found = edgephi("status", store, "--scrub")
        assert (found.returncode, f"found {digest[:12]} damaged" in found.stderr) == (4, True)
        for command in commands_of(found.stderr.splitlines()[-1]):
            assert edgephi(*(bundle if word == "BUNDLE" else word for word in command)).returncode == 0
        assert (store / "current").resolve().name == digest_of(releases[0])
    assert edgephi("status", store, "--scrub").returncode == 0


def test_what_rollback_finds_damaged_is_mended_by_its_hint(
    edgephi: Edgephi, releases: tuple[Path, Path], store: Path
) -> None:
    (store / "previous" / MANIFEST_NAME).chmod(0o644)
    flip_bit(store / "previous" / MANIFEST_NAME, 70)
    refused = edgephi("rollback", store, "--json")
    assert is_one_error(refused, 4)
    [command] = commands_of(refused.stderr.splitlines()[-1])
    assert edgephi(*(releases[0] if word == "BUNDLE" else word for word in command)).returncode == 0
    assert (store / "current").resolve().name == digest_of(releases[0])


def commands_of(hint: str) -> list[list[str]]:
    """The words after `edgephi` of each command in a hint."""
    commands = [shlex.split(command) for command in re.findall("`([^`]+)`", hint)]
    return [words[next(at for at, word in enumerate(words) if "edgephi" in word) + 1 :] for words in commands]


def test_gc_removes_what_is_neither_current_nor_previous(
    edgephi: Edgephi, releases: tuple[Path, Path], store: Path, tmp_path: Path
) -> None:
    third = remade(releases[0], tmp_path / "third", {"model/notes.txt": b"best"}, sequence=3)
    assert edgephi("flash", third, store, "--elsewhere").returncode == 0
    would = edgephi("gc", store, "--dry-run")
    assert would.stdout == f"{store}: would remove {digest_of(releases[0])[:12]}, 0 B\n"
    assert json.loads(edgephi("gc", store, "--json").stdout)["generations"] == [digest_of(releases[0])]
    assert edgephi("gc", store).stdout == f"{store}: nothing to remove\n"
    assert "not proven here" in edgephi("status", store).stdout


def test_a_bundle_that_answers_otherwise_is_not_activated(
    edgephi: Edgephi, releases: tuple[Path, Path], store: Path, tmp_path: Path
) -> None:
    weights = f"{ARTIFACT_FOLDER}/model.onnx.data"
    noise = random.Random(5).randbytes((releases[0] / weights).stat().st_size)
    bad = remade(releases[0], tmp_path / "bad", {weights: noise}, sequence=3)
    done = edgephi("flash", bad, store)
    assert (done.returncode, done.stdout) == (5, "")
    assert "error: probe of demo-cpu: expected an answer that begins" in done.stderr
    assert json.loads(edgephi("run", store, PROMPT).stdout)["action"] == "turn_off"


@pytest.mark.parametrize("command", ["status", "rollback", "gc"])
def test_a_store_is_expected(edgephi: Edgephi, tmp_path: Path, command: str) -> None:
    assert is_one_error(edgephi(command, tmp_path), 2)


def test_a_bundle_is_expected(edgephi: Edgephi, tmp_path: Path) -> None:
    assert is_one_error(edgephi("flash", tmp_path / "none", tmp_path / "store"), 4)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_a_store_that_goes_on(
    edgephi: Edgephi, releases: tuple[Path, Path], tmp_path: Path, number: int
) -> None:
    """The source is slow, so that the signal comes in the middle of the copy."""
    store = tmp_path / "store"
    assert edgephi("flash", releases[0], store).returncode == 0
    size = 48 * CHUNK_BYTES
    large = remade(releases[1], tmp_path / "large", {BALLAST: random.Random(6).randbytes(size)}, sequence=3)
    slowed = "import time, edgephi.flash.folder as f\nread = f.read_chunks\n"
    slowed += "def slow(*a):\n    for each in read(*a):\n        time.sleep(0.05)\n        yield each\n"
    slowed += "f.read_chunks = slow\n"
    running = subprocess.Popen(
        [sys.executable, "-c", f"{slowed}{MAIN}", "flash", large, store],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    parts = store / "parts"
    deadline = time.monotonic() + 60
    while not any(parts.glob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    running.send_signal(number)
    stdout, stderr = running.communicate(timeout=60)
    assert (running.returncode, stdout) == (128 + number, "")
    assert "Traceback" not in stderr
    assert ("what has arrived is kept" in stderr) == (number == signal.SIGINT)
    assert (store / "current").resolve().name == digest_of(releases[0])
    sent = json.loads(edgephi("flash", large, store, "--json").stdout)["sent_bytes"]
    assert 0 < sent < size, "what had arrived was sent again"


def test_a_running_transfer_shows_its_rate_and_the_time_left() -> None:
    line = _Transfer("copy what is here", 40_000_000_000)
    line.count(1000)
    assert line.progress().endswith("  0%"), "a small file tells nothing of hours to come"
    time.sleep(0.8)
    line.count(10_000_000_000)
    shown = line.progress()
    assert re.search(r"\[###-{9}\]  25%  [0-9.]+ [GT]B/s, [0-9]+ s left$", shown)
    assert len(shown) < 80
    assert re.search(r"10\.0 GB, [0-9.]+ [GT]B/s$", line.result())


def test_what_is_read_only_is_looked_at_all_the_same(edgephi: Edgephi, store: Path) -> None:
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and there is no setpriv to take that from it")
    # Without its capabilities root is an owner like others, who writes only where the modes let it.
    like_others = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    modes = {path: path.stat().st_mode for path in [store, *store.rglob("*")] if not path.is_symlink()}
    try:
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        for command in ("status", "gc"):
            done = subprocess.run(
                [*like_others, sys.executable, "-c", MAIN, command, store],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == (0 if command == "status" else 4), done.stderr
            assert "Traceback" not in done.stderr
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (125, "2 min 05 s"), (3600 * 3 + 61, "3 h 01 min")]
)
def test_times_as_people_read_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
