"""Environments made from a bundle's wheels: whose code runs on a device, and what becomes of it."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.cli.main import cli
from edgephi.errors import BadBundleError, BadInputError, DoesNotFitError, ProbeFailedError, UsageError
from edgephi.flash.folder import flash_folder
from edgephi.flash.signing.keys import public_half
from edgephi.flash.signing.sign import sign_bundle
from edgephi.store.garbage import collect_garbage
from edgephi.store.install import Outcome
from edgephi.store.preflight import InstallOptions
from edgephi.store.rollback import roll_back
from edgephi.store.status import status
from edgephi.store.trust.change import distrust_key
from tests.store.environments.wheel_bundles import (
    FOLDER,
    PACKAGES,
    RUNTIME,
    as_on_a_bare_device,
    pins,
    runtime_wheel,
    signed,
    trust_only,
    wheel,
    wheel_bundle,
)

RELEASE, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in (1, 2))


@pytest.fixture(autouse=True)
def bare(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has a Python and no engine."""
    as_on_a_bare_device(monkeypatch, tmp_path_factory.mktemp("nothing"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store that trusts the release key."""
    folder = tmp_path / "store"
    trust_only(folder, "release", RELEASE)
    return folder


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """What runs writes here who it is."""
    file = tmp_path / "log"
    file.touch()
    return file


def flash(bundle: Path, root: Path) -> Outcome:
    return flash_folder(bundle, root, InstallOptions())


def ran(log: Path) -> set[str]:
    """The words of those that ran since this was asked last."""
    words = {line.split()[0] for line in log.read_text().splitlines()}
    log.write_text("")
    return words


def environments(root: Path) -> set[str]:
    """The environments that lie in a store, by the names of their folders."""
    return {path.parent.name for path in (root / "envs").glob("*/pyvenv.cfg")}


def answer(root: Path) -> subprocess.CompletedProcess[str]:
    """What the command answers that a user runs on the device."""
    return subprocess.run(
        [root / "envs" / "edgephi", "run", root / "current", "hello"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


class TestWhoseCodeRuns:
    def test_what_a_refused_bundle_brought_never_runs_for_another(
        self, root: Path, tmp_path: Path, log: Path
    ) -> None:
        """Both have the same requirements, which pin the wheels of both."""
        good, evil = runtime_wheel("good", log=log), runtime_wheel("evil", answer="no", log=log)
        both = pins(good, evil)
        refused = signed(wheel_bundle(tmp_path / "evil", {RUNTIME: evil}, requirements=both), STRANGER)
        bundle = signed(wheel_bundle(tmp_path / "good", {RUNTIME: good}, requirements=both), RELEASE)
        trust_only(root, "stranger", STRANGER)
        with pytest.raises(ProbeFailedError):
            flash(refused, root)
        assert ran(log) == {"evil"}
        trust_only(root, "release", RELEASE)
        assert flash(bundle, root).signer == "release"
        assert ran(log) == {"good"}
        assert '"word": "good"' in answer(root).stdout

    def test_wheels_that_the_requirements_do_not_pin_are_refused(
        self, root: Path, tmp_path: Path, log: Path
    ) -> None:
        """pip would not take them either."""
        bundle = wheel_bundle(
            tmp_path / "bundle",
            {RUNTIME: runtime_wheel("evil", log=log)},
            requirements=b"--no-index\nedgephi==9\n",
        )
        with pytest.raises(BadBundleError, match=r"requirements\.txt: expected the sha256 of each wheel"):
            flash(signed(bundle, RELEASE), root)
        assert ran(log) == set()
        assert not environments(root)

    def test_the_environment_of_a_refused_bundle_goes_with_it(self, root: Path, tmp_path: Path) -> None:
        bundle = wheel_bundle(tmp_path / "bundle", {RUNTIME: runtime_wheel("evil", answer="no")})
        with pytest.raises(ProbeFailedError):
            flash(signed(bundle, RELEASE), root)
        assert not environments(root)
        assert not list((root / "gens").iterdir())

    def test_one_that_a_good_bundle_has_stays_when_another_is_refused(
        self, root: Path, tmp_path: Path, log: Path
    ) -> None:
        wheels = {RUNTIME: runtime_wheel("good", log=log)}
        flash(signed(wheel_bundle(tmp_path / "good", wheels), RELEASE), root)
        before = environments(root)
        wheels["more-1-py3-none-any.whl"] = wheel({"sitecustomize.py": "import os; os._exit(9)"})
        with pytest.raises(ProbeFailedError):
            flash(signed(wheel_bundle(tmp_path / "bad", wheels, sequence=2), RELEASE), root)
        assert environments(root) == before
        assert answer(root).returncode == 0

    def test_releases_with_the_same_wheels_share_one(self, root: Path, tmp_path: Path) -> None:
        wheels = {RUNTIME: runtime_wheel("good")}
        for sequence in (1, 2):
            bundle = wheel_bundle(tmp_path / f"release-{sequence}", wheels, sequence=sequence)
            flash(signed(bundle, RELEASE), root)
            assert len(environments(root)) == 1

    def test_none_is_used_again_after_a_change_of_trust(self, root: Path, tmp_path: Path, log: Path) -> None:
        """Whoever's code ran in it may have changed it, and what it says about itself."""
        bundle = wheel_bundle(tmp_path / "bundle", {RUNTIME: runtime_wheel("good", log=log)})
        flash(signed(bundle, RELEASE), root)
        (before,) = {line.split()[1] for line in log.read_text().splitlines()[-1:]}
        trust_only(root, "stranger", STRANGER)
        log.write_text("")
        flash(signed(bundle, STRANGER), root)  # the very same bundle
        assert log.read_text() and before not in log.read_text()
        log.write_text("")
        assert answer(root).returncode == 0
        assert log.read_text() and before not in log.read_text()

    def test_keys_that_change_while_it_is_made_are_asked_for_again(self, root: Path, tmp_path: Path) -> None:
        bundle = signed(wheel_bundle(tmp_path / "bundle", {RUNTIME: runtime_wheel("good")}), RELEASE)
        sign_bundle(bundle, STRANGER)

        @contextlib.contextmanager
        def step(title: str, _size: int) -> Iterator[Callable[[int], None]]:
            if title == "probe":
                (root / "trust" / "stranger.pub").write_bytes(public_half(STRANGER).pem)
                (root / "trust" / "release.pub").unlink()
            yield lambda _units: None

        with pytest.raises(BadInputError, match="the keys were changed meanwhile"):
            flash_folder(bundle, root, InstallOptions(), step=step)
        assert not environments(root)
        assert flash(bundle, root).signer == "stranger"

    def test_one_that_was_changed_is_not_used_again(self, root: Path, tmp_path: Path, log: Path) -> None:
        wheels = {RUNTIME: runtime_wheel("good", log=log)}
        flash(signed(wheel_bundle(tmp_path / "first", wheels), RELEASE), root)
        (environment,) = environments(root)
        with (root / "envs" / environment / PACKAGES / "edgephi" / "__init__.py").open("a") as file:
            file.write(f"open({str(log)!r}, 'a').write('changed\\n')\n")
        ran(log)
        flash(signed(wheel_bundle(tmp_path / "second", wheels, sequence=2), RELEASE), root)
        assert ran(log) == {"good"}
        answer(root)
        assert ran(log) == {"good"}


class TestWhatAWheelWrites:
    @pytest.fixture
    def interpreter(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A stand-in for the system's Python, which environments lead to."""
        file = tmp_path / "system-python"
        file.write_text(f'#!/bin/sh\nexec {sys._base_executable} "$@"\n')  # type: ignore[attr-defined]
        file.chmod(0o755)
        monkeypatch.setattr(sys, "_base_executable", str(file))
        return file

    @pytest.mark.parametrize(
        "name",
        [
            "x-1.data/data/bin/python",
            "x-1.data/data/bin/python3",
            "x-1.data/data/bin/python/below",
            "x-1.data/data/pyvenv.cfg",
            "x-1.data/data/environment.json",
            "x-1.data/data/bin",
            "edgephi",
            "edgephi/__init__.py/below",
        ],
    )
    def test_an_entry_never_writes_through_a_link_or_over_what_is_there(
        self, root: Path, tmp_path: Path, interpreter: Path, name: str
    ) -> None:
        before = interpreter.read_bytes()
        wheels = {RUNTIME: runtime_wheel("good"), "x-1-py3-none-any.whl": wheel({name: "x"})}
        with pytest.raises(BadBundleError, match="expected a wheel, found"):
            flash(signed(wheel_bundle(tmp_path / "bundle", wheels), RELEASE), root)
        assert interpreter.read_bytes() == before
        assert not environments(root)

    def test_what_it_unpacks_to_leaves_the_disk_its_reserve(
        self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever the manifest says of it: the disk has 8 MB more than the reserve, the bomb 64 MB."""
        bomb = wheel({f"bomb/{number}.py": bytes(16 << 20) for number in range(4)})
        wheels = {RUNTIME: runtime_wheel("good"), "bomb-1-py3-none-any.whl": bomb}
        bundle = signed(wheel_bundle(tmp_path / "bundle", wheels, installed_bytes=1000), RELEASE)
        real = os.statvfs

        def small(path: str | Path) -> os.statvfs_result:
            facts = list(real(path))
            facts[:5] = [4096, 4096, 1 << 18, 10_000, 10_000]
            return os.statvfs_result(facts)

        monkeypatch.setattr(os, "statvfs", small)
        with pytest.raises(DoesNotFitError, match="what the wheels hold"):
            flash(bundle, root)
        assert not environments(root)

    @pytest.mark.parametrize(
        "names",
        [
            [f"many/{number}.py" for number in range(3000)],
            ["/".join([f"m{number}", *"abcdefghijklmnopqrstuvwxyz"]) for number in range(100)],
        ],
        ids=["files", "folders"],
    )
    def test_a_thousand_empty_ones_take_room_too(
        self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
    ) -> None:
        many = wheel(dict.fromkeys(names, ""))
        wheels = {RUNTIME: runtime_wheel("good"), "many-1-py3-none-any.whl": many}
        bundle = signed(wheel_bundle(tmp_path / "bundle", wheels), RELEASE)
        real = os.statvfs

        def small(path: str | Path) -> os.statvfs_result:
            facts = list(real(path))
            facts[:5] = [4096, 4096, 1 << 18, 10_000, 10_000]
            return os.statvfs_result(facts)

        monkeypatch.setattr(os, "statvfs", small)
        with pytest.raises(DoesNotFitError, match="what the wheels hold"):
            flash(bundle, root)

    @pytest.mark.parametrize(
        "data",
        [
            wheel({"a" * 300: ""}),
            b"not a zip",
            wheel({"a": b"x" * 5000})[:-200],
            wheel({"a/" * 1500 + "b": ""}),  # deeper than Python can remove
            wheel({"a": bytes(1 << 20)}, method=zipfile.ZIP_BZIP2),  # 1,674 such bytes took 4 GB of memory
            wheel({"a": bytes(1 << 20)}, method=zipfile.ZIP_LZMA),
            wheel({"a.py": "1"}).replace(b"a.py", b"b.py", 1),
        ],
    )
    def test_what_is_no_wheel_is_refused_and_leaves_nothing(
        self, root: Path, tmp_path: Path, data: bytes
    ) -> None:
        wheels = {RUNTIME: runtime_wheel("good"), "x-1-py3-none-any.whl": data}
        with pytest.raises(BadBundleError, match="expected a wheel, found"):
            flash(signed(wheel_bundle(tmp_path / "bundle", wheels), RELEASE), root)
        assert not environments(root)
        assert status(root).generations == ()

    def test_everybody_may_read_it_whatever_the_umask(self, root: Path, tmp_path: Path) -> None:
        before = os.umask(0o077)
        try:
            wheels = {RUNTIME: runtime_wheel("good")}
            flash(signed(wheel_bundle(tmp_path / "bundle", wheels), RELEASE), root)
        finally:
            os.umask(before)
        closed = [
            path
            for path in (root / "envs").rglob("*")
            if not path.is_symlink()
            and "__pycache__" not in path.parts
            and path.stat().st_mode & 0o444 != 0o444
        ]
        assert closed == []


class TestUnsigned:
    def test_wheels_that_nobody_signed_are_refused_before_anything_is_sent(self, tmp_path: Path) -> None:
        bundle = wheel_bundle(tmp_path / "bundle", {RUNTIME: runtime_wheel("good")})
        with pytest.raises(BadBundleError, match="vouch for the wheels") as refused:
            flash(bundle, tmp_path / "store")
        assert "--unsigned-wheels, which runs code that nobody signed" in refused.value.hint
        assert not (tmp_path / "store").exists()

    def test_a_signature_that_the_store_does_not_know_is_none(self, tmp_path: Path) -> None:
        bundle = wheel_bundle(tmp_path / "bundle", {RUNTIME: runtime_wheel("good")})
        with pytest.raises(BadBundleError, match="vouch for the wheels"):
            flash(signed(bundle, STRANGER), tmp_path / "store")

    def test_the_option_takes_them_and_a_signature_makes_another_environment(
        self, tmp_path: Path, log: Path
    ) -> None:
        root = tmp_path / "store"
        bundle = wheel_bundle(tmp_path / "bundle", {RUNTIME: runtime_wheel("good", log=log)})
        flash_folder(bundle, root, InstallOptions(unsigned_wheels=True))
        unsigned = environments(root)
        assert answer(root).returncode == 0
        assert flash(bundle, root).was_current  # once said of a bundle, it holds for that one
        other = wheel_bundle(tmp_path / "other", {RUNTIME: runtime_wheel("other")}, sequence=2)
        with pytest.raises(BadBundleError, match="vouch for the wheels"):
            flash(other, root)
        trust_only(root, "release", RELEASE)
        log.write_text("")
        flash(signed(bundle, RELEASE), root)
        assert answer(root).returncode == 0
        assert log.read_text() and not [
            line for line in log.read_text().split() if unsigned & {Path(line).name}
        ]
        collect_garbage(root)
        assert len(environments(root)) == 1 and not environments(root) & unsigned

    def test_going_back_takes_what_was_taken_when_it_was_flashed(self, tmp_path: Path) -> None:
        root = tmp_path / "store"
        for sequence in (1, 2):
            wheels = {RUNTIME: runtime_wheel(f"word-{sequence}")}
            bundle = wheel_bundle(tmp_path / f"release-{sequence}", wheels, sequence=sequence)
            flash_folder(bundle, root, InstallOptions(unsigned_wheels=True))
        assert roll_back(root).sequence == 1
        assert '"word": "word-1"' in answer(root).stdout

    @pytest.mark.parametrize("where", [["image:x.img"], ["folder", "--elsewhere"]])
    def test_the_option_is_refused_where_nothing_has_to_answer(self, where: list[str]) -> None:
        with pytest.raises(UsageError, match="--unsigned-wheels: expected where the bundle has to answer"):
            cli.main(["flash", "bundle", *where, "--unsigned-wheels"], standalone_mode=False)

    def test_what_a_key_vouched_for_is_not_taken_without_it(self, root: Path, tmp_path: Path) -> None:
        bundle = signed(wheel_bundle(tmp_path / "bundle", {RUNTIME: runtime_wheel("good")}), RELEASE)
        flash(bundle, root)
        distrust_key(root, "release", also_the_last=True)
        with pytest.raises(BadBundleError, match="vouch for the wheels"):
            flash(bundle, root)

    def test_going_back_takes_no_more_than_that(self, tmp_path: Path) -> None:
        root = tmp_path / "store"
        for sequence in (1, 2):
            wheels = {RUNTIME: runtime_wheel(f"word-{sequence}")}
            bundle = wheel_bundle(tmp_path / f"release-{sequence}", wheels, sequence=sequence)
            flash_folder(bundle, root, InstallOptions(prove=False))
        with pytest.raises(BadBundleError, match="vouch for the wheels"):
            roll_back(root)


class TestScrub:
    @pytest.fixture
    def bundle(self, root: Path, tmp_path: Path) -> Path:
        """One that is active, in an environment."""
        wheels = {RUNTIME: runtime_wheel("good"), "data-1-py3-none-any.whl": wheel({"data.bin": bytes(9000)})}
        bundle = signed(wheel_bundle(tmp_path / "bundle", wheels), RELEASE)
        flash(bundle, root)
        assert answer(root).returncode == 0  # Python has written its bytecode by now
        return bundle

    @pytest.mark.parametrize("change", ["flipped", "gone", "cut", "new", "pipe", "link", "record", "all"])
    def test_it_finds_what_has_changed_and_the_same_bundle_mends_it(
        self, bundle: Path, root: Path, change: str
    ) -> None:
        assert status(root, scrub_too=True).damages == ()
        (name,) = environments(root)
        environment = root / "envs" / name
        data = environment / PACKAGES / "data.bin"
        changed = f"{PACKAGES}/data.bin"
        if change == "flipped":
            data.write_bytes(bytes(4000) + b"\1" + bytes(4999))
        elif change == "gone":
            data.unlink()
        elif change == "cut":
            data.write_bytes(b"")
        elif change == "new":
            (environment / PACKAGES / "sitecustomize.py").write_text("")
            changed = f"{PACKAGES}/sitecustomize.py"
        elif change == "pipe":
            data.unlink()
            os.mkfifo(data)
        elif change == "link":
            (environment / "bin" / "python3").unlink()
            (environment / "bin" / "python3").symlink_to("/bin/true")
            changed = "bin/python3"
        elif change == "record":
            text = (environment / "environment.json").read_text()
            (environment / "environment.json").write_text(text.replace("links", "Links"))
            changed = "environment.json"
        else:
            environment.rename(root / "elsewhere")
            (root / "elsewhere").rename(root.parent / "elsewhere")
            changed = "environment.json"
        found = status(root, scrub_too=True)
        assert [each.path for each in found.damages or ()] == [changed]
        assert "its environment" in found.generations[0].problem
        assert "its environment" in status(root).generations[0].problem  # until it is mended
        flash(bundle, root)
        assert status(root, scrub_too=True).damages == ()
        assert status(root).generations[0].problem == ""
        assert answer(root).returncode == 0


class TestAfterAProcessThatDied:
    def test_what_was_on_trial_goes_and_what_was_replaced_comes_back(
        self, root: Path, tmp_path: Path
    ) -> None:
        flash(signed(wheel_bundle(tmp_path / "bundle", {RUNTIME: runtime_wheel("good")}), RELEASE), root)
        (name,) = environments(root)
        trial = root / "envs" / f".tmp-{'0' * 64}"
        trial.mkdir()
        (trial / "pyvenv.cfg").write_text("half")
        (root / "envs" / name).rename(root / "envs" / f".replaced-{name}")
        assert answer(root).returncode == 3
        assert status(root).generations[0].problem == ""
        assert environments(root) == {name}
        assert answer(root).returncode == 0


def test_the_command_of_a_copy_that_followed_links_answers_at_once(root: Path, tmp_path: Path) -> None:
    """On a device without another edgephi nothing else could put the links right."""
    flash(signed(wheel_bundle(tmp_path / "bundle", {RUNTIME: runtime_wheel("good")}), RELEASE), root)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)  # as `cp -rL` does
    assert '"word": "good"' in answer(copy).stdout
    assert status(copy).generations[0].problem == ""
    assert '"word": "good"' in answer(copy).stdout


OLD_SCRIPT = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
for file in "$here"/../current/wheels/*/requirements.txt; do
    python="$here/$(sha256sum < "$file" | cut -c 1-64)/bin/python"
    [ -x "$python" ] && exec "$python" -P -m edgephi.cli "$@"
done
exit 3
"""


class TestOfAnOlderEdgephi:
    @pytest.fixture
    def old(self, root: Path, tmp_path: Path) -> Path:
        """A store as it was left by one that named environments after their requirements."""
        bundle = signed(wheel_bundle(tmp_path / "bundle", {RUNTIME: runtime_wheel("good")}), RELEASE)
        flash(bundle, root)
        (name,) = environments(root)
        requirements = (bundle / FOLDER / "requirements.txt").read_bytes()
        environment = root / "envs" / name
        (environment / "environment.json").unlink()
        environment.rename(root / "envs" / hashlib.sha256(requirements).hexdigest())
        shutil.copytree(root / "envs" / hashlib.sha256(requirements).hexdigest(), root / "envs" / ("f" * 64))
        shutil.rmtree(root / "envs" / "of")
        (root / "envs" / "edgephi").write_text(OLD_SCRIPT)
        return bundle

    @pytest.mark.usefixtures("old")
    def test_its_command_goes_on_working(self, root: Path) -> None:
        assert answer(root).returncode == 0
        status(root)
        assert '"word": "good"' in answer(root).stdout
        assert environments(root) & {"f" * 64} == set()  # of a bundle that was refused

    def test_the_next_flash_makes_its_environment_anew(self, old: Path, root: Path) -> None:
        status(root)
        before = environments(root)
        assert [each.path for each in status(root, scrub_too=True).damages or ()] == ["environment.json"]
        flash(old, root)
        assert '"word": "good"' in answer(root).stdout
        assert status(root, scrub_too=True).damages == ()
        collect_garbage(root)
        assert len(environments(root)) == 1 and not environments(root) & before
