"""The quadlet of `edgephi service --quadlet`, held against Podman's own generator and against systemd."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgephi.bundle.manifest import Manifest
from edgephi.errors import UsageError
from edgephi.server.systemd.quadlet import Container, quadlet
from edgephi.server.systemd.unit import PythonHome, UnitOptions, service_unit
from tests.bundle.tiny import tiny_manifest
from tests.cli.conftest import Edgephi, edgephi, is_one_error  # noqa: F401 - a fixture
from tests.server.systemd.test_unit import (
    as_systemd_reads,
    command_of,
    needs_analyze,
    needs_manager,
    on,
    setting,
    without_variables,
)

PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/libexec/podman", "/usr/lib/podman"])
GENERATOR = shutil.which("quadlet", path=PLACES)
needs_generator = pytest.mark.skipif(GENERATOR is None, reason="Podman's generator quadlet is not installed")

LOCAL = ipaddress.ip_address("127.0.0.1")
CONTAINER = Container("localhost/edgephi", LOCAL)
OPTIONS = UnitOptions(
    bundle=Path("/srv/phi"),
    python=PythonHome(Path("/usr/bin/python3"), (Path("/usr"),)),
    host="127.0.0.1",
    port=8080,
    loopback=True,
    name="phi",
)
KEY: dict[str, Any] = {"api_key_file": Path("/etc/key"), "system_file": Path("/etc/system message")}
PUBLIC: dict[str, Any] = {"host": "::", "loopback": False, "ipv6": True, "port": 80, **KEY}


def written(container: Container = CONTAINER, manifest: Manifest | None = None, **changes: Any) -> str:
    return quadlet(manifest or tiny_manifest(), dataclasses.replace(OPTIONS, **changes), container)


def generated(text: str, folder: Path) -> str:
    """The service that Podman makes of a quadlet."""
    (folder / "phi.container").write_text(text)
    done = subprocess.run(
        [str(GENERATOR), "-dryrun", "-no-kmsg-log"],
        env={"QUADLET_UNIT_DIRS": str(folder), "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.removeprefix("---phi.service---\n")


# What Podman and systemd make of it.


@needs_generator
@needs_analyze
@pytest.mark.parametrize(
    "changes", [{}, PUBLIC, {"adapter": Path("/srv/adapter")}], ids=["local", "public", "adapter"]
)
def test_podman_makes_a_service_in_which_systemd_finds_nothing_wrong(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    service = generated(written(**changes), tmp_path)
    # Podman and its manual are not in every place where its generator is.
    service = service.replace("/usr/bin/podman", "/bin/true")
    file = tmp_path / "phi.service"
    file.write_text(re.sub("^Documentation=.*\n", "", service, flags=re.MULTILINE))
    verified = subprocess.run(
        ["systemd-analyze", "verify", file], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")


@needs_generator
@needs_manager
@pytest.mark.parametrize(
    "text", ["a \"b\" 'c' 100% %h $HOME ${HOME}", "one line\nand \\x another\t\\", "ü€😀 ;|&*"]
)
def test_the_system_message_comes_through_both_as_it_is(tmp_path: Path, text: str) -> None:
    service = generated(written(system=text), tmp_path)
    # What stops it has command lines of its own.
    (dump,) = as_systemd_reads([re.sub("^ExecStop.*\n", "", service, flags=re.MULTILINE)])
    words = command_of(dump)
    assert words[:2] == ["/usr/bin/podman", "run"]
    assert [without_variables(word) for word in words[-2:]] == ["--system", text]


# What it says.


def test_the_bundle_is_read_and_all_else_is_shut() -> None:
    text = written()
    assert setting(text, "Volume") == ["/srv/phi:/bundle:ro,z"]
    assert setting(text, "Exec") == ["serve /bundle --host 127.0.0.1 --port 8080 --grace 30"]
    for key, value in {"ReadOnly": "true", "NoNewPrivileges": "true", "DropCapability": "all"}.items():
        assert setting(text, key) == [value]
    assert setting(text, "User") != ["0"]
    assert setting(text, "IPAddressDeny") == ["any"]
    assert setting(text, "AddDevice") == setting(text, "Secret") == setting(text, "AddCapability") == []


def test_it_starts_again_and_is_limited_as_the_unit_is() -> None:
    unit = service_unit(tiny_manifest(), OPTIONS)
    for key in ("Restart", "RestartSec", "RestartPreventExitStatus", "MemoryMax", "TasksMax"):
        assert setting(written(), key) == setting(unit, key) != []


def test_podman_gives_the_server_its_time_to_finish() -> None:
    """It would kill it after ten seconds, and systemd must not do so before Podman does."""
    text = written(grace=100)
    (arguments,) = setting(text, "PodmanArgs")
    (seconds,) = re.findall(r"--stop-timeout=(\d+)", arguments)
    assert 100 < int(seconds) < int(setting(text, "TimeoutStopSec")[0])


def test_secrets_are_named_and_not_written() -> None:
    text = written(**PUBLIC)
    assert [secret.partition(",")[0] for secret in setting(text, "Secret")] == ["phi-api-key", "phi-system"]
    assert "/etc/" not in text
    (words,) = setting(text, "Exec")
    assert "--api-key-file /run/secrets/phi-api-key --system @/run/secrets/phi-system" in words


def test_a_gpu_stays_in_reach_of_who_may_use_it() -> None:
    text = written(Container("localhost/edgephi", LOCAL, (105, 44)), manifest=on("cuda"))
    assert setting(text, "AddDevice") == ["nvidia.com/gpu=all"]
    assert setting(text, "PodmanArgs")[1:] == ["--group-add=105", "--group-add=44"]


@pytest.mark.parametrize(
    ("address", "asked"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("10.0.0.5", "10.0.0.5")]
)
def test_its_health_is_asked_where_it_listens(address: str, asked: str) -> None:
    text = written(Container("localhost/edgephi", ipaddress.ip_address(address)))
    assert f"http://{asked}:8080/health" in setting(text, "HealthCmd")[0]
    assert setting(text, "HealthOnFailure") == ["kill"]


@pytest.mark.parametrize("path", ["/srv/a:b", "/srv/a,b", "/srv/a b", '/srv/"a"', "/srv/100%"])
def test_a_path_that_podman_reads_otherwise_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="expected a path that Podman can bind"):
        written(bundle=Path(path))


def test_an_image_is_a_name_and_no_option() -> None:
    for image in ("--privileged", "a b", "", "x\nVolume=/:/host"):
        with pytest.raises(UsageError, match="expected the name of an image"):
            written(Container(image, LOCAL))
    digest = f"registry.example:5000/edge/phi@sha256:{'0' * 64}"
    assert setting(written(Container(digest, LOCAL)), "Image") == [digest]


# The command.


def test_says_what_to_do_next(edgephi: Edgephi, demo_bundle: Path, tmp_path: Path) -> None:  # noqa: F811
    key, file = tmp_path / "my key", tmp_path / "phi.container"
    key.write_text("secret")
    key.chmod(0o600)
    asked = ("service", demo_bundle, "--quadlet", "--name", "phi", "--api-key-file", key)
    done = edgephi(*asked, "--output", file)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines()[-3:] == [
        f"sudo install -D -m 644 {file} /etc/containers/systemd/phi.container",
        f"sudo podman secret create phi-api-key '{key}'",
        "sudo systemctl daemon-reload && sudo systemctl start phi.service",
    ]
    assert file.read_text() == edgephi(*asked).stdout
    assert setting(file.read_text(), "Image") == ["localhost/edgephi"]
    assert is_one_error(edgephi("service", demo_bundle, "--image", "localhost/other"), 2)


def test_the_image_has_its_own_engine(edgephi: Edgephi, demo_bundle: Path) -> None:  # noqa: F811
    blocked = "import sys; sys.modules['uvicorn'] = None"
    assert edgephi("service", demo_bundle, before=blocked).returncode == 3
    assert edgephi("service", demo_bundle, "--quadlet", before=blocked).returncode == 0
