"""docs/python-api.md: what is shown there runs, and does what it says."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python-api.md"


def test_the_snippets_run(
    demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demo-bundle").symlink_to(demo_bundle)
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(snippets) == 2
    exec("\n".join(snippets), {})
    first, second, *_, last = capsys.readouterr().out.splitlines()
    assert first == '{"action": "turn_on", "room": "kitchen", "device": "light"}'
    assert second == '{"action": "set_timer", "duration": "10 minutes"}'
    assert last.startswith(first)
