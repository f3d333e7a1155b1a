"""A store that has had a key does not open when its keys are lost: its state remembers that it needs one."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.errors import BadBundleError, BadInputError, UsageError
from edgephi.flash.folder import flash_folder
from edgephi.flash.signing.keys import public_half
from edgephi.flash.signing.sign import sign_bundle
from edgephi.store.disk.layout import Layout
from edgephi.store.disk.lock import StoreLock
from edgephi.store.install import Install
from edgephi.store.opening import open_bundle
from edgephi.store.rollback import roll_back
from edgephi.store.state import read_state
from edgephi.store.status import status
from edgephi.store.trust.change import distrust_key, trust_key, trusted
from edgephi.store.trust.trusted_keys import TrustedKey, add_key, read_trusted_keys
from tests.store.conftest import UNPROVEN
from tests.store.good_bundle import good_manifest, write_bundle
from tests.store.test_install import begin, send

RELEASE, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in (21, 22))
PEM = public_half(RELEASE).pem


def released(folder: Path, sequence: int, *keys: Ed25519PrivateKey) -> Path:
    """A release in `folder`, signed by these keys."""
    write_bundle(folder, good_manifest(sequence=sequence))
    for key in keys:
        sign_bundle(folder, key)
    return folder


def flash(bundle: Path, root: Path) -> None:
    flash_folder(bundle, root, UNPROVEN)


def active(root: Path) -> int:
    sequence: int = json.loads((root / "current/bundle.json").read_bytes())["sequence"]
    return sequence


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that trusts the release key, runs its second release, and ran its first; not to be changed."""
    folder = tmp_path_factory.mktemp("prepared")
    trust_key(folder / "store", "release.pub", PEM)
    for sequence in (1, 2):
        flash(released(folder / f"release-{sequence}", sequence, RELEASE), folder / "store")
    return folder / "store"


@pytest.fixture
def store(prepared: Path, tmp_path: Path) -> Path:
    """A copy of that store, its hard links kept."""
    subprocess.run(["cp", "--archive", prepared, tmp_path / "store"], check=True)
    return tmp_path / "store"


@pytest.fixture(scope="module")
def third(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A third release that nobody signed, that a stranger signed, and that the release key signed."""
    folder = tmp_path_factory.mktemp("third")
    return {
        "unsigned": released(folder / "unsigned", 3),
        "strange": released(folder / "strange", 3, STRANGER),
        "signed": released(folder / "signed", 3, RELEASE),
    }


def _a_link_to_nowhere(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("/nowhere/at/all")


def _a_link_to_itself(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.name)


def _a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(PEM)


LOSSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (shutil.rmtree, "expected the keys that this store has had, found no such folder"),
    "emptied": (
        lambda folder: (folder / "release.pub").unlink(),
        "expected the keys that this store has had, found an empty folder",
    ),
    "a key that was half written": (
        lambda folder: (folder / "release.pub").rename(folder / ".release.pub"),
        "expected the keys that this store has had, found an empty folder",
    ),
    "a link that leads nowhere": (_a_link_to_nowhere, "a folder of keys, found a link that leads nowhere"),
    "a link that leads to itself": (_a_link_to_itself, "a folder of keys, found Too many levels"),
    "a file": (_a_file, "expected a folder of keys, found Not a directory"),
}


@pytest.fixture(params=LOSSES)
def lost(store: Path, request: pytest.FixtureRequest) -> tuple[Path, str]:
    """The same store without its keys, and what is to be said about that."""
    lose, said = LOSSES[request.param]
    lose(store / "trust")
    return store, said


class TestLost:
    def test_no_bundle_is_taken_not_even_a_signed_one(
        self, lost: tuple[Path, str], third: dict[str, Path]
    ) -> None:
        root, said = lost
        for bundle in third.values():
            with pytest.raises(BadInputError, match=said) as refused:
                flash(bundle, root)
            assert refused.value.exit_code == 4
            assert "trust add ROOT NAME.pub" in refused.value.hint
        assert active(root) == 2
        assert not list((root / "parts").iterdir())

    def test_nor_gone_back_to(self, lost: tuple[Path, str]) -> None:
        root, said = lost
        with pytest.raises(BadInputError, match=said):
            roll_back(root, prove=False)
        assert active(root) == 2

    def test_what_is_active_runs_on(self, lost: tuple[Path, str]) -> None:
        """A box that loses its keys must not lose its model: it is the one that a key vouched for."""
        root, _ = lost
        assert json.loads((open_bundle(root) / "bundle.json").read_bytes())["sequence"] == 2
        assert [each.role for each in status(root).generations] == ["current", "previous"]

    def test_it_is_not_listed_as_open(self, lost: tuple[Path, str]) -> None:
        root, said = lost
        with pytest.raises(BadInputError, match=said):
            trusted(root)


@pytest.mark.parametrize("lose", [LOSSES["gone"][0], LOSSES["emptied"][0]], ids=["gone", "emptied"])
def test_a_key_that_is_added_again_opens_it_for_that_key_alone(
    store: Path, lose: Callable[[Path], object], third: dict[str, Path]
) -> None:
    lose(store / "trust")
    trust_key(store, "release.pub", PEM)
    with pytest.raises(BadBundleError, match="expected a signature by release"):
        flash(third["unsigned"], store)
    flash(third["signed"], store)
    assert active(store) == 3


def test_a_link_to_a_folder_of_keys_is_one_until_it_leads_nowhere(
    store: Path, tmp_path: Path, third: dict[str, Path]
) -> None:
    (store / "trust").rename(tmp_path / "keys")
    (store / "trust").symlink_to(tmp_path / "keys")
    flash(third["signed"], store)
    (tmp_path / "keys").rename(tmp_path / "unmounted")
    with pytest.raises(BadInputError, match="a link that leads nowhere"):
        flash(third["unsigned"], store)
    (tmp_path / "unmounted").rename(tmp_path / "keys")
    flash(released(tmp_path / "next", 4, RELEASE), store)


def test_a_link_to_nowhere_closes_a_store_that_never_had_a_key_too(
    tmp_path: Path, third: dict[str, Path]
) -> None:
    """Whoever made the link wants keys; the disk with them is not mounted yet."""
    root = tmp_path / "store"
    root.mkdir()
    (root / "trust").symlink_to("/nowhere/at/all")
    with pytest.raises(BadInputError, match="a link that leads nowhere"):
        flash(third["unsigned"], root)
    assert [path.name for path in root.iterdir()] == ["trust"]


def test_a_folder_that_may_not_be_read_closes_the_store(store: Path) -> None:
    (store / "trust").chmod(0)
    code = (
        "import sys; from pathlib import Path\n"
        "from edgephi.errors import BadInputError\n"
        "from edgephi.store.trust.trusted_keys import read_trusted_keys\n"
        "try:\n    print(read_trusted_keys(Path(sys.argv[1])))\n"
        "except BadInputError as refused:\n    print(refused.message)\n"
    )
    # Without its capabilities root is an owner like others, who reads only where the modes let it.
    like_others = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    if like_others and shutil.which("setpriv") is None:
        pytest.skip("root may read everywhere, and there is no setpriv to take that from it")
    command = [*like_others, sys.executable, "-c", code, str(store / "trust")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{store}/trust: expected a folder of keys, found Permission denied\n"


class TestWhatTheStateRemembers:
    def test_a_key_that_was_put_there_by_hand(self, tmp_path: Path, third: dict[str, Path]) -> None:
        root = tmp_path / "store"
        flash(third["unsigned"], root)
        assert read_state(Layout(root)).keys_required is False
        (root / "trust" / "release.pub").write_bytes(PEM)
        status(root)
        shutil.rmtree(root / "trust")
        with pytest.raises(BadInputError, match="the keys that this store has had"):
            flash(released(tmp_path / "other", 2), root)

    def test_a_key_of_a_store_that_is_still_empty(self, tmp_path: Path, third: dict[str, Path]) -> None:
        root = tmp_path / "store"
        trust_key(root, "release.pub", PEM)
        shutil.rmtree(root / "trust")
        with pytest.raises(BadInputError, match="the keys that this store has had"):
            flash(third["unsigned"], root)

    def test_a_key_that_comes_while_a_flash_is_at_work(
        self, third: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgephi.store.trust.change._LOCK_WAIT_SECONDS", 0.0, raising=False)
        root = tmp_path / "store"
        with begin(third["unsigned"], root) as transfer:
            send(third["unsigned"], transfer)
            assert trust_key(root, "release.pub", PEM).name == "release"
            with pytest.raises(BadBundleError, match="found an unsigned bundle"):
                transfer.finish()
        assert not (root / "current").is_symlink()
        status(root)
        assert read_state(Layout(root)).keys_required

    def test_keys_that_are_lost_while_a_flash_is_at_work(self, store: Path, third: dict[str, Path]) -> None:
        bundle = third["signed"]
        manifest, signature = ((bundle / name).read_bytes() for name in ("bundle.json", "bundle.dsse.json"))
        with Install.begin(store, manifest, signature, options=UNPROVEN) as transfer:
            send(bundle, transfer)
            shutil.rmtree(store / "trust")
            with pytest.raises(BadInputError, match="found no such folder"):
                transfer.finish()
        assert active(store) == 2
        assert len(status(store).generations) == 2, "what was refused is gone"

    def test_a_state_that_is_lost_with_the_keys(self, store: Path, third: dict[str, Path]) -> None:
        for path in (store / "state.json", store / "trust" / "release.pub"):
            path.unlink()
        status(store)
        with pytest.raises(BadInputError, match="the keys that this store has had"):
            flash(third["unsigned"], store)

    def test_a_state_that_is_lost_in_a_store_without_keys(
        self, tmp_path: Path, third: dict[str, Path]
    ) -> None:
        root = tmp_path / "store"
        flash(third["unsigned"], root)
        (root / "state.json").unlink()
        flash(released(tmp_path / "other", 4), root)
        assert active(root) == 4


class TestOnPurpose:
    def test_without_the_last_key_everything_is_taken_again(
        self, store: Path, third: dict[str, Path]
    ) -> None:
        with pytest.raises(UsageError, match="is the last"):
            distrust_key(store, "release", also_the_last=False)
        assert distrust_key(store, "release", also_the_last=True).name == "release"
        flash(third["unsigned"], store)
        assert active(store) == 3
        assert trusted(store).keys == ()

    def test_one_of_several_keys_opens_nothing(self, store: Path, third: dict[str, Path]) -> None:
        trust_key(store, "backup.pub", public_half(STRANGER).pem)
        distrust_key(store, "release", also_the_last=True)
        shutil.rmtree(store / "trust")
        with pytest.raises(BadInputError, match="the keys that this store has had"):
            flash(third["unsigned"], store)

    def test_lost_keys_can_be_given_up(self, store: Path, third: dict[str, Path]) -> None:
        from edgephi.store.trust.change import require_no_key

        with pytest.raises(UsageError, match="expected no key, found release"):
            require_no_key(store)
        shutil.rmtree(store / "trust")
        require_no_key(store)
        flash(third["unsigned"], store)
        assert active(store) == 3

    def test_not_while_nobody_can_tell_whether_there_are_keys(self, store: Path) -> None:
        from edgephi.store.trust.change import require_no_key

        _a_link_to_nowhere(store / "trust")
        with pytest.raises(BadInputError, match="a link that leads nowhere"):
            require_no_key(store)

    def test_a_removal_that_is_cut_short_opens_nothing(self, store: Path, third: dict[str, Path]) -> None:
        """What `trust remove --last` writes first is not believed while the key is there."""
        distrust_key(store, "release", also_the_last=True)
        add_key(store / "trust", TrustedKey("release", public_half(RELEASE)))
        status(store)
        (store / "trust" / "release.pub").unlink()
        with pytest.raises(BadInputError, match="the keys that this store has had"):
            flash(third["unsigned"], store)


def test_what_a_store_took_while_a_lock_was_held_is_still_a_key(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgephi.store.trust.change._LOCK_WAIT_SECONDS", 0.0, raising=False)
    with StoreLock.take(Layout(store), "flash"):
        trust_key(store, "backup.pub", public_half(STRANGER).pem)
        assert distrust_key(store, "backup", also_the_last=False).name == "backup", "a key that leaked"
    assert [each.name for each in read_trusted_keys(store / "trust")] == ["release"]
