"""Every exporter and adapter is held against its Protocol, by mypy, where its own tests lie."""

import importlib
from pathlib import Path

import pytest

from edgephi.engines.facts.registry import facts_of, known_engines
from edgephi.export.exporter import exporter

ADAPTER_TESTS = Path(__file__).parent / "runtime" / "engines"


@pytest.mark.parametrize("engine", known_engines())
def test_mypy_sees_every_exporter(engine: str) -> None:
    tests = importlib.import_module(f"tests.export.{facts_of(engine).exporter}")
    assert tests.EXPORTER is exporter(engine)


@pytest.mark.parametrize("engine", known_engines())
def test_mypy_sees_every_adapter(engine: str) -> None:
    """Its file is not imported: where the engine is missing, all of it is skipped."""
    text = (ADAPTER_TESTS / f"test_{facts_of(engine).module}.py").read_text()
    assert "\nADAPTER: Adapter = " in text
