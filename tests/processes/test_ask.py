"""Asking a process of ours: what comes back, whatever the process does.

The questions are records of modules that a test writes, as their answerers are.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgephi import errors
from edgephi.errors import BadInputError, CannotServeError, DoesNotFitError, EdgephiError, QualityGateError
from edgephi.processes.ask import Asked, NoAnswerError, ask
from tests.processes.living import lives
from tests.processes.test_reported import CLASSES

HEAD = """
import os, signal, sys, time
from dataclasses import dataclass
from edgephi import errors
from edgephi.processes.ask import answer

@dataclass(frozen=True)
class Sum:
    numbers: tuple[int, ...]
    text: str = ""

@dataclass(frozen=True)
class Total:
    total: int

if __name__ == "__main__":
"""
ANSWERS = "    answer(Sum, work)\n"

Make = Callable[..., Any]


@dataclass(frozen=True)
class Total:
    """What comes back."""

    total: int


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes a question whose process does what is written: the body of `work`, or what else it runs."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(
        body: str = "return Total(sum(asked.numbers))",
        *,
        runs: str = "",
        numbers: tuple[int, ...] = (1, 2),
        text: str = "",
    ) -> Any:
        work = f"    def work(asked, done):\n        {body}\n{ANSWERS}"
        (tmp_path / "answering.py").write_text(HEAD + (f"    {runs}\n" if runs else work))
        sys.modules.pop("answering", None)
        importlib.invalidate_caches()
        return importlib.import_module("answering").Sum(numbers, text)

    yield make
    sys.modules.pop("answering", None)


def total(question: object, **options: Any) -> int:
    given = {"who": "the adder", "hint": "count yourself", **options}
    return ask(question, Total, **given).total


class TestAnswers:
    def test_a_typed_question_has_a_typed_answer(self, asked: Make) -> None:
        assert total(asked(numbers=(20, 22))) == 42

    def test_both_may_be_larger_than_a_pipe(self, asked: Make) -> None:
        question = asked("return Total(len(asked.text))", text="x" * 3_000_000)
        assert total(question) == 3_000_000
        question = asked("print('y' * 3_000_000, file=sys.stderr); return Total(1)")
        assert total(question) == 1

    def test_progress_comes_in_between(self, asked: Make) -> None:
        told: list[int] = []
        body = "[done(each) for each in asked.numbers]; return Total(0)"
        total(asked(body, numbers=(3, 4, 5)), done=told.append)
        assert told == [3, 4, 5]

    def test_what_others_print_is_no_answer(self, asked: Make, tmp_path: Path) -> None:
        """Before it speaks to us, and with C's own functions as the process ends."""
        (tmp_path / "sitecustomize.py").write_text("print('good day')\n")
        body = (
            "print('{\"answer\": 5}'); import ctypes; ctypes.CDLL(None).puts(b'# LIBNATIVE'); return Total(3)"
        )
        assert total(asked(body)) == 3

    def test_it_works_where_it_is_told_to(self, asked: Make, tmp_path: Path) -> None:
        (tmp_path / "there").mkdir()
        body = "return Total(int(os.getcwd().endswith('there')))"
        assert total(asked(body), cwd=tmp_path / "there") == 1

    def test_several_work_at_the_same_time(self, asked: Make) -> None:
        question = asked("time.sleep(1); return Total(1)")
        start = time.monotonic()
        with Asked(question) as one, Asked(question) as two:
            assert (one.answer(Total), two.answer(Total)) == (Total(1), Total(1))
            whole = time.monotonic() - start
        started = whole - 1
        assert started < 1 or whole < 2 * started  # the machine may be busy, but not twice a second


class TestErrors:
    @pytest.mark.parametrize("kind", CLASSES)
    def test_one_of_each_class_comes_back_as_itself(self, asked: Make, kind: type[EdgephiError]) -> None:
        question = asked(f"raise errors.{kind.__name__}('expected bread, found none', hint='bake')")
        with Asked(question) as process:
            with pytest.raises(EdgephiError) as caught:
                process.answer(Total)
            assert type(caught.value) is kind
            assert (caught.value.message, caught.value.hint) == ("expected bread, found none", "bake")
            assert process.process.returncode == kind.exit_code

    def test_what_the_system_refuses_is_an_error_of_ours(self, asked: Make) -> None:
        with pytest.raises(BadInputError, match="none/at/all: No such file"):
            total(asked("open('none/at/all')"))
        with pytest.raises(DoesNotFitError, match="memory ran out"):
            total(asked("raise MemoryError"))

    def test_any_other_exception_is_a_bug_with_its_text(self, asked: Make) -> None:
        with pytest.raises(EdgephiError) as caught:
            total(asked("raise KeyError('surprise')"))
        assert type(caught.value) is EdgephiError
        assert caught.value.message == "bug in edgephi: KeyError: 'surprise'"
        assert "in work" in caught.value.__notes__[0]  # `--debug` shows where

    def test_a_question_that_is_none_is_refused(self, asked: Make) -> None:
        question = asked(numbers=("one",))
        with pytest.raises(
            BadInputError, match=r"question: numbers\[0\]: expected a whole number, found 'one'"
        ):
            total(question)


class TestNoAnswer:
    @pytest.mark.parametrize(
        ("body", "kind", "words"),
        [
            ("os.kill(os.getpid(), 9)", DoesNotFitError, r"^the adder was killed by signal 9 \(SIGKILL\)$"),
            (
                "os.kill(os.getpid(), 11)",
                CannotServeError,
                r"^the adder was killed by signal 11 \(SIGSEGV\)$",
            ),
            ("os._exit(0)", EdgephiError, r"^bug in edgephi: the adder ended without an answer$"),
            ("os._exit(7)", EdgephiError, r"^bug in edgephi: the adder ended with exit code 7$"),
            (
                "print('dear me', file=sys.stderr); sys.exit(3)",
                EdgephiError,
                r"^bug in edgephi: the adder ended with exit code 3: dear me$",
            ),
            (
                "return errors",
                EdgephiError,
                r"^bug in edgephi: TypeError: Object of type module is not JSON serializable$",
            ),
            (
                "return asked",
                EdgephiError,
                r"^bug in edgephi: the adder gave no answer that can be read \(answer: unknown key 'numbers'",
            ),
        ],
        ids=["SIGKILL", "SIGSEGV", "0 and nothing", "7", "3 and a word", "no record", "another record"],
    )
    def test_is_told_by_how_it_ended(
        self, asked: Make, body: str, kind: type[EdgephiError], words: str
    ) -> None:
        with pytest.raises(EdgephiError) as caught:
            total(asked(body))
        assert type(caught.value) is kind
        assert re.search(words, caught.value.message)
        assert caught.value.hint == ("please report this" if kind is EdgephiError else "count yourself")

    @pytest.mark.parametrize(
        "line",
        [
            "dear me",
            "[]",
            "{}{}",
            '{"answer": 5}',
            '{"anwser": {}}',
            '{"done": "all"}',
            '{"error": {}}',
            "\\xff",
        ],
    )
    def test_nonsense_is_no_answer(self, asked: Make, line: str) -> None:
        runs = f"os.write(1, b'edgephi-answers/1\\n' + {line!r}.encode() + b'\\n'); time.sleep(60)"
        start = time.monotonic()
        with pytest.raises(EdgephiError, match="bug in edgephi: the adder gave no answer that can be read"):
            total(asked(runs=runs))
        assert time.monotonic() - start < 30

    @pytest.mark.parametrize("said", ["", "dear me\\n", "edgephi-answers/2\\n"])
    def test_who_speaks_no_such_protocol_is_known_by_that(self, asked: Make, said: str) -> None:
        question = asked(runs=f"sys.stdout.write('{said}')")
        ends = pytest.raises(NoAnswerError, match="ended without an answer")
        with Asked(question) as process, ends as caught:
            process.answer(Total)
        assert not caught.value.is_understood

    def test_one_that_crashes_behind_its_answer_gave_none(self, asked: Make) -> None:
        body = "import atexit; atexit.register(os.kill, os.getpid(), 11); return Total(1)"
        with pytest.raises(CannotServeError, match="killed by signal 11"):
            total(asked(body))

    def test_a_module_that_there_is_not(self, asked: Make, tmp_path: Path) -> None:
        question = asked()
        (tmp_path / "answering.py").unlink()
        with pytest.raises(EdgephiError, match=r"exit code 1: .*No module named"):
            total(question)

    def test_it_is_waited_for_so_long_and_then_gone(self, asked: Make) -> None:
        with pytest.raises(CannotServeError, match=r"^the adder gave no answer within 1\.5 s$"):
            total(asked("time.sleep(600)"), seconds=1.5)


class TestItsEnd:
    def test_who_looks_at_it_may_end_it_with_all_that_it_started(self, asked: Make) -> None:
        body = "import subprocess; done(subprocess.Popen(['sleep', '600']).pid); time.sleep(600)"
        started: list[int] = []

        def look() -> None:
            if started:
                raise QualityGateError("seen enough", hint="")

        with pytest.raises(QualityGateError), Asked(asked(body), own_session=True) as process:
            process.answer(Total, done=started.append, look=look, look_seconds=0.02)
        end = time.monotonic() + 20
        while time.monotonic() < end and lives(started[0]):
            time.sleep(0.02)
        assert not lives(started[0])
        assert process.process.returncode == -signal.SIGKILL

    @pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
    def test_it_goes_with_who_asked(self, asked: Make, name: str) -> None:
        if name == "SIGKILL" and sys.platform != "linux":
            pytest.skip("the kernel of Linux does it")
        asked("done(os.getpid()); time.sleep(600)")
        code = (
            "import answering, signal\nfrom edgephi.processes.ask import ask\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "ask(answering.Sum((1,)), answering.Total, who='', hint='', done=lambda n: print(n, flush=True))"
        )
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True) as process:
            assert process.stdout is not None
            child = int(process.stdout.readline())
            os.kill(process.pid, signal.Signals[name])
            process.wait(20)
        end = time.monotonic() + 20
        while time.monotonic() < end and lives(child):
            time.sleep(0.02)
        assert not lives(child)


def test_all_errors_are_asked_about() -> None:
    assert errors.StoreBusyError in CLASSES and len(CLASSES) > 10
