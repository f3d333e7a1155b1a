"""Adapters go where their base is: only they are sent, and each is asked before anything relies on it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.bundle.adapter_artifact import open_bundle
from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import Manifest, read_manifest
from edgephi.bundle.unfinished import write_manifest
from edgephi.errors import BadBundleError, ProbeFailedError
from edgephi.flash.folder import flash_folder
from edgephi.flash.signing.keys import public_half
from edgephi.flash.signing.sign import sign_bundle
from edgephi.store.disk.layout import Layout
from edgephi.store.garbage import collect_garbage
from edgephi.store.preflight import InstallOptions
from edgephi.store.rollback import roll_back
from edgephi.store.status import status
from edgephi.store.trust.change import trust_key
from tests.build.switched_adapters.demo_adapters import ASKED
from tests.cli.conftest import Edgephi, edgephi, is_one_error
from tests.store.bundles import digest_of, entry_of, flip_bit
from tests.store.conftest import install

__all__ = ["edgephi"]

OPPOSITE = "model/adapters/opposite.onnx_adapter"


@pytest.fixture
def store(demo_bundle: Path, tmp_path: Path) -> Path:
    """One that runs the base."""
    install(demo_bundle, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def artifact(demo_artifact: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(demo_artifact, tmp_path / "artifact"))


def rewrite(artifact: Path, **changes: object) -> Manifest:
    """Change the manifest of an artifact."""
    manifest = dataclasses.replace(read_manifest(artifact), **changes)  # type: ignore[arg-type]
    write_manifest(artifact, manifest)
    return manifest


def own_bytes(artifact: Path) -> int:
    return sum(path.stat().st_size for path in (artifact / "model").rglob("*") if path.is_file())


class TestWithItsBase:
    def test_only_the_adapters_are_sent_and_the_generation_is_whole(
        self, store: Path, demo_bundle: Path, demo_artifact: Path
    ) -> None:
        outcome = install(demo_artifact, store)
        whole = sum(entry.size for entry in read_manifest(demo_bundle).files)
        assert (outcome.sent_bytes, outcome.saved_bytes) == (own_bytes(demo_artifact), whole)
        assert outcome.previous == digest_of(demo_bundle)
        current = store / "current"
        assert current.resolve().name == digest_of(demo_artifact)
        check_files(current, read_manifest(current))
        assert open_bundle(current.resolve(), "opposite").adapter == "opposite"
        again = install(demo_artifact, store)
        assert (again.was_current, again.sent_bytes) == (True, 0)

    def test_each_is_asked_and_then_answers(self, store: Path, demo_artifact: Path, edgephi: Edgephi) -> None:
        outcome = flash_folder(demo_artifact, store, InstallOptions())
        assert outcome.probe is not None
        assert '"turn_off"' in outcome.probe.text

        def said(*words: str) -> str:
            done = edgephi("run", store, ASKED, *words)
            assert done.returncode == 0, done.stderr
            return done.stdout

        plain, opposite = said(), said("--adapter", "opposite")
        assert opposite == plain.replace("turn_off", "turn_on") != plain

    def test_a_box_that_runs_adapters_takes_others_for_the_same_base(
        self, store: Path, demo_artifact: Path, artifact: Path
    ) -> None:
        install(demo_artifact, store)
        opposite, _ = read_manifest(artifact).adapters
        (artifact / "model/adapters/faint.onnx_adapter").unlink()
        manifest = read_manifest(artifact)
        left = tuple(entry for entry in manifest.files if "faint" not in entry.path)
        rewrite(artifact, adapters=(opposite,), files=left, sequence=2)
        assert install(artifact, store).sent_bytes == 0
        assert [each.name for each in read_manifest(store / "current").adapters] == ["opposite"]

    def test_goes_back_to_the_base_alone(
        self, store: Path, demo_bundle: Path, demo_artifact: Path, edgephi: Edgephi
    ) -> None:
        install(demo_artifact, store)
        assert roll_back(store, prove=False).digest == digest_of(demo_bundle)
        done = edgephi("run", store, ASKED, "--adapter", "opposite")
        assert is_one_error(done, 4)
        assert "which has none; found 'opposite'" in done.stderr
        assert roll_back(store).digest == digest_of(demo_artifact)  # which asks the adapters, too

    def test_garbage_is_what_no_generation_needs(
        self, store: Path, demo_bundle: Path, demo_artifact: Path, artifact: Path
    ) -> None:
        """The base's files stay as long as adapters lie beside them, though it is no generation any more."""
        install(demo_artifact, store)
        rewrite(artifact, sequence=2)
        install(artifact, store)
        collect_garbage(store)
        left = {each.digest for each in status(store).generations}
        assert digest_of(demo_bundle) not in left
        check_files(store / "current", read_manifest(store / "current"))
        names = {path.name for path in Layout(store).objects.iterdir()}
        assert names == {entry.sha256 for entry in read_manifest(artifact).files}


class TestWithoutItsBase:
    def test_nothing_is_made_of_no_store(self, demo_artifact: Path, tmp_path: Path, edgephi: Edgephi) -> None:
        done = edgephi("flash", demo_artifact, tmp_path / "store")
        assert is_one_error(done, 4)
        assert "adapters for demo-cpu 1 (" in done.stderr
        assert f"expected that bundle in {tmp_path / 'store'}, found none" in done.stderr
        assert "flash the bundle that they were made for" in done.stderr
        assert list(tmp_path.iterdir()) == []

    def test_a_store_with_another_stays_as_it_was(
        self, first: Path, demo_artifact: Path, tmp_path: Path
    ) -> None:
        other = shutil.copytree(first, tmp_path / "other")
        manifest = read_manifest(other)
        (other / "model/tokenizer.json").write_bytes(b" " + (other / "model/tokenizer.json").read_bytes())
        _relist(other, manifest, "model/tokenizer.json")
        install(other, tmp_path / "store")
        before = sorted(str(path) for path in (tmp_path / "store").rglob("*"))
        with pytest.raises(BadBundleError, match=r"expected that bundle in .*, found it as "):
            install(demo_artifact, tmp_path / "store")
        assert sorted(str(path) for path in (tmp_path / "store").rglob("*")) == before

    def test_one_of_the_same_files_that_says_something_else_is_another(
        self, demo_bundle: Path, demo_artifact: Path, tmp_path: Path
    ) -> None:
        """Its adapters' manifest would put the first one's system message back."""
        other = shutil.copytree(demo_bundle, tmp_path / "other")
        manifest = read_manifest(other)
        chat = dataclasses.replace(manifest.chat, system="You are a lamp.")
        write_manifest(other, dataclasses.replace(manifest, chat=chat))
        install(other, tmp_path / "store")
        with pytest.raises(BadBundleError, match=r"expected that bundle in .*, found it as "):
            install(demo_artifact, tmp_path / "store")
        assert read_manifest(tmp_path / "store" / "current").chat.system == "You are a lamp."

    def test_nor_is_an_image_made(self, demo_artifact: Path, tmp_path: Path, edgephi: Edgephi) -> None:
        done = edgephi("flash", demo_artifact, f"image:{tmp_path / 'disk.img'}")
        assert is_one_error(done, 4)
        assert "adapters for demo-cpu 1 (" in done.stderr
        assert "expected a bundle that is whole" in done.stderr
        assert f"`cp -r BUNDLE/. {demo_artifact}/. FOLDER`" in done.stderr
        assert list(tmp_path.iterdir()) == []

    def test_one_folder_can_hold_both(
        self, demo_bundle: Path, demo_artifact: Path, tmp_path: Path, edgephi: Edgephi
    ) -> None:
        (tmp_path / "both").mkdir()
        folders = [f"{folder}/." for folder in (demo_bundle, demo_artifact)]
        subprocess.run(["cp", "-r", *folders, tmp_path / "both"], check=True)
        assert edgephi("verify", tmp_path / "both").returncode == 0
        install(tmp_path / "both", tmp_path / "store")
        assert (tmp_path / "store/current").resolve().name == digest_of(demo_artifact)

    def test_the_artifact_is_not_run_alone(self, demo_artifact: Path, edgephi: Edgephi) -> None:
        for words in ((), ("--adapter", "opposite")):
            done = edgephi("run", demo_artifact, ASKED, *words)
            assert is_one_error(done, 4)
            assert "expected a bundle, found adapters for demo-cpu 1" in done.stderr


class TestAWrongOne:
    def test_that_answers_otherwise_is_not_relied_on(self, store: Path, artifact: Path) -> None:
        """The file of one in the place of the other: both are good adapters."""
        opposite, faint = read_manifest(artifact).adapters
        rewrite(
            artifact,
            adapters=(
                dataclasses.replace(opposite, file=faint.file),
                dataclasses.replace(faint, file=opposite.file),
            ),
        )
        before = (store / "current").readlink()
        with pytest.raises(ProbeFailedError, match=r'adapter opposite: .* begins .*"turn_on".*"turn_off"'):
            flash_folder(artifact, store, InstallOptions())
        assert (store / "current").readlink() == before
        assert [each.digest for each in status(store).generations if each.role == "current"] == [before.name]

    def test_on_the_command_line_is_exit_code_5(self, store: Path, artifact: Path, edgephi: Edgephi) -> None:
        opposite, faint = read_manifest(artifact).adapters
        assert opposite.probe is not None
        probe = dataclasses.replace(opposite.probe, expected="No.")
        rewrite(artifact, adapters=(dataclasses.replace(opposite, probe=probe), faint))
        done = edgephi("flash", artifact, store)
        assert done.returncode == 5
        error, hint = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "hint: "))]
        assert "probe of demo-cpu: adapter opposite: expected an answer that begins 'No.', found '{" in error
        assert "what ran before still runs" in hint

    @pytest.mark.parametrize("verified", [True, False])
    def test_that_no_engine_can_open(self, store: Path, artifact: Path, verified: bool) -> None:
        """One that was not verified when it was made has no answer to be held against, and must give one."""
        if not verified:
            adapters = read_manifest(artifact).adapters
            rewrite(artifact, adapters=tuple(dataclasses.replace(each, probe=None) for each in adapters))
        (artifact / OPPOSITE).write_bytes(b"no adapter")
        _relist(artifact, read_manifest(artifact), OPPOSITE)
        before = (store / "current").readlink()
        with pytest.raises(ProbeFailedError, match="expected an adapter for this model"):
            flash_folder(artifact, store, InstallOptions())
        assert (store / "current").readlink() == before

    def test_that_is_not_what_the_manifest_says(self, store: Path, artifact: Path) -> None:
        flip_bit(artifact / OPPOSITE, 1000)
        with pytest.raises(BadBundleError, match=r"opposite\.onnx_adapter"):
            install(artifact, store)

    def test_one_that_is_missing_is_found_before_anything_is_sent(self, store: Path, artifact: Path) -> None:
        (artifact / OPPOSITE).unlink()
        with pytest.raises(BadBundleError, match=r"opposite\.onnx_adapter: expected a file"):
            install(artifact, store)


class TestTrust:
    KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in (41, 42))

    @pytest.fixture
    def guarded(self, demo_bundle: Path, tmp_path: Path) -> Path:
        """A store with the base that takes what one key has signed."""
        bundle = shutil.copytree(demo_bundle, tmp_path / "signed")
        sign_bundle(bundle, self.KEY)
        install(bundle, tmp_path / "store")
        trust_key(tmp_path / "store", "release.pub", public_half(self.KEY).pem)
        return tmp_path / "store"

    def test_signed_it_is_taken(self, guarded: Path, artifact: Path) -> None:
        sign_bundle(artifact, self.KEY)
        outcome = install(artifact, guarded)
        assert outcome.signer == "release"
        assert outcome.sent_bytes == own_bytes(artifact)

    def test_unsigned_and_by_another_key_it_is_not(self, guarded: Path, artifact: Path) -> None:
        with pytest.raises(BadBundleError, match="expected a signature by release"):
            install(artifact, guarded)
        sign_bundle(artifact, self.OTHER)
        with pytest.raises(BadBundleError, match="expected a signature by release"):
            install(artifact, guarded)

    def test_changed_after_that_it_is_not(self, guarded: Path, artifact: Path) -> None:
        sign_bundle(artifact, self.KEY)
        flip_bit(artifact / OPPOSITE, 1000)
        with pytest.raises(BadBundleError, match=r"opposite\.onnx_adapter"):
            install(artifact, guarded)
        manifest = json.loads((artifact / "bundle.json").read_text())
        manifest["adapters"][0]["scale"] = 2.0
        (artifact / "bundle.json").write_text(json.dumps(manifest))
        with pytest.raises(BadBundleError, match="signature"):
            install(artifact, guarded)


def _relist(bundle: Path, manifest: Manifest, path: str) -> None:
    """Have the manifest say what a file is now."""
    entry = entry_of(path, (bundle / path).read_bytes())
    files = tuple(entry if each.path == path else each for each in manifest.files)
    write_manifest(bundle, dataclasses.replace(manifest, files=files))
