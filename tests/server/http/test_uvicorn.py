"""What we take from uvicorn and h11 without their promise, held against the versions that are installed.

A newer one that renames a method would leave ours uncalled, and nothing else would say so.
"""

import importlib.metadata
import inspect
import tomllib
from pathlib import Path

import h11
import pytest
import uvicorn
from packaging.requirements import Requirement
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from edgephi.server.http.connection import Connection
from edgephi.server.http.early_answers import EarlyAnswerConnection
from edgephi.server.serve import _Quiet

PROJECT = Path(__file__).parents[3] / "pyproject.toml"
# Of uvicorn's protocol: what our connection overrides, and what it uses.
OVERRIDDEN = {
    "connection_lost": ("exc",),
    "connection_made": ("transport",),
    "data_received": ("data",),
    "eof_received": (),
    "on_response_complete": (),
    "pause_writing": (),
    "resume_writing": (),
    "send_400_response": ("msg",),
    "shutdown": (),
}
USED = ("_unset_keepalive_if_required", "handle_events")
CYCLE = ("disconnected", "message_event", "response_complete", "response_started")
PROTOCOL = ("conn", "cycle", "loop", "scope", "timeout_keep_alive_task", "transport")


def parameters(function: object) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)[1:]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_what_is_overridden_is_there_with_the_same_parameters(name: str) -> None:
    theirs, ours = getattr(H11Protocol, name), getattr(Connection, name)
    assert ours is not theirs
    assert parameters(theirs) == parameters(ours) == OVERRIDDEN[name]


def test_nothing_else_of_it_is_hidden() -> None:
    ours = {name for name in vars(Connection) if not name.startswith("__")}
    assert {name for name in ours if hasattr(H11Protocol, name)} == set(OVERRIDDEN)


@pytest.mark.parametrize("name", USED)
def test_what_is_called_is_there(name: str) -> None:
    assert parameters(getattr(H11Protocol, name)) == ()


@pytest.mark.parametrize(("kind", "names"), [(H11Protocol, PROTOCOL), (RequestResponseCycle, CYCLE)])
def test_what_is_looked_at_is_set_when_it_begins(kind: type, names: tuple[str, ...]) -> None:
    code = inspect.getsource(kind.__init__)  # type: ignore[misc]
    assert [name for name in names if f"self.{name}" not in code] == []


def test_the_server_and_the_reader_of_heads_too() -> None:
    assert parameters(uvicorn.Server.startup) == parameters(_Quiet.startup) == ("sockets",)
    assert parameters(uvicorn.Server.capture_signals) == ()
    assert parameters(h11.Connection.next_event) == parameters(EarlyAnswerConnection.next_event) == ()


@pytest.mark.parametrize("package", ["uvicorn", "h11"])
def test_no_version_is_taken_that_nobody_has_looked_at(package: str) -> None:
    asked = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]["serve"]
    (bounds,) = (each.specifier for each in map(Requirement, asked) if each.name == package)
    assert any(bound.operator == "<" for bound in bounds)
    assert bounds.contains(importlib.metadata.version(package))
