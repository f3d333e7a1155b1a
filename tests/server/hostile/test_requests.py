"""A mix of hostile requests does no harm; `python -m tests.server.hostile.requests` sends thousands."""

from pathlib import Path

from tests.server.hostile.requests import attack
from tests.server.hostile.ways import QUICK, odd_schema
from tests.server.serving import serving


def test_a_mix_of_hostile_requests_does_no_harm(demo_bundle: Path, tmp_path: Path) -> None:
    ways = {way: weight for way, weight in QUICK.items() if way is not odd_schema}  # of which some take 5 s
    with serving(demo_bundle, tmp_path, "--context", 512) as server:
        report = attack(server, 150, 1, ways)
        assert report.faults() == []
        assert server.end() == 0
    assert set(report.ways) == {way.__name__ for way in ways} | {"health", "well-formed question"}
    assert report.ways["health"].count > 5
    assert report.ways["well-formed question"].count > 2
