"""A calibrated build that is interrupted: what it says, what it leaves, and how it goes on."""

import signal
from pathlib import Path

from tests.build.conftest import Here, building, here, names, wait_until
from tests.tiny_checkpoint import write_tiny_checkpoint

__all__ = ["here"]

_RECIPE = """
name = "careful"
summary = "A tiny one, calibrated"

[quant]
method = "calibrated"
group_size = 32
symmetric = false
embedding_bits = 8
head_bits = 8
"""


def test_it_goes_on_where_it_was(tmp_path: Path, here: Here) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny-phi", layers=6)
    recipe = tmp_path / "careful.toml"
    recipe.write_text(_RECIPE)
    text = tmp_path / "short.txt"  # no more than is needed
    text.write_text("All that they say.\n" * 400)
    asked = [str(checkpoint), "--target", "cpu", "--recipe", recipe, "--verify", "off"]
    asked += ["--calibrate", text, "-o"]
    before = names(tmp_path)
    kept = tmp_path / ".out.calibrating"

    with building(*asked, tmp_path / "out") as process:
        wait_until(lambda: list(kept.glob("before-layer-[2-5]")), process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"finished layers are kept in {kept}: the same build goes on there" in said
    assert names(tmp_path) == {*before, kept.name}

    again = here("build", *asked, tmp_path / "out")
    assert again.returncode == 0, again.stderr
    assert "calibrate from layer" in again.stderr
    whole = here("build", *asked, tmp_path / "whole")
    assert "calibrate from layer" not in whole.stderr
    assert names(tmp_path) == {*before, "out", "whole"}
    for name in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / "out/model" / name).read_bytes() == (tmp_path / "whole/model" / name).read_bytes()


def test_too_little_text_is_refused_before_anything_is_read(tmp_path: Path, here: Here) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny-phi", layers=1, context=8)
    recipe = tmp_path / "careful.toml"
    recipe.write_text(_RECIPE)
    before = names(tmp_path)
    refused = here(
        "build", checkpoint, "--target", "cpu", "--recipe", recipe, "--context", "8", "-o", tmp_path / "out"
    )
    assert refused.returncode == 4
    assert "expected 4,096 tokens of text" in refused.stderr
    assert "--calibrate" in refused.stderr
    assert names(tmp_path) == before
