"""`edgephi rm`: what was named goes, whole, and nothing else ever does."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgephi.cli.kept.remove import find_removable, remove
from edgephi.errors import EdgephiError, UsageError
from tests.bundle.tiny import write_tiny_bundle
from tests.cli.conftest import MAIN, Edgephi, is_one_error
from tests.cli.kept.conftest import MODEL, write_download
from tests.cli.terminal import CTRL_C, Terminal
from tests.store.conftest import install
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture
def bundle(home: Path) -> Path:
    """A bundle in the working folder."""
    write_tiny_bundle(home / "bundle")
    return home / "bundle"


def contents(folder: Path) -> list[str]:
    """All that is in a folder, links as such."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def names(folder: Path) -> list[str]:
    """The names of what is in a folder."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.usefixtures("bundle")
class TestRemoval:
    def test_a_bundle_goes_with_all_its_files(self, edgephi: Edgephi, home: Path, bundle: Path) -> None:
        (bundle / "bundle.dsse.json").write_text("{}")
        done = edgephi("rm", "--yes", "bundle")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("removed bundle, ")
        assert contents(home) == []

    def test_several_go_at_once_and_json_says_which(self, edgephi: Edgephi, home: Path) -> None:
        write_download(home)
        (home / ".cut.pull").mkdir()
        done = edgephi("rm", "--yes", "--json", "bundle", MODEL, ".cut.pull", "bundle")
        removed = json.loads(done.stdout)["removed"]
        assert [each["name"] for each in removed] == ["bundle", MODEL, ".cut.pull"]
        assert [path for path in home.rglob("*") if path.is_file()] == []

    def test_a_download_goes_with_its_locks_and_no_other(self, home: Path) -> None:
        write_download(home)
        other = write_download(home, "owner/other", b"other")
        locks = other.parent / ".locks"
        (locks / "models--owner--model").mkdir(parents=True)
        (locks / "models--owner--other").mkdir()
        remove(find_removable(MODEL))
        assert names(other.parent) == [".locks", other.name]
        assert names(locks) == [other.name]

    @pytest.mark.parametrize("name", [".", "../bundle", "./model/.."])
    def test_a_bundle_is_found_however_it_is_named(
        self, home: Path, bundle: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(bundle)
        remove(find_removable(name))
        assert contents(home) == []

    def test_a_damaged_bundle_can_be_removed(self, home: Path, bundle: Path) -> None:
        next(path for path in (bundle / "model").iterdir()).unlink()
        remove(find_removable("bundle"))
        assert contents(home) == []

    def test_a_bundle_goes_when_an_older_removal_was_cut(self, home: Path) -> None:
        (home / ".bundle.partial").mkdir()
        remove(find_removable("bundle"))
        assert contents(home) == []


class TestRefusal:
    def refuse(self, name: str, home: Path) -> str:
        before = contents(home)
        with pytest.raises(EdgephiError) as error:
            remove(find_removable(name))
        assert contents(home) == before
        return error.value.message

    def test_a_store_and_what_is_in_it(self, home: Path, demo_bundle: Path) -> None:
        install(demo_bundle, home / "store")
        (generation,) = (home / "store/gens").iterdir()
        assert "found a store" in self.refuse("store", home)
        assert "found a symbolic link" in self.refuse("store/current", home)
        assert "found a part of the store" in self.refuse(str(generation), home)
        assert "found a part of the store" in self.refuse(f"{generation}/model/..", home)
        (home / "way").symlink_to("store/gens")
        assert "found a part of the store" in self.refuse(f"way/{generation.name}", home)

    def test_a_store_that_a_bundle_was_flashed_into_loses_nothing(
        self, home: Path, demo_bundle: Path
    ) -> None:
        shutil.copytree(demo_bundle, home / "bundle")
        install(home / "bundle", home / "store")
        before = {path: path.read_bytes() for path in (home / "store").rglob("*") if path.is_file()}
        remove(find_removable("bundle"))
        assert before == {path: path.read_bytes() for path in (home / "store").rglob("*") if path.is_file()}

    def test_a_link(self, home: Path) -> None:
        write_tiny_bundle(home / "bundle")
        (home / "link").symlink_to("bundle")
        assert "found a symbolic link to bundle" in self.refuse("link", home)
        assert "found a symbolic link to bundle" in self.refuse("link/", home)

    def test_a_bundle_with_something_of_somebodys_in_it(self, home: Path, bundle: Path) -> None:
        precious = home / "precious"
        precious.mkdir()
        (precious / "file").write_text("mine")
        (bundle / "notes.txt").write_text("mine")
        assert "notes.txt: expected only the files of the bundle" in self.refuse("bundle", home)
        (bundle / "notes.txt").unlink()
        (bundle / "model" / "linked").symlink_to(precious)
        assert "linked: expected only the files of the bundle" in self.refuse("bundle", home)

    def test_a_link_in_place_of_a_file_takes_nothing_with_it(self, home: Path, bundle: Path) -> None:
        file = next(path for path in (bundle / "model").iterdir())
        shutil.move(file, home / "elsewhere")
        file.symlink_to(home / "elsewhere")
        remove(find_removable("bundle"))
        assert contents(home) == ["elsewhere"]

    def test_a_checkpoint_of_ones_own_and_other_folders(self, home: Path) -> None:
        write_tiny_checkpoint(home / "own")
        (home / "folder").mkdir()
        (home / "file").write_text("")
        assert "a checkpoint of your own" in self.refuse("own", home)
        assert "found a folder that is none" in self.refuse("folder", home)
        assert "found a file" in self.refuse("file", home)
        assert "found neither" in self.refuse("owner/unknown", home)
        assert "found neither" in self.refuse("nowhere", home)

    def test_a_bundle_whose_manifest_cannot_be_read(self, home: Path, bundle: Path) -> None:
        (bundle / "bundle.json").write_text("{")
        self.refuse("bundle", home)

    def test_a_download_that_is_a_link(self, home: Path) -> None:
        folder = write_download(home)
        folder.rename(home / "moved")
        folder.symlink_to(home / "moved")
        assert "found neither" in self.refuse(MODEL, home)

    def test_what_could_be_two_things(self, home: Path) -> None:
        write_download(home)
        write_tiny_bundle(home / MODEL)
        assert "expected one thing" in self.refuse(MODEL, home)
        remove(find_removable(f"./{MODEL}"))
        assert not (home / MODEL).exists()
        assert find_removable(MODEL).kind == "download"

    @pytest.mark.parametrize("kept", ["bundle", MODEL])
    def test_what_a_process_uses(self, home: Path, bundle: Path, kept: str) -> None:
        download = write_download(home)
        file = bundle / "bundle.json" if kept == "bundle" else next((download / "blobs").iterdir())
        with file.open() as opened, subprocess.Popen(["sleep", "60"], stdin=opened) as user:
            try:
                assert f"found process {user.pid} " in self.refuse(kept, home)
            finally:
                user.kill()
        remove(find_removable(kept))

    def test_what_is_being_built(self, home: Path) -> None:
        (home / ".new.partial").mkdir()
        code = "import sys, time; from pathlib import Path; from edgephi.bundle.unfinished import Building\n"
        code += "with Building(Path('new')): print(flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=home) as builder:
            assert builder.stdout is not None
            builder.stdout.readline()
            assert "is building this bundle right now" in self.refuse(".new.partial", home)
            builder.communicate()
        remove(find_removable(".new.partial"))
        assert contents(home) == []


class TestAsking:
    def test_without_a_terminal_nothing_is_removed(self, edgephi: Edgephi, bundle: Path) -> None:
        assert is_one_error(edgephi("rm", "bundle"), UsageError.exit_code)
        assert bundle.is_dir()

    @pytest.mark.parametrize(("answer", "goes"), [("y\r", True), ("n\r", False), ("\r", False)])
    def test_on_a_terminal_it_asks(self, bundle: Path, answer: str, *, goes: bool) -> None:
        with Terminal("rm", "bundle", environment={}) as terminal:
            terminal.wait_for("bundle: bundle, ")
            terminal.wait_for("Remove it? [y/N]: ")
            terminal.type(answer)
            assert terminal.exit_code() == 0
        assert bundle.exists() != goes

    def test_ctrl_c_at_the_question_removes_nothing(self, bundle: Path) -> None:
        with Terminal("rm", "bundle", environment={}) as terminal:
            terminal.wait_for("Remove it? [y/N]: ")
            terminal.type(CTRL_C)
            assert terminal.exit_code() == 130
        assert bundle.is_dir()

    def test_one_name_that_is_wrong_removes_none(self, edgephi: Edgephi, bundle: Path) -> None:
        assert is_one_error(edgephi("rm", "--yes", "bundle", "nowhere"), UsageError.exit_code)
        assert bundle.is_dir()


# Waits behind the first file, so that Ctrl-C comes in the middle.
SLOWLY = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
unlink = os.unlink
def slowly(*arguments, **options):
    os.unlink = unlink
    unlink(*arguments, **options)
    print(flush=True)
    time.sleep(60)
os.unlink = slowly
"""


@pytest.mark.parametrize("kept", ["bundle", MODEL])
def test_a_removal_that_was_cut_leaves_no_half_of_anything_and_goes_on(
    home: Path, bundle: Path, kept: str
) -> None:
    download = write_download(home)
    command = [sys.executable, "-c", SLOWLY + MAIN, "rm", "--yes", kept]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "what is left lies in " in told
    if kept == "bundle":
        assert not bundle.exists()
        assert (home / ".bundle.partial").is_dir()
        remove(find_removable(".bundle.partial"))
        assert names(home) == [".cache"]
    else:
        assert not (download / "refs" / "main").exists()
        remove(find_removable(kept))
        assert not download.exists()
