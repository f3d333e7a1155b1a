"""Fixtures of floor 2."""

from pathlib import Path

import pytest

from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A fresh checkpoint of one layer, to be damaged at will."""
    return write_tiny_checkpoint(tmp_path / "tiny", layers=1, hidden=64, ffn=96)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of published configs and tokenizers, which stands beside the repository on our machines."""
    folder = Path(__file__).resolve().parents[3] / "shared"
    if not (folder / "configs").is_dir():
        pytest.skip("no ../shared with the published configs and tokenizers")
    return folder
