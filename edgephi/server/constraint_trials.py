"""Tries new rules of answers in a process of their own before their request may wait for the engine.

A schema, a regular expression or a grammar can take more time and memory than a box has. Here it is found out
beside the engine, which answers others meanwhile: one at a time, within the limits of
`edgephi.runtime.text.constraint`. What was found is remembered, so that a program's own schema is tried once.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.types import Receive

from edgephi.errors import EdgephiError
from edgephi.processes.reported import report
from edgephi.runtime.text.constraint import ConstraintCompiler
from edgephi.runtime.text.rules import Rules
from edgephi.server.engine.messages import Failed
from edgephi.server.openai.response_format import ANY_OBJECT
from edgephi.server.refusal import CLIENT_GONE, Refusal, refusal_of

_ANY_OBJECT = Rules("json_schema", ANY_OBJECT)  # what anybody may ask for, and takes nothing
_MOST_WAITING = 16
_MOST_REMEMBERED = 256
_MOST_SECONDS = 20.0  # to wait for one's turn and for the trial: clients seldom wait longer than 30 s
# Rules that took too long may have had a busy box against it: they get another try after a while.
_REFUSED_SECONDS = 60.0


@dataclass(frozen=True)
class _Verdict:
    """What was found, at a moment of `time.monotonic`. `problem` is None for rules that can be used."""

    problem: Failed | None
    at: float


class ConstraintTrials:
    """The trials for one bundle. So many rules as `compiling` are tried right now, or wait for that."""

    def __init__(self, tokenizer_file: Path, stop_token_ids: Sequence[int]) -> None:
        self.compiling = 0
        self._tokenizer_file = tokenizer_file
        self._stop_token_ids = stop_token_ids
        self._verdicts: OrderedDict[bytes, _Verdict] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, "constraint")
        self._trials: set[_Trial] = set()
        self._closed = False

    async def check(self, rules: Rules | None, receive: Receive) -> None:
        """Raise Refusal for rules that no answer can be held to, or when the client goes away meanwhile.

        `receive` is that of the client's request, whose body has been read.
        """
        if rules is None or rules == _ANY_OBJECT:
            return
        name = hashlib.sha256(f"{rules.kind} {rules.text}".encode()).digest()
        verdict = self._known(name)
        if verdict is None:
            verdict = await self._try(name, rules, receive)
        self._verdicts[name] = verdict
        self._verdicts.move_to_end(name)
        while len(self._verdicts) > _MOST_REMEMBERED:
            self._verdicts.popitem(last=False)
        if verdict.problem is not None:
            raise refusal_of(verdict.problem)

    def close(self) -> None:
        """End what is tried, and refuse those that wait."""
        self._closed = True
        for trial in self._trials:
            trial.give_up()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _known(self, name: bytes) -> _Verdict | None:
        """What was found of rules not too long ago."""
        verdict = self._verdicts.get(name)
        return None if verdict is None or self._is_stale(verdict) else verdict

    async def _try(self, name: bytes, rules: Rules, receive: Receive) -> _Verdict:
        """The verdict on rules. Raises Refusal when it cannot be had in time."""
        self._check_open()
        if self.compiling >= _MOST_WAITING:
            raise Refusal(
                429,
                f"{self.compiling} schemas and grammars wait to be compiled already, which is the most",
                code="queue_full",
                retry_after=5,
            )
        trial = _Trial(self._tokenizer_file, self._stop_token_ids, rules)
        self.compiling += 1
        self._trials.add(trial)
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._verdict, name, trial)
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            waited_for: set[asyncio.Future[Any]] = {work, gone}
            await asyncio.wait(waited_for, timeout=_MOST_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            self._check_open()
            if gone.done():
                raise Refusal(CLIENT_GONE, "the client did not wait")
            if not work.done():
                found = f"the schemas before this one were not compiled within {_MOST_SECONDS:.0f} s"
                raise Refusal(429, found, code="queue_full", retry_after=5)
            return work.result()
        finally:
            gone.cancel()
            trial.give_up()
            work.cancel()
            self._trials.discard(trial)
            self.compiling -= 1

    def _verdict(self, name: bytes, trial: _Trial) -> _Verdict:
        """What is found in the thread: nothing is tried again that was found while it waited there."""
        known = self._known(name)
        if known is None:
            known = _Verdict(trial.problem(), time.monotonic())
            if not trial.is_given_up:
                self._verdicts[name] = known
        return known

    def _check_open(self) -> None:
        if self._closed:
            raise Refusal(503, "the server is stopping", code="stopping", retry_after=5)

    def _is_stale(self, verdict: _Verdict) -> bool:
        return verdict.problem is not None and time.monotonic() - verdict.at > _REFUSED_SECONDS


class _Trial:
    """Rules that are compiled in a thread."""

    def __init__(self, tokenizer_file: Path, stop_token_ids: Sequence[int], rules: Rules) -> None:
        self._tokenizer_file = tokenizer_file
        self._stop_token_ids = stop_token_ids
        self._rules = rules
        self._compiler: ConstraintCompiler | None = None
        self._given_up = threading.Event()

    def problem(self) -> Failed | None:
        """What is wrong with the rules; None when nothing is."""
        try:
            self._compiler = ConstraintCompiler(
                self._tokenizer_file, self._stop_token_ids, in_background=True
            )
            try:
                if not self._given_up.is_set():
                    self._compiler.compile(self._rules)
            finally:
                self._compiler.close()
        except EdgephiError as error:
            return Failed(report(error))
        return None

    @property
    def is_given_up(self) -> bool:
        """Whether what it found may be wrong, because it was ended."""
        return self._given_up.is_set()

    def give_up(self) -> None:
        """Nobody waits for it any more; called by another thread."""
        self._given_up.set()
        if self._compiler is not None:
            self._compiler.kill()


async def _disconnected(receive: Receive) -> None:
    """Wait until a client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
