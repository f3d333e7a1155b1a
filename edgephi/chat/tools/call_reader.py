"""Reads an answer while it is written: what is text, and what is a call of a function.

The answer is held to `edgephi.runtime.tools.call_grammar`, so all that comes after the form's mark is a call.
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass, field
from typing import Any

from edgephi.chat.tools.call_form import CallForm

_ID_LETTERS = string.ascii_letters + string.digits
_ID_LENGTH = 9  # so many, and no other letters, are what Mistral's templates want


@dataclass(frozen=True)
class ToolCall:
    """A call that is whole. `arguments` is JSON text: an object of the function's schema."""

    id: str
    name: str
    arguments: str

    @property
    def message(self) -> dict[str, Any]:
        """The call as a message of OpenAI's API has it among its `tool_calls`."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True)
class CallPiece:
    """More of the call number `place`: its first piece has id and name, those after it have arguments."""

    place: int
    arguments: str = ""
    id: str = ""
    name: str = ""


@dataclass
class CallReader:
    """Takes an answer's text piece by piece. `calls` are those that are whole by now."""

    form: CallForm
    calls: list[ToolCall] = field(default_factory=list)
    is_calling: bool = False
    """Whether the mark of a call has come, or must: there is no more text."""
    _unread: str = ""
    _is_text: bool = False  # that no call can begin any more
    _name: str = ""
    _id: str = ""
    _written: str = ""  # arguments so far
    _scan: _JsonScan | None = None

    def feed(self, text: str) -> tuple[str, list[CallPiece]]:
        """The text that can be shown after `text` has come, and what it adds to calls."""
        self._unread += text
        shown = "" if self.is_calling else self._text()
        return shown, self._calls() if self.is_calling else []

    def rest(self) -> str:
        """The text that is still held back when the answer has ended."""
        held, self._unread = ("" if self.is_calling else self._unread), ""
        return held

    @property
    def is_inside(self) -> bool:
        """Whether a call has begun and is not whole."""
        return self.is_calling and (self._scan is not None or not self.calls)

    def _text(self) -> str:
        if self.form.is_bare:
            return self._bare_text()
        mark = self.form.mark
        place = self._unread.find(mark)
        if place >= 0:
            self.is_calling = True
        else:
            place = len(self._unread) - _held(self._unread, mark)
        shown, self._unread = self._unread[:place], self._unread[place:]
        return shown

    def _bare_text(self) -> str:
        """The same where only the beginning of an answer tells a call from text."""
        before = self.form.before
        self.is_calling = not self._is_text and self._unread.startswith(before)
        if self.is_calling or (not self._is_text and before.startswith(self._unread)):
            return ""
        self._is_text = True
        shown, self._unread = self._unread, ""
        return shown

    def _calls(self) -> list[CallPiece]:
        pieces: list[CallPiece] = []
        while True:
            if self._scan is None:
                piece = self._begin()
                if piece is None:
                    return pieces
                pieces.append(piece)
            if self._scan is not None:
                taken = self._scan.take(self._unread)
                arguments, self._unread = self._unread[:taken], self._unread[taken:]
                self._written += arguments
                if arguments:
                    pieces.append(CallPiece(len(self.calls), arguments))
                if not self._scan.is_over:
                    return pieces
                self.calls.append(ToolCall(self._id, self._name, self._written))
                self._scan, self._name, self._written = None, "", ""

    def _begin(self) -> CallPiece | None:
        """The first piece of the next call, when all before its arguments has come."""
        opening = (self.form.between if self.calls else self.form.before) or ""
        within = self.form.within
        if not opening or not self._unread.startswith(opening) or within not in self._unread[len(opening) :]:
            return None
        self._name, _, self._unread = self._unread[len(opening) :].partition(within)
        # As the module `secrets` draws, which would bring OpenSSL into the engine's process.
        self._id = "".join(random.SystemRandom().choices(_ID_LETTERS, k=_ID_LENGTH))
        self._scan = _JsonScan()
        return CallPiece(len(self.calls), id=self._id, name=self._name)


@dataclass
class _JsonScan:
    """Finds the end of a JSON object."""

    is_over: bool = False
    _depth: int = 0
    _in_string: bool = False
    _escaped: bool = False

    def take(self, text: str) -> int:
        """How many letters of `text` belong to the object."""
        for place, letter in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = letter == "\\"
                self._in_string = letter != '"'
            elif letter == '"':
                self._in_string = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.is_over = True
                    return place + 1
        return len(text)


def _held(text: str, mark: str) -> int:
    """How many letters at the end of `text` may be the beginning of the mark."""
    longest = min(len(mark) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if mark.startswith(text[-size:])), 0)
