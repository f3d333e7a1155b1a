"""The folder is the registry: what is known of an engine stands in one file, and everybody finds it there."""

import importlib
import importlib.util
from importlib import metadata
from pathlib import Path

import pytest

import edgephi.engines
from edgephi.declared.target import targets
from edgephi.engines.facts.registry import facts_of, known_engines
from edgephi.errors import NotSupportedError
from edgephi.export.exporter import exporter_module
from edgephi.runtime.adapter import adapter_of

FOLDER = Path(edgephi.engines.__file__).parent


def test_every_file_of_the_folder_is_an_engine_and_bears_its_name() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert {facts.module for facts in known_engines().values()} == files
    assert {name: facts.name for name, facts in known_engines().items()} == {
        name: name for name in known_engines()
    }


def test_every_shipped_target_is_for_a_known_engine_and_provider() -> None:
    for target in targets():
        facts = facts_of(target.engine)
        assert facts.provider(target.provider), target.name
        assert set(target.engines) == {facts.name}


@pytest.mark.parametrize("engine", known_engines())
class TestEachEngine:
    def test_its_exporter_and_its_adapter_are_found_by_their_names(self, engine: str) -> None:
        facts = facts_of(engine)
        assert importlib.util.find_spec(exporter_module(facts)) is not None
        assert callable(adapter_of(facts).open_engine)

    def test_its_extras_exist(self, engine: str) -> None:
        extras = metadata.metadata("edgephi").get_all("Provides-Extra") or []
        assert {provider.extra for provider in facts_of(engine).providers.values()} <= set(extras)

    def test_its_extras_bring_its_packages(self, engine: str) -> None:
        wanted = metadata.requires("edgephi") or []
        for provider in facts_of(engine).providers.values():
            extra = f"extra == '{provider.extra}'"
            brought = [each for each in wanted if extra in each.replace('"', "'")]
            assert any(each.startswith(provider.package) for each in brought), provider

    def test_a_stand_in_is_a_provider_that_needs_none(self, engine: str) -> None:
        providers = facts_of(engine).providers
        for provider in providers.values():
            if provider.stand_in:
                assert not providers[provider.stand_in].stand_in


def test_an_engine_that_nobody_knows() -> None:
    with pytest.raises(NotSupportedError, match=r"engine .abacus.: this edgephi knows llama\.cpp, mlx-lm"):
        facts_of("abacus")


def test_a_provider_that_an_engine_does_not_have() -> None:
    with pytest.raises(NotSupportedError, match="qnn: expected one of the providers htp, htp-emulation, fo"):
        facts_of("qnn").provider("cpu")


def test_the_engines_are_found_in_an_archive_too(tmp_path: Path) -> None:
    """As on a device that is flashed: there edgephi is a zip file, and nothing else is installed."""
    import subprocess
    import sys

    from edgephi.flash.ssh.agent_archive import agent_archive

    (tmp_path / "agent.zip").write_bytes(agent_archive()[4:])
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'agent.zip')!r})\n"
        "from edgephi.engines.facts.registry import known_engines; print(*known_engines())"
    )
    said = subprocess.check_output([sys.executable, "-I", "-S", "-c", code], text=True)
    assert said.split() == list(known_engines())
