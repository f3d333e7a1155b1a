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
    exec("\n".join(snippets), {})
    lines = capsys.readouterr().out.splitlines()
    light = '{"action": "turn_on", "room": "kitchen", "device": "light"}'
    assert lines[:2] == [light, '{"action": "set_timer", "duration": "10 minutes"}']
    assert any(re.fullmatch(re.escape(light) + r" \w+ -\d+\.\d+(e-\d+)?", line) for line in lines[2:])
    assert any(re.fullmatch("[012][0-9]:[0-5][0-9]", line) for line in lines)  # held to a regular expression
    assert any(re.fullmatch("answer: [1-9][0-9]{0,2}", line) for line in lines)  # to a grammar
    assert any(re.fullmatch(r'switch \{"on": (true|false)\}', line) for line in lines)  # a call
    assert any(re.fullmatch(r"-\d+\.\d+", line) for line in lines)  # how likely a text is
    assert any(re.fullmatch(r"-?\d+\.\d{3} stop " + re.escape(light), line) for line in lines)  # a beam
