"""What a build needs, held against what the code imports."""

import ast
import importlib.util
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from edgephi.engines.facts.prerequisites import build_modules, build_problem
from edgephi.engines.facts.registry import facts_of, known_engines
from edgephi.export.exporter import exporter_module
from tests.installs import installs


def imported_packages(module: str, seen: set[str]) -> set[str]:
    """Top-level names outside the standard library that a module of edgephi imports, and those it imports."""
    spec = None if module in seen else importlib.util.find_spec(module)
    seen.add(module)
    if spec is None or spec.origin is None:
        return set()
    names: set[str] = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            if node.module == "edgephi":
                names |= {f"edgephi.{alias.name}" for alias in node.names}
    packages: set[str] = set()
    for name in names:
        top = name.partition(".")[0]
        if top == "edgephi":
            is_module = name == "edgephi" or importlib.util.find_spec(name) is not None
            packages |= imported_packages(name, seen) if is_module else set()
        elif top not in sys.stdlib_module_names:
            packages.add(top)
    return packages


@pytest.mark.parametrize("engine", known_engines())
def test_the_table_names_what_a_build_imports(engine: str) -> None:
    # Sessions are opened by a process that answers, which needs what its engine needs.
    seen = {"edgephi.runtime"}
    facts = facts_of(engine)
    expected = imported_packages("edgephi.build.build", seen)
    expected |= imported_packages(exporter_module(facts), seen)
    assert set(build_modules(facts)) == expected


@pytest.mark.parametrize("engine", known_engines())
def test_every_extra_exists(engine: str) -> None:
    extras = metadata.metadata("edgephi").get_all("Provides-Extra") or []
    assert set(build_modules(facts_of(engine)).values()) <= set(extras)


def test_nothing_is_missing_here() -> None:
    assert build_problem("onnxruntime-genai") is None


def test_the_missing_module_and_its_extra_are_named() -> None:
    code = (
        "import sys; sys.modules['onnx'] = sys.modules['tokenizers'] = None\n"
        "from edgephi.engines.facts.prerequisites import build_problem\n"
        "problem = build_problem('onnxruntime-genai'); print(problem.message, problem.hint, sep='\\n')"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert said[0] == "needs tokenizers, onnx, not installed"
    assert installs(said[1], "build")


def test_an_engine_that_nothing_is_built_for() -> None:
    problem = build_problem("abacus")
    assert problem is not None
    assert problem.message == "this edgephi does not build for abacus"
