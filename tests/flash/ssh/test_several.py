"""Several boxes at once: what is asked of each, and what is said of all."""

import json
import re
import shlex
from pathlib import Path

import pytest

from edgephi.store.disk.layout import Layout
from tests.flash.ssh.sshd import Sshd, free_port
from tests.flash.ssh.test_ssh import active, edgephi
from tests.store.bundles import digest_of, flip_bit, remade


@pytest.fixture
def roots(root: Path) -> list[Path]:
    """The folders of two stores on the box."""
    return [root, root.with_name("second")]


@pytest.fixture
def there(box: Sshd, roots: list[Path]) -> list[str]:
    """Their destinations."""
    return [box.destination(each) for each in roots]


@pytest.fixture
def away(box: Sshd) -> list[str]:
    """Two boxes where nobody answers, for the same reason."""
    return [f"ssh://127.0.0.1:{free_port()}/srv/{name}" for name in ("a", "b")]


@pytest.fixture
def flashed(box: Sshd, demo_bundle: Path, there: list[str]) -> list[str]:
    """The destinations, with the demo in both."""
    done = edgephi(box, "flash", demo_bundle, *there)
    assert done.returncode == 0, done.stderr
    return there


def table(text: str) -> list[list[str]]:
    """The cells of a table's lines below its header: columns are two spaces apart."""
    return [re.split(r" {2,}", line) for line in text.splitlines()[1:]]


def test_a_check_is_exact_and_writes_nothing(
    box: Sshd, demo_bundle: Path, large: Path, flashed: list[str], roots: list[Path], tmp_path: Path
) -> None:
    before = sorted(roots[0].rglob("*"))
    said = json.loads(edgephi(box, "flash", large, flashed[0], "--check", "--json").stdout)
    assert sorted(roots[0].rglob("*")) == before
    assert (said["check"], said["changed"], said["active"]) == (True, True, digest_of(demo_bundle))
    done = json.loads(edgephi(box, "flash", large, flashed[0], "--json").stdout)
    assert (said["sent_bytes"], said["saved_bytes"]) == (done["sent_bytes"], done["saved_bytes"])
    assert done["changed"] and done["answer"].startswith("{")
    again = json.loads(edgephi(box, "flash", large, *flashed, "--check", "--json").stdout)["boxes"]
    assert [each["changed"] for each in again] == [False, True]
    new = edgephi(box, "flash", large, box.destination(roots[0].with_name("third")), "--check")
    assert new.returncode == 0 and "nothing was written" in new.stdout
    assert not roots[0].with_name("third").exists()


def test_a_check_refuses_what_the_box_would_refuse(
    box: Sshd, demo_bundle: Path, large: Path, there: list[str]
) -> None:
    assert edgephi(box, "flash", large, there[0]).returncode == 0
    refused = [edgephi(box, "flash", demo_bundle, there[0], *more) for more in ((), ("--check",))]
    assert [each.returncode for each in refused] == [4, 4]
    assert refused[0].stderr.splitlines()[-2:] == refused[1].stderr.splitlines()[-2:]
    assert edgephi(box, "flash", demo_bundle, there[0], "--check", "--allow-downgrade").returncode == 0


def test_status_has_a_line_for_each_and_says_an_error_once(
    box: Sshd, demo_bundle: Path, flashed: list[str], away: list[str]
) -> None:
    done = edgephi(box, "status", *flashed, *away)
    assert done.returncode == 6
    lines = table(done.stdout)
    digest = digest_of(demo_bundle)[:12]
    assert [line[:5] for line in lines[:2]] == [[each, "ok", "demo-cpu", "1", digest] for each in flashed]
    assert [line[1] for line in lines[2:4]] == ["failed", "failed"]
    assert done.stdout.count("expected a connection, found connection refused") == 1
    assert done.stdout.count("hint: ") == 1
    assert "Traceback" not in done.stderr


def test_the_command_for_those_that_failed_does_them_and_no_other(
    box: Sshd, flashed: list[str], away: list[str]
) -> None:
    done = edgephi(box, "gc", *flashed, *away, "--unfinished", "--parallel", 1)
    (command,) = re.findall(r"run again for the 2 that failed: `(.*)`", done.stdout)
    words = shlex.split(command)
    assert words[-6:] == ["gc", *away, "--unfinished", "--parallel", "1"]
    again = edgephi(box, *words[words.index("gc") :], "--json")
    assert [each["destination"] for each in json.loads(again.stdout)["boxes"]] == away


def test_damage_on_one_of_several_is_named_with_what_mends_it(
    box: Sshd, demo_bundle: Path, flashed: list[str], roots: list[Path]
) -> None:
    path = next(each for each in Layout(roots[1]).objects.iterdir() if each.stat().st_size > 1 << 20)
    path.chmod(0o644)
    flip_bit(path, 1000)
    done = edgephi(box, "status", "--scrub", *flashed)
    assert done.returncode == 4
    assert [line[1] for line in table(done.stdout)] == ["ok", "damaged"]
    (command,) = re.findall(r"hint: .*`(.*)`", done.stderr)
    words = shlex.split(command)
    assert words[-2:] == ["BUNDLE", flashed[1]]
    assert edgephi(box, "flash", demo_bundle, words[-1]).returncode == 0
    assert edgephi(box, "status", "--scrub", *flashed).returncode == 0


def test_rollback_and_gc_of_several(
    box: Sshd, demo_bundle: Path, large: Path, flashed: list[str], roots: list[Path]
) -> None:
    assert edgephi(box, "flash", large, *flashed).returncode == 0
    assert [active(root) for root in roots] == [digest_of(large)] * 2
    done = edgephi(box, "rollback", *flashed, "--json")
    assert done.returncode == 0, done.stderr
    boxes = json.loads(done.stdout)["boxes"]
    assert [(each["digest"], each["left"]) for each in boxes] == [
        (digest_of(demo_bundle), digest_of(large))
    ] * 2
    assert all(each["changed"] and each["answer"].startswith("{") for each in boxes)
    assert [active(root) for root in roots] == [digest_of(demo_bundle)] * 2
    assert [line[1] for line in table(edgephi(box, "gc", *flashed).stdout)] == ["nothing to remove"] * 2


def test_gc_removes_from_each_what_it_does_not_need(
    box: Sshd, demo_bundle: Path, large: Path, flashed: list[str], roots: list[Path], tmp_path: Path
) -> None:
    third = remade(large, tmp_path / "third", {"model/notes.txt": b"new"}, sequence=3)
    for bundle in (large, third):
        assert edgephi(box, "flash", bundle, flashed[0]).returncode == 0
    tried = json.loads(edgephi(box, "gc", *flashed, "--dry-run", "--json").stdout)["boxes"]
    assert [(each["generations"], each["changed"]) for each in tried] == [
        ([digest_of(demo_bundle)], False),
        ([], False),
    ]
    done = json.loads(edgephi(box, "gc", *flashed, "--json").stdout)["boxes"]
    assert [each["changed"] for each in done] == [True, False]


def test_keys_of_several(box: Sshd, there: list[str], tmp_path: Path) -> None:
    assert edgephi(box, "keygen", tmp_path / "maker").returncode == 0
    added = edgephi(box, "trust", "add", *there, tmp_path / "maker.pub")
    assert added.returncode == 0, added.stderr
    assert [line[1:3] for line in table(added.stdout)] == [["trusts", "maker"]] * 2
    listed = json.loads(edgephi(box, "trust", "list", *there, "--json").stdout)["boxes"]
    assert [[key["name"] for key in each["keys"]] for each in listed] == [["maker"], ["maker"]]
    assert edgephi(box, "trust", "remove", *there).returncode == 2
    assert edgephi(box, "trust", "remove", *there, "maker").returncode == 6  # it is the last one
    assert edgephi(box, "trust", "remove", *there, "maker", "--last").returncode == 0
    assert [line[1] for line in table(edgephi(box, "trust", "list", *there).stdout)] == ["none", "none"]
    assert edgephi(box, "trust", "remove", *there, "--last", "--json").returncode == 0


def test_folders_and_boxes_may_be_asked_together(
    box: Sshd, demo_bundle: Path, flashed: list[str], tmp_path: Path
) -> None:
    here = tmp_path / "here"
    assert edgephi(box, "flash", demo_bundle, here).returncode == 0
    done = edgephi(box, "status", flashed[0], here, tmp_path / "none", "--json")
    boxes = json.loads(done.stdout)["boxes"]
    assert [each["destination"] for each in boxes] == [flashed[0], str(here), str(tmp_path / "none")]
    assert [each["error"] is None for each in boxes] == [True, True, False]
    assert edgephi(box, "status", here, here).returncode == 2


class TestABoxesFile:
    @pytest.fixture
    def file(self, box: Sshd, roots: list[Path], away: list[str], tmp_path: Path) -> Path:
        """Two stores of one box that only the ssh configuration knows how to reach, and two that are off."""
        (box.home / ".ssh" / "config").write_text(
            f"Host shelf\n    HostName 127.0.0.1\n    Port {box.port}\n"
        )
        path = tmp_path / "boxes.toml"
        path.write_text(
            f'[boxes]\none = "ssh://shelf{roots[0]}"\ntwo = "ssh://shelf{roots[1]}"\n'
            f'off = "{away[0]}"\ngone = "{away[1]}"\n'
            '[groups]\nshelf = ["one", "two"]\nlate = ["gone", "off"]\n'
        )
        return path

    def test_names_stand_for_boxes_in_every_command(
        self, box: Sshd, demo_bundle: Path, large: Path, file: Path, roots: list[Path], tmp_path: Path
    ) -> None:
        given = ("--boxes", file, "--json")
        assert edgephi(box, "flash", demo_bundle, "shelf", *given).returncode == 0
        done = edgephi(box, "flash", large, "shelf", *given)
        assert done.returncode == 0, done.stderr
        assert [active(root) for root in roots] == [digest_of(large)] * 2
        boxes = json.loads(done.stdout)["boxes"]
        assert [each["box"] for each in boxes] == ["one", "two"]
        assert [each["destination"] for each in boxes] == [f"ssh://shelf{root}" for root in roots]
        assert edgephi(box, "rollback", "two", *given).returncode == 0
        assert [active(root) for root in roots] == [digest_of(large), digest_of(demo_bundle)]
        assert edgephi(box, "keygen", tmp_path / "maker").returncode == 0
        assert edgephi(box, "trust", "add", "shelf", tmp_path / "maker.pub", *given).returncode == 0
        for command in (("status",), ("gc",), ("trust", "list")):
            done = edgephi(box, *command, "shelf", *given)
            assert [each["box"] for each in json.loads(done.stdout)["boxes"]] == ["one", "two"]
        assert (
            edgephi(box, "trust", "remove", "all", "maker", "--last", *given).returncode == 6
        )  # two are off
        assert json.loads(edgephi(box, "trust", "list", "one", *given).stdout) == []

    def test_those_that_failed_are_told_by_their_names(
        self, box: Sshd, demo_bundle: Path, file: Path
    ) -> None:
        done = edgephi(box, "flash", demo_bundle, "all", "--boxes", file, "--limit-rate", "100MB")
        assert done.returncode == 6
        assert [line[:2] for line in table(done.stdout)[:4]] == [
            ["one", "active"],
            ["two", "active"],
            ["off", "failed"],
            ["gone", "failed"],
        ]
        (command,) = re.findall(r"run again for the 2 that failed: `(.*)`", done.stdout)
        words = shlex.split(command)
        assert words[words.index("flash") :][2:4] == ["off", "gone"]
        again = edgephi(box, *words[words.index("flash") :], "--json")
        assert [each["box"] for each in json.loads(again.stdout)["boxes"]] == ["off", "gone"]

    def test_what_mends_a_box_works_without_the_file(
        self, box: Sshd, demo_bundle: Path, large: Path, file: Path, roots: list[Path]
    ) -> None:
        assert edgephi(box, "flash", demo_bundle, "one", "--boxes", file).returncode == 0
        done = edgephi(box, "flash", large, "one", "--boxes", file)
        (command,) = re.findall(r"`(.*)` goes back to it", done.stdout)
        words = shlex.split(command)
        assert edgephi(box, *words[words.index("rollback") :]).returncode == 0
        assert active(roots[0]) == digest_of(demo_bundle)
