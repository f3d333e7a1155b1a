"""The systemd unit of `edgephi service`, held against systemd itself."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgephi.bundle.image_tokens import ImageFacts
from edgephi.bundle.manifest import Manifest
from edgephi.errors import UsageError
from edgephi.server.engine.process_facts import resident_bytes
from edgephi.server.systemd.unit import PythonHome, UnitOptions, bound_paths, memory_limit, service_unit
from tests.bundle.tiny import tiny_manifest
from tests.cli.conftest import Edgephi, edgephi, is_one_error  # noqa: F401 - a fixture
from tests.property_profile import examples
from tests.server.serving import Server

MANAGERS = [Path("/usr/lib/systemd/systemd"), Path("/lib/systemd/systemd")]
MANAGER = next((path for path in MANAGERS if path.exists()), None)
NOBODY = 65534

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
needs_manager = pytest.mark.skipif(MANAGER is None, reason="systemd is not installed")

OPTIONS = UnitOptions(
    bundle=Path("/srv/bundle"),
    python=PythonHome(Path("/usr/bin/python3"), (Path("/usr"),)),
    host="127.0.0.1",
    port=8080,
    loopback=True,
)
CUDA = dataclasses.replace(tiny_manifest().target, provider="cuda")


def setting(unit: str, key: str) -> list[str]:
    """The values of a setting, in their order."""
    return re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE)


def on(provider: str) -> Manifest:
    manifest = tiny_manifest()
    return dataclasses.replace(manifest, target=dataclasses.replace(manifest.target, provider=provider))


# What systemd makes of it.


@needs_analyze
@pytest.mark.parametrize(
    ("provider", "changes", "threshold"),
    [
        ("cpu", {}, 15),
        ("cpu", {"port": 80, "api_key_file": Path("/etc/key"), "host": "0.0.0.0", "loopback": False}, 20),
        ("cuda", {"groups": ("root",)}, 20),
    ],
    ids=["cpu", "public", "cuda"],
)
def test_systemd_finds_nothing_wrong_and_little_exposed(
    tmp_path: Path, provider: str, changes: dict[str, Any], threshold: int
) -> None:
    file = tmp_path / "edgephi.service"
    file.write_text(service_unit(on(provider), dataclasses.replace(OPTIONS, **changes)))
    verified = subprocess.run(
        ["systemd-analyze", "verify", file], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    exposed = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={threshold}", "--no-pager", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert exposed.returncode == 0, exposed.stdout[-200:]


def as_systemd_reads(units: Sequence[str]) -> list[str]:
    """What a systemd that starts nothing dumps about each unit."""
    # It refuses to be root.
    unprivileged: dict[str, Any] = (
        {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {f"u{i}.service": unit for i, unit in enumerate(units)}
        wants = "".join(f"Wants={file}\n" for file in files)
        files["default.target"] = f"[Unit]\nDefaultDependencies=no\n{wants}"
        for target in ("sysinit", "basic", "shutdown", "network", "network-online"):
            files[f"{target}.target"] = "[Unit]\nDefaultDependencies=no\n"
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
            (folder / file).chmod(0o644)
        folder.chmod(0o755)
        dumped = subprocess.run(
            [str(MANAGER), "--test", "--system", "--log-target=console"],
            env={"SYSTEMD_UNIT_PATH": str(folder), "LANG": "C.UTF-8", "PATH": os.defpath},
            cwd="/",
            capture_output=True,
            check=False,
            timeout=60,
            **unprivileged,
        )
    output = dumped.stdout.decode()
    assert dumped.returncode == 0, dumped.stderr.decode()
    parts = dict(
        re.findall(
            r"^\t-> Unit (\S+):\n(.*?)(?=^\t-> Unit |^-> By jobs|\Z)", output, re.DOTALL | re.MULTILINE
        )
    )
    return [parts[f"u{i}.service"] for i in range(len(units))]


def command_of(dump: str) -> list[str]:
    """The words of ExecStart after the filling in of specifiers, out of the dump's own quotes."""
    (line,) = re.findall(r"^\t\t\tCommand Line: (.*)$", dump, re.MULTILINE)
    controls = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True))

    def unescaped(found: re.Match[str]) -> str:
        return chr(int(found[1], 8)) if len(found[1]) == 3 else controls.get(found[1], found[1])

    words = re.findall(r'"(?:\\.|[^"\\])*"|[^ ]+', line)
    return [re.sub(r"\\([0-7]{3}|.)", unescaped, w[1:-1]) if w.startswith('"') else w for w in words]


def without_variables(word: str) -> str:
    """A word when systemd has filled in variables, of which there must be none; see systemd.service(5)."""
    assert "$" not in word.replace("$$", "")
    return word.replace("$$", "$")


ODD = "\"'\\$%;:{}() \t#é😀aZ09|&*~=@-+!`?"
names = st.text(
    st.one_of(
        st.sampled_from(ODD.replace("\t", "")),
        st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="/"),
    ),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in (".", ".."))
raw_names = names.map(lambda name: f"{name}.key")  # no blank and no backslash at its end
texts = st.text(
    st.one_of(st.sampled_from(ODD + "\n/"), st.characters(codec="utf-8", exclude_characters="\0")),
    max_size=12,
)


@needs_manager
@settings(max_examples=examples(40), suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(names, names, raw_names, texts), min_size=1, max_size=30))
def test_systemd_reads_odd_names_and_texts_as_they_are(cases: list[tuple[str, str, str, str]]) -> None:
    options = [
        dataclasses.replace(
            OPTIONS,
            bundle=Path("/home") / bundle,
            python=PythonHome(Path("/opt") / python / "python", ()),
            api_key_file=Path("/etc") / key,
            system=text,
        )
        for bundle, python, key, text in cases
    ]
    dumps = as_systemd_reads([service_unit(tiny_manifest(), each) for each in options])
    for each, dump in zip(options, dumps, strict=True):
        command = command_of(dump)
        *command, flag, key = command
        assert (flag, key) == ("--api-key-file", "${CREDENTIALS_DIRECTORY}/api-key")
        words = [without_variables(word) for word in command]
        if words[0] == "/bin/sh":
            assert words[1:3] == ["-c", 'exec "$0" "$@"']
            words = words[3:]
        assert words[0] == str(each.python.executable)
        assert words[words.index("serve") + 1] == str(each.bundle)
        assert words[-2:] == ["--system", each.system]
        assert f"\t\tBindReadOnlyPaths: {each.bundle}:{each.bundle}:rbind\n" in dump


@pytest.mark.parametrize("name", ["line\nbreak", "blank ", "backslash\\", "latin\udce9"])
def test_a_file_that_no_unit_can_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        service_unit(tiny_manifest(), dataclasses.replace(OPTIONS, api_key_file=Path("/etc", name)))


# What it says.


def test_what_is_out_of_sight_is_bound_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    inside = [tmp_path / "link", tmp_path / "real" / "model"]
    if not tmp_path.is_relative_to("/tmp"):
        pytest.skip("temporary files are not in /tmp here")
    assert bound_paths([*inside, Path("/srv/bundle")]) == [tmp_path / "link", tmp_path / "real"]


def test_homes_are_closed_unless_something_is_bound_into_them() -> None:
    unit = service_unit(tiny_manifest(), OPTIONS)
    assert (setting(unit, "ProtectHome"), setting(unit, "BindReadOnlyPaths")) == (["yes"], [])
    unit = service_unit(tiny_manifest(), dataclasses.replace(OPTIONS, bundle=Path("/home/ann/phi")))
    assert (setting(unit, "ProtectHome"), setting(unit, "BindReadOnlyPaths")) == (
        ["tmpfs"],
        ["/home/ann/phi"],
    )


def test_a_gpu_stays_in_reach() -> None:
    unit = service_unit(on("cuda"), dataclasses.replace(OPTIONS, groups=("render", "video")))
    assert setting(unit, "SupplementaryGroups") == ["render video"]
    # Each of these would close its device files.
    assert not re.search("^(PrivateDevices|ProtectClock|DeviceAllow|DevicePolicy)=", unit, re.MULTILINE)


def test_no_generation_of_a_store_reports_to_an_engines_maker() -> None:
    """The one that a store goes back to may be of an edgephi that did not switch that off in time."""
    (variables,) = setting(service_unit(tiny_manifest(), OPTIONS), "Environment")
    assert "ORT_DISABLE_TELEMETRY=1" in variables.split()


def test_only_a_low_port_needs_a_capability() -> None:
    low = service_unit(tiny_manifest(), dataclasses.replace(OPTIONS, port=80))
    assert setting(low, "CapabilityBoundingSet") == ["CAP_NET_BIND_SERVICE"]
    assert setting(low, "PrivateUsers") == []
    assert setting(service_unit(tiny_manifest(), OPTIONS), "CapabilityBoundingSet") == [""]


def test_less_context_takes_less_memory() -> None:
    manifest = tiny_manifest()
    full = memory_limit(manifest, context=None, provider="cpu")
    assert full > manifest.requires.memory_bytes
    assert full == memory_limit(manifest, context=manifest.limits.context, provider="cpu")
    assert memory_limit(manifest, context=2, provider="cpu") <= full
    assert memory_limit(manifest, context=None, provider="cuda") > full


def test_images_take_memory_too() -> None:
    """A photograph of 50 million pixels takes 200 MB while it is decoded, and twice that for a moment."""
    reads = tiny_manifest()
    facts = ImageFacts(56, 14, 4, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    sees = dataclasses.replace(reads, model=dataclasses.replace(reads.model, images=facts))
    more = [memory_limit(each, context=None, provider="cpu") for each in (reads, sees)]
    assert more[1] - more[0] > 500_000_000


# The command.


def test_a_public_address_needs_a_key(edgephi: Edgephi, demo_bundle: Path, tmp_path: Path) -> None:  # noqa: F811
    assert is_one_error(edgephi("service", demo_bundle, "--host", "0.0.0.0"), 2)
    key = tmp_path / "key"
    assert is_one_error(edgephi("service", demo_bundle, "--host", "::", "--api-key-file", key), 4)
    key.write_text("secret")
    key.chmod(0o644)
    done = edgephi("service", demo_bundle, "--host", "::", "--api-key-file", key)
    assert is_one_error(done, 4) and "found mode 0644" in done.stderr
    key.chmod(0o600)
    done = edgephi("service", demo_bundle, "--host", "::", "--api-key-file", key)
    assert done.returncode == 0
    assert "secret" not in done.stdout
    assert setting(done.stdout, "LoadCredential") == [f"api-key:{key}"]
    assert setting(done.stdout, "IPAddressDeny") == []
    assert setting(done.stdout, "RestrictAddressFamilies") == ["AF_UNIX AF_INET6"]


def test_says_what_to_do_next(edgephi: Edgephi, demo_bundle: Path, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "unit"
    done = edgephi("service", demo_bundle, "--name", "phi", "--output", file)
    assert (done.returncode, done.stdout) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["unit"]
    assert done.stderr.splitlines()[-2:] == [
        f"sudo install -D -m 644 {file} /etc/systemd/system/phi.service",
        "sudo systemctl daemon-reload && sudo systemctl enable --now phi.service",
    ]
    assert file.read_text() == edgephi("service", demo_bundle, "--name", "phi").stdout
    assert is_one_error(edgephi("service", demo_bundle, "--name", "a/b"), 2)
    assert is_one_error(edgephi("service", demo_bundle, "--output", tmp_path / "none" / "unit"), 4)


def test_an_adapter_is_one_of_the_bundles_or_a_folder_that_is_bound(
    edgephi: Edgephi,  # noqa: F811
    demo_bundle: Path,
    demo_artifact: Path,
    tmp_path: Path,
) -> None:
    done = edgephi("service", demo_bundle, "--adapter", demo_artifact.name, cwd=demo_artifact.parent)
    assert done.returncode == 0, done.stderr
    (words,) = setting(done.stdout, "ExecStart")
    assert f" --adapter {demo_artifact}" in words  # whole: it is another folder that the service starts in
    bound = setting(done.stdout, "BindReadOnlyPaths")
    assert {str(demo_bundle), str(demo_artifact)} <= set(bound)
    whole = shutil.copytree(demo_bundle, tmp_path / "whole")
    shutil.copytree(demo_artifact, whole, dirs_exist_ok=True)
    done = edgephi("service", whole, "--adapter", "opposite")
    (words,) = setting(done.stdout, "ExecStart")
    assert words.endswith(" --adapter opposite") or " --adapter opposite " in words
    assert is_one_error(edgephi("service", whole, "--adapter", "milk"), 4)


def test_ollamas_api_is_spoken_where_that_is_asked_for(edgephi: Edgephi, demo_bundle: Path) -> None:  # noqa: F811
    def start(*asked: object) -> str:
        unit = edgephi("service", demo_bundle, *asked).stdout
        return next(line for line in unit.splitlines() if line.startswith("ExecStart="))

    assert "--ollama" not in start()
    assert start("--ollama", "--port", 11434).endswith(" --ollama")


def test_an_adapters_file_that_others_cannot_read_is_named(
    edgephi: Edgephi,  # noqa: F811
    demo_bundle: Path,
    demo_artifact: Path,
    tmp_path: Path,
) -> None:
    closed = shutil.copytree(demo_artifact, tmp_path / "artifact")
    file = closed / "model/adapters/opposite.onnx_adapter"
    file.chmod(0o600)
    assert f"cannot read {file}:" in edgephi("service", demo_bundle, "--adapter", closed).stderr


def test_the_environment_of_a_store_may_go(demo_bundle: Path, tmp_path: Path) -> None:
    """It was made from one release's wheels; the store's own command runs whatever is active."""
    programs = tmp_path / "store" / "envs" / "0123" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    (programs.parent / "pyvenv.cfg").write_text(f"home = {Path(sys.base_prefix) / 'bin'}\n")
    command = tmp_path / "store" / "envs" / "edgephi"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    done = subprocess.run(
        [programs / "python", "-P", "-m", "edgephi.cli", "service", demo_bundle],
        env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    (words,) = setting(done.stdout, "ExecStart")
    assert words.startswith(f"{command} serve {demo_bundle} ")
    assert "0123" not in done.stdout


def test_what_others_cannot_read_is_named(edgephi: Edgephi, demo_bundle: Path, tmp_path: Path) -> None:  # noqa: F811
    closed = tmp_path / "closed"
    shutil.copytree(demo_bundle, closed)
    assert str(closed) not in edgephi("service", closed).stderr
    closed.chmod(0o700)
    assert f"cannot read {closed}:" in edgephi("service", closed).stderr


def test_the_service_starts_says_that_it_is_ready_and_ends(
    edgephi: Edgephi,  # noqa: F811
    demo_bundle: Path,
    tmp_path: Path,
) -> None:
    """The command line of the unit, as a plain process with what systemd would give it."""
    key, system = tmp_path / "my key", tmp_path / "system message"
    key.write_text("secret")
    key.chmod(0o600)
    system.write_text("You switch lights.")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    unit = edgephi(
        "service",
        demo_bundle,
        "--port",
        port,
        "--api-key-file",
        key,
        "--system",
        f"@{system}",
        "--context",
        512,
    ).stdout
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for entry in setting(unit, "LoadCredential"):
        name, _, file = entry.partition(":")
        (credentials / name).write_bytes(Path(file).read_bytes())
        (credentials / name).chmod(0o440)  # as systemd does
    (command,) = setting(unit, "ExecStart")
    (watchdog,) = setting(unit, "WatchdogSec")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, (tmp_path / "log").open("w") as log:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(60)
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            env={
                "CREDENTIALS_DIRECTORY": str(credentials),
                "NOTIFY_SOCKET": str(tmp_path / "notify"),
                "WATCHDOG_USEC": f"{watchdog}000000",
                "PATH": os.defpath,
            },
            cwd="/",
            stdout=log,
            stderr=log,
            text=True,
        )
        try:
            server = Server(process, f"http://127.0.0.1:{port}", tmp_path / "log")
            heard: set[str] = set()
            while not {"READY=1", "WATCHDOG=1"} <= heard:
                heard.add(notified.recv(100).decode())
            assert server.get("/health").status_code == 200
            assert server.chat().status_code == 401
            headers = {"authorization": "Bearer secret"}
            body = {"messages": [{"role": "user", "content": "turn on the light"}], "max_tokens": 8}
            answer = httpx2.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
            assert answer.status_code == 200
            taken = resident_bytes(process.pid) + resident_bytes(server.worker())
            (limit,) = setting(unit, "MemoryMax")
            assert taken < int(limit.removesuffix("M")) << 20
            assert server.end(signal.SIGTERM) == 0
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
