"""`edgephi list`: what is there, with its size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgephi.checkpoint.hub.cache_folder import cache_folder
from edgephi.cli.kept.find import Kept, find_kept
from tests.bundle.tiny import write_tiny_bundle
from tests.cli.conftest import Edgephi, is_one_error
from tests.cli.kept.conftest import MODEL, write_download
from tests.store.conftest import install
from tests.tiny_checkpoint import write_tiny_checkpoint


def found(*folders: Path) -> dict[str, Kept]:
    """What is kept, by its name."""
    return {kept.name: kept for kept in find_kept(folders)}


def test_everything_that_is_kept_is_listed(home: Path, demo_bundle: Path) -> None:
    write_tiny_bundle(home / "bundle")
    write_tiny_bundle(home / "below" / "another")
    write_tiny_checkpoint(home / "own")
    install(demo_bundle, home / "store")
    write_download(home)
    for ending in ("partial", "pull", "calibrating"):
        (home / f".cut.{ending}").mkdir()
    kinds = {name: kept.kind for name, kept in found(Path()).items()}
    assert kinds == {
        ".cut.calibrating": "unfinished",
        ".cut.partial": "unfinished",
        ".cut.pull": "unfinished",
        "below/another": "bundle",
        "bundle": "bundle",
        "own": "checkpoint",
        "store": "store",
        MODEL: "download",
    }


def test_sizes_are_those_of_the_disk(home: Path, demo_bundle: Path) -> None:
    write_tiny_bundle(home / "bundle")
    install(demo_bundle, home / "store")
    write_download(home, data=bytes(123_456))
    for kept in found(Path()).values():
        if kept.kind == "download":
            assert kept.size_bytes == 123_456 + 40  # its refs too; links count for nothing
        else:
            counted = subprocess.run(
                ["find", kept.place, "-type", "f", "-printf", "%i %s\n"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.splitlines()
            assert kept.size_bytes == sum(int(line.split()[1]) for line in set(counted))


def test_what_a_link_leads_to_is_not_listed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = write_tiny_bundle_at(tmp_path_factory.mktemp("elsewhere") / "bundle")
    (home / "link").symlink_to(elsewhere)
    (home / "folder").symlink_to(elsewhere.parent)
    assert found(Path()) == {}


def write_tiny_bundle_at(folder: Path) -> Path:
    write_tiny_bundle(folder)
    return folder


def test_a_bundle_that_cannot_be_read_is_still_listed(home: Path) -> None:
    write_tiny_bundle(home / "bundle")
    (home / "bundle" / "bundle.json").write_text("{")
    assert found(Path())["bundle"].about == "its manifest cannot be read"


def test_json_and_table_say_the_same(edgephi: Edgephi, home: Path) -> None:
    write_tiny_bundle(home / "bundle")
    document = json.loads(edgephi("list", "--json").stdout)
    assert [(each["kind"], each["name"], each["place"]) for each in document] == [
        ("bundle", "bundle", "bundle")
    ]
    lines = edgephi("list").stdout.splitlines()
    assert lines[0].split() == ["name", "kind", "size"]
    assert lines[1].split()[:2] == ["bundle", "bundle"]


def test_a_name_that_steers_the_terminal_is_shown(edgephi: Edgephi, home: Path) -> None:
    write_tiny_bundle(home / "bad\x1b[2Jname")
    shown = edgephi("list").stdout
    assert "\x1b" not in shown
    assert "name" in shown


def test_nothing_is_said_to_be_nothing(edgephi: Edgephi, home: Path) -> None:
    done = edgephi("list")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nothing")
    assert json.loads(edgephi("list", "--json").stdout) == []


def test_a_folder_that_is_none_is_an_error(edgephi: Edgephi, home: Path) -> None:
    assert is_one_error(edgephi("list", "nowhere"), 4)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"HF_HOME": "/somewhere"},
        {"HF_HOME": "~/models"},
        {"HF_HUB_CACHE": "$HOME/cache", "HF_HOME": "/other"},
        {"HUGGINGFACE_HUB_CACHE": "/old"},
        {"XDG_CACHE_HOME": "/cache"},
    ],
)
def test_downloads_are_looked_for_where_the_client_puts_them(
    home: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ask = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    told = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert str(cache_folder()) == told.stdout.strip()


def test_the_clients_own_tools_know_what_is_listed(home: Path) -> None:
    from huggingface_hub import scan_cache_dir

    write_download(home)
    (repository,) = scan_cache_dir(cache_folder()).repos
    assert repository.repo_id == found(Path())[MODEL].name
    assert repository.repo_path == found(Path())[MODEL].place
