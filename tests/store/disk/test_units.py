"""What gc keeps because a unit of the device's service manager names it."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from edgephi.cli.main import cli
from edgephi.store.disk.units import named_in_units
from edgephi.store.garbage import collect_garbage
from tests.store.bundles import BALLAST, digest_of, remade
from tests.store.conftest import install


@pytest.fixture
def store(first: Path, second: Path, tmp_path: Path) -> Path:
    """A store with three releases, of which the first is neither current nor previous."""
    root = tmp_path / "store"
    third = remade(first, tmp_path / "third", {BALLAST: b"light"}, sequence=3)
    for bundle in (first, second, third):
        install(bundle, root)
    return root


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that systemd would read units from."""
    folder = tmp_path / "units"
    folder.mkdir()
    monkeypatch.setenv("SYSTEMD_UNIT_PATH", f"{tmp_path / 'none'}:{folder}")
    return folder


@pytest.mark.parametrize("file", ["phi.service", "phi.service.d/older.conf"])
def test_a_generation_stays_while_a_unit_names_it(store: Path, first: Path, units: Path, file: str) -> None:
    digest = digest_of(first)
    unit = units / file
    unit.parent.mkdir(exist_ok=True)
    unit.write_text(f"[Service]\nExecStart=/usr/bin/edgephi serve {store}/gens/{digest} --port 80\n")
    kept = collect_garbage(store)
    assert (kept.generations, kept.in_units) == ((), (digest,))
    assert (store / "gens" / digest / "bundle.json").is_file()
    unit.unlink()
    assert collect_garbage(store).generations == (digest,)


def test_gc_says_what_it_keeps_and_why(
    store: Path, first: Path, units: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = digest_of(first)
    (units / "phi.service").write_text(f"[Service]\nExecStart=edgephi serve {store}/gens/{digest}\n")
    cli(["gc", str(store)], standalone_mode=False)
    assert f"kept {digest[:12]}: a systemd unit names it" in capsys.readouterr().out
    cli(["gc", str(store), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["in_units"] == [digest]


def test_the_way_to_it_may_be_written_in_another_way(store: Path, first: Path, units: Path) -> None:
    """As through a link, or with systemd's escapes."""
    digest = digest_of(first)
    (units / "phi.service").write_text(f'[Service]\nExecStart=edgephi serve "/a\\x20link/gens/{digest}"\n')
    assert collect_garbage(store).in_units == (digest,)


@pytest.mark.parametrize(
    ("variable", "file"),
    [
        ("QUADLET_UNIT_DIRS", "phi.container"),
        ("XDG_CONFIG_HOME", "systemd/user/phi.service"),
        ("XDG_CONFIG_HOME", "containers/systemd/phi.container"),
    ],
)
def test_units_of_containers_and_users_count(
    store: Path, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, file: str
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "own"))
    unit = tmp_path / "own" / file
    unit.parent.mkdir(parents=True)
    unit.write_text(f"[Container]\nVolume={store}/gens/{digest_of(first)}:/bundle:ro\n")
    assert collect_garbage(store).in_units == (digest_of(first),)


def test_a_pipe_in_the_place_of_a_unit_holds_nobody_up(units: Path) -> None:
    os.mkfifo(units / "phi.service")
    looked = threading.Thread(target=named_in_units, daemon=True)
    looked.start()
    looked.join(20)
    assert not looked.is_alive()
