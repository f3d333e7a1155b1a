"""Memory is looked at before a model is loaded."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgephi.errors import DoesNotFitError
from edgephi.machine import memory
from tests.bundle.tiny import FILES, tiny_manifest

WEIGHTS = sum(map(len, FILES.values()))


def test_refuses_weights_that_cannot_fit() -> None:
    with pytest.raises(DoesNotFitError, match=r"the weights need .* are available"):
        memory.check_memory(tiny_manifest(), WEIGHTS - 1)


def test_warns_when_the_full_context_may_not_fit() -> None:
    _, warning = memory.check_memory(tiny_manifest(), 9_000_000)
    assert warning is not None
    assert "0.01 GB" in warning


def test_says_nothing_when_there_is_enough() -> None:
    assert memory.check_memory(tiny_manifest(), 10_000_000) == (2048, None)


def test_a_context_past_what_is_cached_takes_no_more() -> None:
    manifest = tiny_manifest()
    requires = replace(manifest.requires, memory_per_token_bytes=1000, cached_tokens=1500)
    windowed = replace(manifest, requires=requires)
    assert windowed.memory_at(2048) == windowed.memory_at(1500) == 10_000_000
    assert windowed.memory_at(1400) == 9_900_000
    assert memory.check_memory(windowed, 9_900_000)[0] == 1400
    with pytest.raises(DoesNotFitError, match="a context of 1800 tokens needs"):
        memory.check_memory(windowed, 9_900_000, 1800)
    assert memory.check_memory(windowed, 9_900_000, 1400) == (1400, None)


def test_this_machine_has_some() -> None:
    assert memory.available_memory() > 0


def test_the_tightest_control_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cgroup"
    cached = "inactive_file 300\nactive_file 400\nfile_mapped 200\n"
    limits = {"a": ("5000", "1000", cached), "a/b": ("max", "900", "inactive_file 0\n")}
    for name, (limit, usage, statistics) in limits.items():
        (root / name).mkdir(parents=True)
        (root / name / "memory.max").write_text(limit + "\n")
        (root / name / "memory.current").write_text(usage + "\n")
        (root / name / "memory.stat").write_text("anon 400\n" + statistics)
    (tmp_path / "self").write_text("0::/a/b\n")
    monkeypatch.setattr(memory, "_CGROUPS", root)
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "self")
    assert memory.available_memory() == 4500


@pytest.mark.parametrize("path", ["/docker/abc", "/"], ids=["the host's path", "the mount's root"])
def test_the_limit_of_version_1_counts(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "cgroup/memory"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("7000\n")
    (group / "memory.usage_in_bytes").write_text("3000\n")
    (group / "memory.stat").write_text("total_inactive_file 1000\n")
    (tmp_path / "self").write_text(f"4:memory:{path}\n3:cpu,cpuacct:/\n")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "self")
    assert memory.available_memory() == 5000
