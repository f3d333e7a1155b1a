"""Going back: the previous bundle must be good now, and not only when it was installed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME, read_manifest
from edgephi.errors import BadBundleError, BadInputError, NotSupportedError, ProbeFailedError, UsageError
from edgephi.flash.signing.keys import public_half
from edgephi.flash.signing.sign import sign_bundle
from edgephi.store.disk.layout import Layout
from edgephi.store.rollback import roll_back
from edgephi.store.state import change_state, read_state
from edgephi.store.trust.change import trust_key
from edgephi.store.trust.trusted_keys import TrustedKey, add_key, remove_key
from tests.build.counted_steps import CountedSteps
from tests.store.bundles import BALLAST, digest_of, flip_bit, remade
from tests.store.conftest import install

RELEASE, BACKUP = (Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in (11, 12))


@pytest.fixture
def store(first: Path, second: Path, tmp_path: Path) -> Path:
    """A store that runs the second release, and ran the first."""
    install(first, tmp_path / "store")
    install(second, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def signed(first: Path, second: Path, tmp_path: Path) -> Path:
    """The same store, which trusts two keys; the first release is signed by one, the second by the other."""
    root = tmp_path / "signed"
    (root / "trust").mkdir(parents=True)
    for name, key, bundle in (("release", RELEASE, first), ("backup", BACKUP, second)):
        add_key(root / "trust", TrustedKey(name, public_half(key)))
        shutil.copytree(bundle, tmp_path / name)
        sign_bundle(tmp_path / name, key)
        install(tmp_path / name, root)
    return root


def settled(root: Path) -> dict[str, str]:
    """All that a roll-back which was refused must leave as it was."""
    links = {name: str((root / name).readlink()) for name in ("current", "previous")}
    return {**links, "state": (root / "state.json").read_text()}


class TestGoingBack:
    def test_goes_back_and_forward_again(self, store: Path, first: Path, second: Path) -> None:
        back = roll_back(store, prove=False)
        assert (back.digest, back.sequence, back.left) == (digest_of(first), 1, digest_of(second))
        assert (store / "current").resolve().name == digest_of(first)
        assert (store / "previous").resolve().name == digest_of(second)
        assert roll_back(store, prove=False).digest == digest_of(second)

    def test_says_what_answered_and_who_vouches(self, signed: Path, first: Path) -> None:
        steps = CountedSteps()
        back = roll_back(signed, step=steps.step)
        assert back.signer == "release"
        assert back.probe is not None
        expected = read_manifest(first).probe
        assert expected is not None
        assert back.probe.text.startswith(expected.expected)
        size = sum(entry.size for entry in read_manifest(first).files)
        assert steps.sizes == {"verify": size, "probe": 0}
        assert steps.counted["verify"] == size
        assert digest_of(first) not in read_state(Layout(signed)).unproven, "it has answered here now"

    def test_leaves_no_trial(self, store: Path) -> None:
        roll_back(store, prove=False)
        assert read_state(Layout(store)).trial is None

    def test_what_never_answered_here_is_not_called_proven_without_a_probe(
        self, store: Path, first: Path
    ) -> None:
        roll_back(store, prove=False)
        assert digest_of(first) in read_state(Layout(store)).unproven


class TestWhatIsRefused:
    """With exit code 4 or 5 as flash does, and nothing changes."""

    @pytest.fixture(params=[True, False], ids=["proven here", "for another machine"])
    def prove(self, request: pytest.FixtureRequest) -> bool:
        """Leaving out the probe leaves out nothing else."""
        return bool(request.param)

    def test_no_previous_bundle(self, first: Path, tmp_path: Path) -> None:
        install(first, tmp_path)
        with pytest.raises(BadInputError, match="previous generation"):
            roll_back(tmp_path)

    def test_no_store(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="expected a store"):
            roll_back(tmp_path)

    def test_a_bundle_whose_key_was_removed(self, signed: Path, prove: bool) -> None:
        remove_key(signed / "trust", "release", also_the_last=False)
        before = settled(signed)
        with pytest.raises(BadBundleError, match="expected a signature by backup") as refused:
            roll_back(signed, prove=prove)
        assert refused.value.exit_code == 4
        assert settled(signed) == before

    def test_an_unsigned_bundle_once_there_is_a_key(self, store: Path, prove: bool) -> None:
        trust_key(store, "release.pub", public_half(RELEASE).pem)
        before = settled(store)
        with pytest.raises(BadBundleError, match="found an unsigned bundle"):
            roll_back(store, prove=prove)
        assert settled(store) == before

    def test_a_signature_that_was_damaged_since(self, signed: Path, prove: bool) -> None:
        flip_bit(signed / "previous" / SIGNATURE_NAME, 60)
        before = settled(signed)
        with pytest.raises(BadBundleError, match=SIGNATURE_NAME):
            roll_back(signed, prove=prove)
        assert settled(signed) == before

    @pytest.mark.parametrize(
        "name", [BALLAST, "model/model.onnx.data", "model/tokenizer.json", "model/genai_config.json"]
    )
    def test_a_bundle_of_which_one_bit_has_flipped(self, store: Path, name: str, prove: bool) -> None:
        flip_bit(store / "previous" / name, (store / "previous" / name).stat().st_size // 2)
        before = settled(store)
        with pytest.raises(BadBundleError, match=rf"{name}: expected sha256") as refused:
            roll_back(store, prove=prove)
        assert refused.value.exit_code == 4
        assert f"edgephi flash BUNDLE {store}" in refused.value.hint
        assert settled(store) == before

    @pytest.mark.parametrize(
        "damage",
        [lambda path: path.unlink(), lambda path: path.write_bytes(b"")],
        ids=["gone", "emptied"],
    )
    def test_a_bundle_of_which_a_file_is_lost(
        self, store: Path, damage: Callable[[Path], object], prove: bool
    ) -> None:
        damage(store / "previous" / BALLAST)
        before = settled(store)
        with pytest.raises(BadBundleError, match=BALLAST):
            roll_back(store, prove=prove)
        assert settled(store) == before

    def test_a_manifest_that_changed(self, store: Path, prove: bool) -> None:
        flip_bit(store / "previous" / MANIFEST_NAME, 70)
        before = settled(store)
        with pytest.raises(BadBundleError, match=rf"{MANIFEST_NAME}: expected sha256"):
            roll_back(store, prove=prove)
        assert settled(store) == before

    def test_a_bundle_below_the_security_floor(self, store: Path, prove: bool) -> None:
        change_state(Layout(store), security_floor={"demo-cpu": 2})
        with pytest.raises(BadBundleError, match="security floor"):
            roll_back(store, prove=prove)

    def test_a_bundle_that_does_not_answer_as_it_must(
        self, first: Path, second: Path, tmp_path: Path
    ) -> None:
        probe = read_manifest(first).probe
        assert probe is not None
        other = dataclasses.replace(probe, expected="Good morning")
        bad = remade(first, tmp_path / "bad", {}, probe=other)
        store = tmp_path / "store"
        install(bad, store)
        install(second, store)
        before = settled(store)
        with pytest.raises(ProbeFailedError, match="expected an answer that begins 'Good morning'") as failed:
            roll_back(store)
        assert failed.value.exit_code == 5
        assert settled(store) == before

    def test_a_bundle_for_another_processor(self, first: Path, second: Path, tmp_path: Path) -> None:
        target = dataclasses.replace(read_manifest(first).target, arch=("sparc64",))
        strange = remade(first, tmp_path / "strange", {}, target=target)
        store = tmp_path / "store"
        install(strange, store)
        install(second, store)
        before = settled(store)
        with pytest.raises(NotSupportedError, match="made for sparc64"):
            roll_back(store)
        assert settled(store) == before
