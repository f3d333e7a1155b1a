"""Where a bundle or a file may be put: a place that the user meant, and nothing that it would break."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import read_manifest
from edgephi.cli.main import cli
from edgephi.errors import UsageError
from edgephi.flash import destination
from edgephi.flash.destination import Box
from tests.cli.conftest import Edgephi, is_one_error
from tests.tiny_checkpoint import write_tiny_checkpoint

AT_STORES = ("status", "rollback", "gc", "trust list")
NOT_PLACES = [
    *("box:phi", "user@box:/srv/phi", "box:", "box:~/phi", "user@box:", "10.0.0.7:phi", ":phi"),
    *("ssh://", "ssh:", "ssh:///srv/phi", "ssh://box", "ssh://box/", "ssh://@box", "SSH://box/phi"),
    *("oci://", "oci:", "oci://localhost:5000/phi:1", "image:", "image: ", "file:///srv/phi"),
    *("http://box/phi", "docker:phi", "C:\\phi", "-", "--", ""),
]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder that is empty, before and, for what is refused, after."""
    folder = tmp_path / "nowhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert list(folder.iterdir()) == []


def refusal(*words: object) -> UsageError | click.UsageError:
    """The error of a call that the command line must not understand."""
    with pytest.raises((UsageError, click.UsageError)) as refused:
        cli.main([str(word) for word in words], standalone_mode=False)
    assert isinstance(refused.value, UsageError | click.UsageError)
    return refused.value


@pytest.mark.parametrize("text", NOT_PLACES)
def test_flash_takes_no_place_that_may_not_be_meant(demo_bundle: Path, text: str) -> None:
    refusal("flash", demo_bundle, text)


@pytest.mark.parametrize("command", AT_STORES)
@pytest.mark.parametrize("text", [*NOT_PLACES, "image:phi.img"])
def test_neither_do_the_commands_for_a_store(command: str, text: str) -> None:
    refusal(*command.split(), text)


@pytest.mark.parametrize("text", NOT_PLACES)
def test_no_key_is_trusted_there(tmp_path: Path, text: str) -> None:
    cli.main(["keygen", str(tmp_path / "maker")], standalone_mode=False)
    refusal("trust", "add", text, tmp_path / "maker.pub")


@pytest.mark.parametrize(
    "words",
    [
        ("build", "demo", "--target", "cpu", "-o"),
        ("import", "qnn", ".", "-o"),
        ("pull", "oci://localhost:5000/phi:1", "-o"),
        ("quickstart", "-o"),
        ("keygen",),
        ("tune", "demo", "--keep"),
        ("bench", "BUNDLE", "--html"),
        ("inspect", "BUNDLE", "--html"),
        ("service", "BUNDLE", "-o"),
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("text", ["box:phi", "user@box:/srv/phi", "ssh://box/phi", "oci://", "oci:phi", "-"])
def test_no_command_writes_to_a_local_file_of_such_a_name(words: tuple[str, ...], text: str) -> None:
    refusal(*words, text)


def test_what_scp_writes_is_translated(edgephi: Edgephi, demo_bundle: Path, nowhere: Path) -> None:
    done = edgephi("flash", demo_bundle, "user@box:my phi", cwd=nowhere)
    assert is_one_error(done, 2)
    for meant in ("ssh://user@box/~/my%20phi", "ssh://user@box/my%20phi", "'./user@box:my phi'"):
        assert meant in done.stderr
    for url in re.findall(r"ssh://user@\S+", done.stderr):
        assert isinstance(destination.read_destination(url), Box)
    assert destination.read_destination("ssh://user@box/~/my%20phi") == Box("box", "~/my phi", "user")
    assert "write ssh://box/srv/phi for the box" in refusal("status", "box:/srv/phi").hint  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["./box:phi", "phi", "/srv/box:phi", "../a:b", ".", "a/b:c", " x", "~x"])
def test_a_path_is_a_path(text: str) -> None:
    assert destination.read_destination(text) == Path(text)


def test_a_folder_with_a_colon_can_be_meant(demo_bundle: Path, nowhere: Path) -> None:
    cli.main(["flash", str(demo_bundle), "./box:phi", "--elsewhere"], standalone_mode=False)
    assert (nowhere / "box:phi" / "current").is_dir()
    shutil.rmtree(nowhere / "box:phi")


class TestNothingIsBroken:
    """What is there stays whole, whatever is to be put into it, and so it does by the hint."""

    @pytest.fixture
    def bundle(self, demo_bundle: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(demo_bundle, tmp_path / "work" / "my bundle"))

    @pytest.fixture
    def store(self, demo_bundle: Path, tmp_path: Path) -> Path:
        store = tmp_path / "stores" / "phi"
        store.parent.mkdir()
        cli.main(["flash", str(demo_bundle), str(store), "--elsewhere"], standalone_mode=False)
        return store

    @staticmethod
    def is_whole(bundle: Path) -> bool:
        check_files(bundle, read_manifest(bundle))
        return True

    @staticmethod
    def suggested(hint: str) -> Path | None:
        """The folder that a hint suggests."""
        _, such_as, path = hint.partition("such as ")
        return Path(shlex.split(path)[0]) if such_as else None

    @pytest.mark.parametrize("inside", [".", "edgephi", "model", "model/store", "model/../x", "a/b/c"])
    def test_no_store_in_a_bundle(self, bundle: Path, inside: str) -> None:
        error = refusal("flash", bundle, bundle / inside)
        assert f"the bundle {bundle}" in error.message
        assert self.is_whole(bundle)
        place = self.suggested(error.hint)  # type: ignore[union-attr]
        assert place is not None
        cli.main(["flash", str(bundle), str(place), "--elsewhere"], standalone_mode=False)
        assert self.is_whole(bundle)
        assert (place / "current").is_dir()

    def test_a_link_leads_there_too(self, bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(bundle)
        refusal("flash", bundle, tmp_path / "link" / "edgephi")
        refusal("flash", bundle, tmp_path / "link")
        assert self.is_whole(bundle)

    def test_not_over_the_folder_of_bundles(self, bundle: Path) -> None:
        error = refusal("flash", bundle, bundle.parent)
        place = self.suggested(error.hint)  # type: ignore[union-attr]
        assert place is not None
        cli.main(["flash", str(bundle), str(place), "--elsewhere"], standalone_mode=False)
        assert self.is_whole(bundle)
        again = self.suggested(refusal("flash", bundle, bundle.parent).hint)  # type: ignore[union-attr]
        assert again is not None
        assert not again.exists()

    @pytest.mark.parametrize(
        "inside", ["gens", "gens/x", "objects/sha256/x", "trust", "x", "current", "current/x"]
    )
    def test_no_store_in_a_store(self, demo_bundle: Path, store: Path, inside: str) -> None:
        before = sorted(store.rglob("*"))
        error = refusal("flash", demo_bundle, store / inside)
        assert "found that it" in error.message
        assert self.suggested(error.hint) is None  # type: ignore[union-attr]
        assert sorted(store.rglob("*")) == before

    def test_no_bundle_among_the_files_of_the_store_that_it_is_for(self, bundle: Path, store: Path) -> None:
        bundle.rename(store / "mine")
        assert "found one within it" in refusal("flash", store / "mine", store).message
        assert self.is_whole(store / "mine")

    def test_what_the_store_holds_may_be_proven_again(self, store: Path) -> None:
        for held in (store / "current", *(store / "gens").iterdir()):
            cli.main(["flash", str(held), str(store), "--elsewhere"], standalone_mode=False)
            assert self.is_whole(store / "current")

    def test_no_store_in_a_checkpoint(self, demo_bundle: Path, tmp_path: Path) -> None:
        checkpoint = write_tiny_checkpoint(tmp_path / "phi")
        before = sorted(checkpoint.rglob("*"))
        for inside in (".", "edgephi"):
            error = refusal("flash", demo_bundle, checkpoint / inside)
            assert f"the checkpoint {checkpoint}" in error.message
            assert self.suggested(error.hint) == tmp_path / "phi-store"  # type: ignore[union-attr]
        assert sorted(checkpoint.rglob("*")) == before

    @pytest.mark.parametrize(
        "words",
        [
            ("build", "demo", "--target", "cpu", "-o"),
            ("quickstart", "-o"),
            ("keygen",),
            ("tune", "demo", "--keep"),
            ("bench", "BUNDLE", "--html"),
            ("inspect", "BUNDLE", "--html"),
            ("service", "BUNDLE", "-o"),
            ("pull", "oci://localhost:5000/phi:1", "-o"),
            ("import", "qnn", ".", "-o"),
        ],
        ids=lambda words: words[0],
    )
    def test_no_file_in_a_bundle_or_a_store(self, bundle: Path, store: Path, words: tuple[str, ...]) -> None:
        before = sorted(store.rglob("*"))
        given = [str(bundle) if word == "BUNDLE" else word for word in words]
        for place in (bundle / "x", bundle / "model" / "x", store / "x", store / "current" / "x"):
            assert "outside of every bundle and store" in refusal(*given, place).message
        assert self.is_whole(bundle)
        assert sorted(store.rglob("*")) == before

    def test_no_image_in_a_bundle(self, bundle: Path) -> None:
        refusal("flash", bundle, f"image:{bundle}/phi.img")
        assert self.is_whole(bundle)

    def test_what_is_in_the_way_of_a_build_stays(self, bundle: Path) -> None:
        error = refusal("build", "demo", "--target", "cpu", "-o", bundle)
        assert "rm" not in re.findall(r"\w+", error.hint)  # type: ignore[union-attr]
        assert self.is_whole(bundle)
