"""Hostile bundles: each is refused with one line and exit code 4, before anything but parts is written."""

import json
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import edgephi.runtime
from edgephi.bundle.envelope import Envelope, Signature, encode_envelope, signed_bytes
from edgephi.cli.main import main
from edgephi.errors import BadBundleError
from edgephi.flash.signing.keys import public_half
from edgephi.store.install import Install
from edgephi.store.preflight import InstallOptions
from edgephi.store.trust.trusted_keys import TrustedKey, add_key
from tests.store.good_bundle import (
    GOOD_FILES,
    OTHER_FILES,
    Plain,
    good_manifest,
    graph_with,
    weights_at,
    write_bundle,
)
from tests.store.hostile.artifacts import hostile_artifacts
from tests.store.hostile.folders import SECRET, hostile_files
from tests.store.hostile.manifests import (
    hostile_adapters,
    hostile_bytes,
    hostile_chunks,
    hostile_numbers,
    hostile_paths,
    hostile_types,
)
from tests.store.trust.test_trust import BROKEN

RELEASE, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in (3, 4))
ELSEWHERE = InstallOptions(prove=False)
LONGEST_LINE = 1000


class World:
    """A box with a store, in which a good bundle is active, and with files that no bundle may reach."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "store"
        self.bundle = folder / "bundle"
        self.secret = folder / "outside" / "secret"
        self.secret.parent.mkdir(parents=True)
        self.secret.write_text("nobody's business")
        write_bundle(folder / "good", good_manifest())
        self.flash(folder / "good", 0)

    def flash(self, bundle: Path, exit_code: int) -> None:
        """Call the command, which must end with that code."""
        with pytest.raises(SystemExit) as ended:
            main(["flash", str(bundle), str(self.root), "--elsewhere"])
        assert ended.value.code == exit_code

    def snapshot(self) -> dict[str, tuple[int, ...]]:
        """All that is on the box but the bundle that comes, the store's parts, and its lock."""
        facts = {}
        for folder, folders, files in os.walk(self.folder):
            here = Path(folder)
            if here == self.root:
                folders.remove("parts")
            if here == self.folder and "bundle" in folders:
                folders.remove("bundle")
            for path in (*(here / name for name in [*folders, *files]),):
                if path != self.root / "lock":
                    found = path.lstat()
                    times = () if path.is_dir() and path == self.root else (found.st_mtime_ns,)
                    facts[str(path)] = (found.st_mode, found.st_ino, found.st_nlink, found.st_size, *times)
        return facts


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("box"))
    SECRET[:] = [str(made.secret)]
    return made


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A box that takes only what the release key has signed."""
    made = World(tmp_path_factory.mktemp("trusting-box"))
    add_key(made.root / "trust", TrustedKey("release", public_half(RELEASE)))
    return made


def assert_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """The bundle that came is refused as the contract says, and nothing has changed."""
    before = world.snapshot()
    world.flash(world.bundle, 4)
    output, errors = capsys.readouterr()
    # Steps that went well are shown before; what steers a terminal never is.
    lines = [line for line in errors.splitlines() if line.startswith(("error: ", "hint: "))]
    assert output == ""
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"]
    assert "bug" not in errors
    assert all(line.isprintable() and len(line) < LONGEST_LINE for line in lines), lines
    assert world.snapshot() == before


def assert_refused_over_a_network(world: World, manifest: bytes, signature: bytes | None = None) -> None:
    """The manifest is refused by the device itself too, whoever sent it."""
    before = world.snapshot()
    with pytest.raises(BadBundleError):
        Install.begin(world.root, manifest, signature, options=ELSEWHERE)
    assert world.snapshot() == before


def assert_leaves_no_store(world: World, manifest: bytes) -> None:
    """On a box without a store, not even an empty one is made."""
    with pytest.raises(BadBundleError):
        Install.begin(world.folder / "fresh", manifest, None, options=ELSEWHERE)
    assert not (world.folder / "fresh").exists()


def arrive(world: World, manifest: Plain | bytes, files: dict[str, bytes] | None = None) -> None:
    """Put a bundle before the door, in place of the one before."""
    remove(world.bundle)
    write_bundle(world.bundle, manifest, files)


def remove(folder: Path) -> None:
    """Remove a bundle, whatever is in it."""
    for here, folders, files in os.walk(folder, topdown=False):
        for name in files:
            (Path(here) / name).unlink()
        for name in folders:
            path = Path(here) / name
            path.unlink() if path.is_symlink() else path.rmdir()
    if folder.exists():
        folder.rmdir()


MANIFESTS = [
    *hostile_paths(),
    *hostile_numbers(),
    *hostile_adapters(),
    *hostile_chunks(),
    *hostile_types(),
]
BYTES = list(hostile_bytes())
FOLDERS = list(hostile_files())
ARTIFACTS = list(hostile_artifacts())


@pytest.mark.parametrize("change", [case for _, case in MANIFESTS], ids=[name for name, _ in MANIFESTS])
def test_a_manifest_that_lies(
    world: World, change: Callable[[Plain], object], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = good_manifest()
    change(manifest)
    arrive(world, manifest)
    assert_refused(world, capsys)
    assert_refused_over_a_network(world, json.dumps(manifest).encode())
    assert_leaves_no_store(world, json.dumps(manifest).encode())


@pytest.mark.parametrize("change", [case for _, case in BYTES], ids=[name for name, _ in BYTES])
def test_bytes_that_are_no_manifest(
    world: World, change: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    data = change(json.dumps(good_manifest()).encode())
    arrive(world, data)
    assert_refused(world, capsys)
    assert_refused_over_a_network(world, data)


@pytest.mark.parametrize("name", ["bundle.json", "bundle.dsse.json"])
def test_a_gigabyte_of_manifest_or_signature_is_not_read(
    trusting: World, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arrive(trusting, good_manifest())
    (trusting.bundle / name).touch()
    os.truncate(trusting.bundle / name, 1 << 30)
    assert_refused(trusting, capsys)


@pytest.mark.parametrize("put", [case for _, case in FOLDERS], ids=[name for name, _ in FOLDERS])
def test_a_folder_with_something_else_in_it(
    world: World, put: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    arrive(world, good_manifest(OTHER_FILES), OTHER_FILES)
    try:
        put(world.bundle)
    except PermissionError:
        pytest.skip("only root can make a device")
    assert_refused(world, capsys)


@pytest.mark.parametrize("files", [case for _, case in ARTIFACTS], ids=[name for name, _ in ARTIFACTS])
def test_an_artifact_that_leads_out(
    world: World, files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    files = {**GOOD_FILES, **files}
    arrive(world, good_manifest(files), files)
    assert_refused(world, capsys)
    with pytest.raises(BadBundleError) as refused:
        edgephi.runtime.load(world.bundle)
    assert refused.value.hint.startswith("do not use this bundle")


@pytest.mark.parametrize("command", [("run", "BUNDLE", "hello"), ("chat", "BUNDLE"), ("serve", "BUNDLE")])
def test_an_artifact_that_leads_out_is_not_opened_where_it_lies(
    world: World, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    files = {**GOOD_FILES, "model/model.onnx": graph_with(weights_at("../../outside/secret"))}
    arrive(world, good_manifest(files), files)
    with pytest.raises(SystemExit) as ended:
        main([str(world.bundle) if word == "BUNDLE" else word for word in command])
    assert ended.value.code == 4
    assert "outside/secret" in capsys.readouterr().err


@pytest.mark.parametrize("envelope", BROKEN.values(), ids=BROKEN)
def test_a_broken_signature(trusting: World, envelope: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.dumps(good_manifest()).encode()
    arrive(trusting, manifest)
    (trusting.bundle / "bundle.dsse.json").write_bytes(envelope)
    assert_refused(trusting, capsys)
    assert_refused_over_a_network(trusting, manifest, envelope)


@pytest.mark.parametrize("seed", range(60))
def test_a_signature_over_another_manifest(
    trusting: World, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = bytearray(json.dumps(good_manifest()).encode())
    signature = signed(bytes(manifest), RELEASE)
    manifest[random.Random(seed).randrange(len(manifest))] ^= 1 << seed % 8
    arrive(trusting, bytes(manifest))
    (trusting.bundle / "bundle.dsse.json").write_bytes(signature)
    assert_refused(trusting, capsys)
    assert_refused_over_a_network(trusting, bytes(manifest), signature)


def test_no_signature_or_a_stranger_s(trusting: World, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.dumps(good_manifest()).encode()
    for signature in (None, signed(manifest, STRANGER), b"", b"\0" * 100):
        arrive(trusting, manifest)
        if signature is not None:
            (trusting.bundle / "bundle.dsse.json").write_bytes(signature)
        assert_refused(trusting, capsys)
        assert_refused_over_a_network(trusting, manifest, signature)


def test_the_same_bundles_without_the_lie_are_taken(
    world: World, trusting: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else all of the above could be refused for another reason."""
    for files in (OTHER_FILES, GOOD_FILES):
        arrive(world, good_manifest(files), files)
        world.flash(world.bundle, 0)
    manifest = json.dumps(good_manifest()).encode()
    arrive(trusting, manifest)
    (trusting.bundle / "bundle.dsse.json").write_bytes(signed(manifest, RELEASE))
    trusting.flash(trusting.bundle, 0)


def test_there_are_enough_of_them() -> None:
    assert len(MANIFESTS) + len(BYTES) + len(FOLDERS) + len(ARTIFACTS) + len(BROKEN) + 60 >= 500


def test_a_hard_link_is_copied_and_stays_a_file_of_its_own(world: World) -> None:
    """A good bundle may consist of hard links, as those of a store do; the store shares none of them."""
    arrive(world, good_manifest())
    for path in GOOD_FILES:
        (world.bundle / path).rename(world.folder / "moved")
        (world.bundle / path).hardlink_to(world.folder / "moved")
        (world.folder / "moved").unlink()
    world.flash(world.bundle, 0)
    inodes = {path.stat().st_ino for path in world.bundle.rglob("*") if path.is_file()}
    objects = [
        path for path in (world.root / "objects/sha256").iterdir() if stat.S_ISREG(path.stat().st_mode)
    ]
    assert inodes.isdisjoint(path.stat().st_ino for path in objects)


def signed(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """The envelope of a bundle that the key has signed."""
    signature = Signature(public_half(key).fingerprint, key.sign(signed_bytes(manifest)))
    return encode_envelope(Envelope(manifest, (signature,)))
