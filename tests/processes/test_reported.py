"""An error as plain data, and the same error again at the other end."""

import inspect
import json

import pytest

from edgephi import errors
from edgephi.errors import BadInputError, EdgephiError, NotSupportedError, TransportError
from edgephi.processes.ending import ending
from edgephi.processes.reported import Reported, error_of, report
from edgephi.records import read_record, write_record

CLASSES = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, EdgephiError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_of_each_class_comes_back_as_itself(kind: type[EdgephiError]) -> None:
    line = json.dumps(write_record(report(kind("expected bread, found none", hint="bake"))))
    said = read_record(Reported, json.loads(line), where="line", error=BadInputError, hint="")
    error = error_of(said)
    assert type(error) is kind
    assert (error.message, error.hint, error.exit_code) == (
        "expected bread, found none",
        "bake",
        kind.exit_code,
    )


def test_one_of_a_newer_edgephi_comes_back_as_what_is_known_of_it() -> None:
    class NotSupportedYetError(NotSupportedError):
        pass

    assert type(error_of(report(NotSupportedYetError("no", hint="wait")))) is NotSupportedError


def test_names_that_are_no_errors_of_ours_make_none() -> None:
    said = Reported(("ClassVar", "errno", "OSError", "from_os_error"), "expected bread", "bake")
    assert type(error_of(said)) is EdgephiError
    assert type(error_of(said, otherwise=TransportError)) is TransportError


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with exit code 0"),
        (139, "ended with exit code 139"),
        (-9, "was killed by signal 9 (SIGKILL)"),
        (-11, "was killed by signal 11 (SIGSEGV)"),
        (-40, "was killed by signal 40"),
    ],
)
def test_how_a_process_ended_is_told_in_one_way(code: int, words: str) -> None:
    assert ending(code) == words
