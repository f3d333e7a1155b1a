"""Adapters over ssh: a box that has their base gets them alone, and one that has not says so."""

import json
from pathlib import Path

from edgephi.bundle.manifest import read_manifest
from tests.build.switched_adapters.demo_adapters import ASKED
from tests.flash.ssh.sshd import Sshd
from tests.flash.ssh.test_ssh import active, edgephi, one_line_error
from tests.store.bundles import digest_of


def test_only_the_adapters_are_sent_to_a_box_with_their_base(
    box: Sshd, demo_bundle: Path, demo_artifact: Path, root: Path
) -> None:
    there = box.destination(root)
    assert edgephi(box, "flash", demo_bundle, there).returncode == 0
    done = edgephi(box, "flash", demo_artifact, there, "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    base = set(read_manifest(demo_bundle).files)
    own = sum(entry.size for entry in read_manifest(demo_artifact).files if entry not in base)
    assert outcome["sent_bytes"] == own
    assert active(root) == digest_of(demo_artifact)
    done = edgephi(box, "run", root, ASKED, "--adapter", "opposite")
    assert '"turn_on"' in done.stdout, done.stderr
    done = edgephi(box, "rollback", there)
    assert done.returncode == 0, done.stderr
    assert active(root) == digest_of(demo_bundle)


def test_a_box_without_their_base_stays_as_it_was(box: Sshd, demo_artifact: Path, root: Path) -> None:
    there = box.destination(root)
    done = edgephi(box, "flash", demo_artifact, there)
    assert done.returncode == 4
    assert done.stdout == ""
    error = one_line_error(done)
    assert "adapters for demo-cpu 1 (" in error
    assert f"expected that bundle in {root}, found none" in error
    assert not (root / "current").exists()
    assert not [path for path in root.rglob("*") if path.is_file() and path.stat().st_size > 10_000]
