"""`edgephi build --wheels`: the wheels of a bundle, and builds that cannot have them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from edgephi.build.wheels.own_wheel import write_own_wheel
from edgephi.build.wheels.pip import run_pip
from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import Manifest, decode_manifest, encode_manifest, read_manifest
from edgephi.cli.show.wheels import wheels_command
from edgephi.errors import BadBundleError
from tests.build.conftest import names, wait_until
from tests.build.test_build import contents, sha256
from tests.build.test_faults import ended, is_error
from tests.build.wheels.wheels import only_from, only_from_index, write_wheel
from tests.bundle.tiny import tiny_manifest
from tests.cli.conftest import MAIN, is_one_error

PLATFORM = "linux-aarch64-cp311"
NATIVE = "cp311-cp311-manylinux_2_28_aarch64"
Build = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An edgephi that is installed from its wheel, as a user's: no source has to be built first."""
    folder = tmp_path_factory.mktemp("edgephi")
    own = write_own_wheel(folder)
    arguments = ["install", "--no-deps", "--no-index", "--target", str(folder / "installed"), str(own)]
    run_pip(arguments, scratch=folder, where="test")
    return folder / "installed"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that pip finds: stand-ins for what `cpu` and `trust` need, of the right names and versions."""
    only_from(monkeypatch, tmp_path / "index")
    write_wheel(tmp_path / "index", "click", "8.4.2")
    write_wheel(tmp_path / "index", "ecdsa", "0.19.0", requires=["six"])
    write_wheel(tmp_path / "index", "six", "1.16.0")
    write_wheel(tmp_path / "index", "jinja2", "3.1.6")
    write_wheel(tmp_path / "index", "tokenizers", "0.22.1", tag="cp39-abi3-manylinux_2_17_aarch64")
    write_wheel(tmp_path / "index", "psutil", "7.0", tag="cp36-abi3-manylinux2014_aarch64", size=70_000)
    write_wheel(tmp_path / "index", "onnxruntime", "1.32.0", requires=["click"], tag=NATIVE, size=50_000)
    write_wheel(tmp_path / "index", "onnxruntime-genai", "0.18.0", tag=NATIVE)
    return tmp_path / "index"


def command(installed: Path, *arguments: object) -> tuple[list[str], dict[str, str]]:
    """How to call the installed edgephi: the words, and the environment."""
    words = [sys.executable, "-P", "-c", MAIN, *map(str, arguments)]
    return words, {**os.environ, "PYTHONPATH": str(installed)}


@pytest.fixture
def build(installed: Path, work: Path) -> Build:
    """Build the demo into `work` / "b", not measured, with `--wheels` for aarch64."""

    def call(*arguments: object, target: str = "cpu") -> subprocess.CompletedProcess[str]:
        options = arguments or ("--wheels", PLATFORM, "--wheels-for", "run", "-o", work / "b")
        words, environment = command(installed, "build", "demo", "-t", target, "--verify", "off", *options)
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    return call


def test_every_wheel_is_a_file_of_the_manifest(build: Build, index: Path, work: Path) -> None:
    done = build()
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(work / "b")
    check_files(work / "b", manifest)
    wheels = {entry.path: entry for entry in manifest.files if entry.path.startswith("wheels/")}
    assert [Path(path).name.split("-")[0] for path in sorted(wheels)] == [
        "click",
        "ecdsa",
        "edgephi",
        "jinja2",
        "onnxruntime",
        "onnxruntime_genai",
        "psutil",
        "requirements.txt",
        "six",
        "tokenizers",
    ]
    pins = (work / "b" / manifest.wheels[0].requirements).read_text()
    for path, entry in wheels.items():
        assert path.endswith("requirements.txt") or f"--hash=sha256:{entry.sha256}" in pins
    assert manifest.requires.disk_bytes == sum(entry.size for entry in manifest.files)
    assert manifest.wheels[0].installed_bytes > 120_000
    assert manifest.wheels[0].extras == ("cpu", "trust")
    assert f"--wheels {PLATFORM} --wheels-for run" in manifest.provenance.command


def test_the_model_is_the_same_with_and_without(build: Build, index: Path, work: Path) -> None:
    assert build().returncode == 0
    assert build("-o", work / "plain").returncode == 0
    with_wheels, without = read_manifest(work / "b"), read_manifest(work / "plain")
    assert (with_wheels.quant, with_wheels.limits) == (without.quant, without.limits)
    assert with_wheels.requires.memory_bytes == without.requires.memory_bytes
    assert set(without.files) < set(with_wheels.files)
    assert without.wheels == ()


def test_the_same_inputs_give_the_same_bytes(
    build: Build, index: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1750000000")
    for name in ("one", "two"):
        done = build("--wheels", PLATFORM, "--wheels-for", "run", "-o", work / name)
        assert done.returncode == 0, done.stderr
    assert contents(work / "one") == contents(work / "two")


def test_says_how_to_install(build: Build, index: Path, work: Path, installed: Path) -> None:
    done = build()
    manifest = read_manifest(work / "b")
    install = wheels_command(work / "b", manifest.wheels[0])
    assert install in done.stdout.splitlines()
    words, environment = command(installed, "inspect", work / "b")
    shown = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    assert install in shown.splitlines()
    assert all(len(line) <= 80 for line in shown.splitlines() if line != install)


def test_the_command_survives_odd_folders() -> None:
    manifest = with_wheelhouse()
    assert wheels_command(Path("my box; rm -r x"), manifest.wheels[0]) == (
        "python3 -m venv venv && venv/bin/pip install "
        f"-r 'my box; rm -r x/wheels/{PLATFORM}/requirements.txt'"
    )


def test_a_wheel_that_was_changed_on_its_way(
    build: Build, index: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both refuse it: edgephi by the manifest, pip by the requirements."""
    assert build().returncode == 0
    monkeypatch.delenv("PIP_FIND_LINKS")  # there, pip would find the right one
    manifest = read_manifest(work / "b")
    write_wheel(work / "b" / manifest.wheels[0].folder, "click", "8.4.2", size=11)
    with pytest.raises(BadBundleError, match=r"click-8\.4\.2-py3-none-any\.whl: expected "):
        check_files(work / "b", manifest)
    options = ["--target", tmp_path / "target", "--no-deps", "--only-binary=:all:"]
    choice = ["--platform", "manylinux2014_aarch64", "--platform", "manylinux_2_28_aarch64"]
    choice += ["--python-version", "3.11"]
    requirements = work / "b" / manifest.wheels[0].requirements
    installing = ["install", *map(str, options), *choice, "-r", str(requirements)]
    with pytest.raises(Exception, match="PACKAGES DO NOT MATCH THE HASHES"):
        run_pip(installing, scratch=tmp_path, where="test")


class TestRefusals:
    """One line, the right exit code, and nothing left behind."""

    @pytest.mark.parametrize("name", ["linux-armv7l-cp311", "here", ""])
    def test_a_name_that_is_no_platform(self, build: Build, work: Path, name: str) -> None:
        done = build("--wheels", name, "-o", work / "b")
        assert is_one_error(done, 2)
        assert names(work) == set()

    def test_a_machine_that_the_target_is_not_for(self, build: Build, work: Path) -> None:
        done = build("--wheels", "linux-x86_64-cp311", "-o", work / "b", target="raspberry-pi-5-8gb")
        assert is_one_error(done, 3)
        assert "target raspberry-pi-5-8gb is for aarch64, arm64" in done.stderr
        assert names(work) == set()

    def test_a_package_without_a_wheel(self, build: Build, work: Path, index: Path) -> None:
        (index / f"onnxruntime_genai-0.18.0-{NATIVE}.whl").unlink()
        done = build()
        assert is_error(done, 3)
        assert f"wheels for {PLATFORM}: expected a wheel of onnxruntime-genai" in done.stderr
        assert names(work) == set()

    def test_no_network(self, build: Build, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        only_from_index(monkeypatch, "http://127.0.0.1:9/simple")
        done = build()
        assert is_error(done, 6)
        assert f"wheels for {PLATFORM}: expected to reach the package index" in done.stderr
        assert names(work) == set()

    def test_a_full_disk(self, installed: Path, index: Path, small_disk: Callable[[str], Path]) -> None:
        write_wheel(index, "psutil", "7.0", tag="cp36-abi3-manylinux2014_aarch64", size=9_000_000)
        disk = small_disk("12m")
        options = ("--verify", "off", "--wheels", PLATFORM, "--wheels-for", "run", "-o", disk / "b")
        words, environment = command(installed, "build", "demo", "-t", "cpu", *options)
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert is_error(done, 3), done.stderr
        assert f"wheels for {PLATFORM}: the disk is full" in done.stderr
        assert names(disk) == set()

    def test_ended_while_pip_waits(
        self, installed: Path, work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An index that never answers: the build, pip and all that it wrote are gone."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            only_from_index(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
            options = ("--wheels", PLATFORM, "-o", work / "b")
            words, environment = command(installed, "build", "demo", "-t", "cpu", *options)
            with subprocess.Popen(
                words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as process:
                silent.settimeout(60)
                connection, _ = silent.accept()
                (pip,) = psutil.Process(process.pid).children()
                process.send_signal(signal.SIGTERM)
                done = ended(process)
                connection.close()
        assert (done.returncode, done.stdout) == (143, "")
        assert "Traceback" not in done.stderr
        assert names(work) == set()
        assert not pip.is_running()

    @pytest.mark.usefixtures("index")
    def test_killed_while_pip_waits_leaves_nothing_for_the_next(
        self, installed: Path, build: Build, work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as silent:
            only_from_index(patch, f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
            words, environment = command(
                installed, "build", "demo", "-t", "cpu", "--wheels", PLATFORM, "-o", work / "b"
            )
            with subprocess.Popen(
                words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
            ) as process:
                wait_until(lambda: list(work.glob(".b.partial/*/*.whl")), process)
                silent.settimeout(60)
                connection, _ = silent.accept()
                children = psutil.Process(process.pid).children()
                process.kill()
                connection.close()
            for pip in children:  # its index has gone, so that it would end in a minute
                pip.kill()
        assert build().returncode == 0
        assert names(work) == {"b"}


def with_wheelhouse(**changes: object) -> Manifest:
    """A manifest with a wheelhouse, whose requirements file it lists."""
    text = encode_manifest(tiny_manifest(files={f"wheels/{PLATFORM}/requirements.txt": b"x"})).decode()
    wheels = (
        '"wheels": [{"platform": "%s", "python": "3.11", "glibc": "2.28", "extras": ["cpu"], '
        '"installed_bytes": 5}]'
    )
    return decode_manifest(text.replace('"wheels": []', wheels % PLATFORM).encode())


class TestManifest:
    def test_a_manifest_from_before_there_were_wheels(self) -> None:
        text = encode_manifest(tiny_manifest()).decode()
        before = text.replace(',\n  "wheels": []', "")
        assert before != text
        assert decode_manifest(before.encode()) == tiny_manifest()

    def test_wheels_come_back_as_they_were_written(self) -> None:
        manifest = with_wheelhouse()
        assert manifest.wheels[0].folder == f"wheels/{PLATFORM}"
        assert decode_manifest(encode_manifest(manifest)) == manifest

    def test_a_wheelhouse_without_its_requirements(self) -> None:
        text = encode_manifest(with_wheelhouse()).decode().replace("requirements.txt", "other.txt")
        with pytest.raises(
            BadBundleError, match=f"expected wheels/{PLATFORM}/requirements.txt among the files"
        ):
            decode_manifest(text.encode())


def test_copies_of_the_wheelhouse_are_whole(build: Build, index: Path, work: Path, tmp_path: Path) -> None:
    """Whatever copies a bundle by its manifest copies the wheels too."""
    assert build().returncode == 0
    manifest = read_manifest(work / "b")
    for entry in manifest.files:
        (tmp_path / "copy" / entry.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(work / "b" / entry.path, tmp_path / "copy" / entry.path)
    shutil.copy(work / "b/bundle.json", tmp_path / "copy/bundle.json")
    check_files(tmp_path / "copy", manifest)
    assert sha256(tmp_path / "copy" / manifest.wheels[0].requirements)
