"""A mix of hostile requests does no harm; `python -m tests.server.hostile.requests` sends thousands."""

from tests.server.hostile.requests import attack
from tests.server.hostile.ways import QUICK, odd_schema
from tests.server.serving import Server


def test_a_mix_of_hostile_requests_does_no_harm(server: Server) -> None:
    ways = {way: weight for way, weight in QUICK.items() if way is not odd_schema}  # of which some take 5 s
    report = attack(server, 150, 2, ways)
    assert report.faults() == []
    assert set(report.ways) == {way.__name__ for way in ways} | {"health", "well-formed question"}
