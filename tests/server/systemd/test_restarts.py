"""The unit of `edgephi service` in the hands of a real systemd: it starts, and starts again, or does not."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from edgephi.server.systemd.unit import PythonHome, UnitOptions, service_unit
from tests.bundle.tiny import tiny_manifest
from tests.cli.conftest import Edgephi, edgephi  # noqa: F401 - a fixture
from tests.server.systemd.manager import Manager, needs_own_manager, own_manager

pytestmark = needs_own_manager

OPTIONS = UnitOptions(
    bundle=Path("/srv"),
    python=PythonHome(Path("/usr/bin/python3"), (Path("/usr"),)),
    host="127.0.0.1",
    port=8080,
    loopback=True,
)
STARTED_AGAIN = {
    "exit 0": True,  # as after the signal to end, from somebody who is not systemd
    "exit 1": True,
    "exit 2": False,  # the command line
    "exit 3": True,  # memory, the port or the device may be free, or there, a moment later
    "exit 4": False,  # the bundle, or its key
    "kill -KILL $$$$": True,
    "kill -TERM $$$$": True,
    "kill -SEGV $$$$": True,
}


def test_it_starts_again_unless_that_cannot_help(tmp_path: Path) -> None:
    units = {}
    for number, how in enumerate(STARTED_AGAIN):
        units[f"u{number}.service"] = service_unit(tiny_manifest(), OPTIONS)
        units[f"u{number}.service.d/end.conf"] = (
            f"[Service]\nExecStart=\nExecStart=/bin/sh -c 'systemd-notify --ready; {how}'\n"
            "NotifyAccess=all\nRestartSec=100ms\n"
        )
    with own_manager(tmp_path, units) as manager:
        for number, (how, again) in enumerate(STARTED_AGAIN.items()):
            unit = f"u{number}.service"
            if again:
                # So often that no limit of starts holds it back.
                manager.wait(unit, lambda facts: int(facts["NRestarts"]) > 6)
            else:
                facts = manager.wait(unit, lambda facts: facts["ActiveState"] == "failed")
                assert (facts["NRestarts"], facts["ExecMainStatus"]) == ("0", how.split()[1])


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Path:
    """A folder that every user can enter, which pytest's are not."""
    folder = Path("/var/tmp") / f"edgephi-{request.node.name}-{id(request)}"
    folder.mkdir(mode=0o755)
    request.addfinalizer(lambda: shutil.rmtree(folder))
    return folder


def is_active(facts: Mapping[str, str]) -> bool:
    return facts["ActiveState"] == "active"


def main_process(manager: Manager) -> str:
    return manager.facts("phi.service")["ExecMainPID"]


def served_by(manager: Manager, port: int) -> str:
    return manager.run("curl", "-s", f"http://127.0.0.1:{port}/health").stdout


def test_a_store_is_served_behind_all_its_walls(
    edgephi: Edgephi,  # noqa: F811
    demo_bundle: Path,
    tmp_path: Path,
    place: Path,
) -> None:
    """And served again when it was killed or told to end by anybody; not when systemd was told to stop it."""
    assert edgephi("flash", demo_bundle, place / "store").returncode == 0
    unit = edgephi("service", place / "store", "--port", "18080").stdout
    soon = "[Service]\nRestartSec=100ms\n"
    with own_manager(tmp_path, {"phi.service": unit, "phi.service.d/soon.conf": soon}) as manager:
        manager.wait("phi.service", is_active)
        assert '"ready"' in served_by(manager, 18080)
        assert manager.run("stat", "-c", "%u", f"/proc/{main_process(manager)}").stdout.strip() != "0"
        for signal in ("KILL", "TERM"):
            before = main_process(manager)
            manager.run("kill", f"-{signal}", before)
            manager.wait("phi.service", is_active, but_process=before)
            assert '"ready"' in served_by(manager, 18080)
        manager.run("systemctl", "stop", "phi.service")
        stopped = manager.facts("phi.service")
        assert (stopped["ActiveState"], stopped["Result"]) == ("inactive", "success")
