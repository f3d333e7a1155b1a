"""CI builds and runs with the oldest dependencies that we admit: pyproject.toml says which these are."""

import pytest

from tests.lower_bounds import _pinned, oldest


def test_every_dependency_has_an_oldest_version() -> None:
    packages = {line.partition("==")[0] for line in oldest()}
    assert {"click", "onnxruntime-genai", "mlx", "numpy", "starlette"} <= packages
    assert not packages & {"edgephi", "onnxruntime-gpu", "torch"}


def test_one_without_is_an_error() -> None:
    assert _pinned("engine[cpu]>=1.2,<2; sys_platform == 'linux'") == "engine==1.2"
    with pytest.raises(ValueError, match="engine<2: expected a lower bound"):
        _pinned("engine<2")
