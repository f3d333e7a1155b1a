"""A new system prompt and tokenizer of a model do not send its weights again, whatever the engine."""

from pathlib import Path

import pytest

from tests.bench.delta import MOST, TARGETS, measured


@pytest.mark.parametrize("target", TARGETS)
def test_a_new_tokenizer_and_system_prompt_send_next_to_nothing(
    slow: Path, target: str, tmp_path: Path
) -> None:
    # What is measured on a text must not change with the prompt either; codes are found alike for every
    # engine.
    method = "weighted" if target == "cpu" else "rtn"
    delta = measured(slow, target, tmp_path, "--method", method)
    assert 0 < delta.share <= MOST
