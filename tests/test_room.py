"""The loop of ten seconds finds the tests of the room that somebody is in."""

import pytest

from tests.room import where_tested

FLOORS = "tests/test_floors.py"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("edgephi/bundle/manifest.py", ["tests/bundle/test_manifest.py", FLOORS]),
        ("edgephi/store/trust/change.py", ["tests/store/trust", FLOORS]),
        ("edgephi/store/agent/frames.py", ["tests/store", FLOORS]),
        ("edgephi/export/mlx", ["tests/export/mlx", FLOORS]),
        ("edgephi/records.py", ["tests/test_records.py", FLOORS]),
        ("tests/quantize/test_groups.py", ["tests/quantize/test_groups.py"]),
        ("tests/store/bundles.py", ["tests/store"]),
        ("tests/tiny_checkpoint.py", []),
        ("docs/guide.md", []),
    ],
)
def test_the_tests_lie_as_the_code_lies(path: str, found: list[str]) -> None:
    assert where_tested(path) == found
