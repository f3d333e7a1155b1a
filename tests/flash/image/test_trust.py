"""Keys in an image: the store on the device that it is written to trusts them from its first start."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Edgephi, is_one_error

TOOLS = [shutil.which(tool, path="/sbin:/usr/sbin") for tool in ("mke2fs", "debugfs")]
pytestmark = pytest.mark.skipif(None in TOOLS, reason="needs e2fsprogs")


@pytest.fixture
def signed(edgephi: Edgephi, demo_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that is signed by the key beside it."""
    shutil.copytree(demo_bundle, tmp_path / "bundle")
    edgephi("keygen", tmp_path / "release")
    assert edgephi("sign", tmp_path / "bundle", "--key", tmp_path / "release.key").returncode == 0
    return tmp_path / "bundle"


def test_an_image_holds_the_keys_and_is_the_same_each_time(
    edgephi: Edgephi, signed: Path, tmp_path: Path
) -> None:
    public = tmp_path / "release.pub"
    for name in ("one.img", "two.img"):
        done = edgephi("flash", signed, f"image:{tmp_path / name}", "--trust", public, "--elsewhere")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.img").read_bytes() == (tmp_path / "two.img").read_bytes()
    command = [str(TOOLS[1]), "-R", "cat trust/release.pub", str(tmp_path / "one.img")]
    assert subprocess.run(command, capture_output=True, check=True).stdout == public.read_bytes()
    state = [str(TOOLS[1]), "-R", "cat state.json", str(tmp_path / "one.img")]
    told = json.loads(subprocess.run(state, capture_output=True, check=True).stdout)
    assert told["keys_required"], "keys that are lost there do not open the store"


def test_an_image_that_would_not_take_its_own_bundle_is_not_written(
    edgephi: Edgephi, signed: Path, tmp_path: Path
) -> None:
    (signed / "bundle.dsse.json").unlink()
    image = tmp_path / "box.img"
    done = edgephi("flash", signed, f"image:{image}", "--trust", tmp_path / "release.pub", "--elsewhere")
    assert done.returncode == 4
    assert "found an unsigned bundle" in done.stderr
    assert not image.exists()


def test_other_destinations_have_a_command_for_keys(edgephi: Edgephi, signed: Path, tmp_path: Path) -> None:
    done = edgephi("flash", signed, tmp_path / "store", "--trust", tmp_path / "release.pub")
    assert is_one_error(done, 2)
    assert f"hint: edgephi trust add {tmp_path / 'store'} {tmp_path / 'release.pub'}" in done.stderr
