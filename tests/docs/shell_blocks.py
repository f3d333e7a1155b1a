"""The blocks of a page of the documentation that a reader pastes into a shell.

A comment before a block, which no reader sees, says what the block needs:

    <!-- given: COMMAND -->       what the reader has done before; it is run first
    <!-- on the box -->           the block is pasted on the device, in its home
    <!-- not run: REASON -->      it cannot be run by a test
    <!-- ci: test -->             it is all the tests, which `.ci/run` runs
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    *sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "docs").rglob("*.md")
        if path.name != "reference.md"  # usage texts only; a test of its own holds them
    ),
)

_REMARK = re.compile(r"\s# .*")
_FENCE = re.compile(r"^ *```(\w*)$")
_COMMENT = re.compile(r"^<!-- (given|on the box|not run)(?:: (.*))? -->$")


@dataclass(frozen=True)
class Command:
    """What is pasted at once, and what the page shows that it prints ("" where it shows nothing)."""

    text: str
    line: int
    shown: str = ""

    @property
    def error_lines(self) -> list[str]:
        """The lines by which the page says that the command fails, and how."""
        return [line for line in self.shown.splitlines() if line.startswith(("error: ", "hint: ", "ls: "))]


@dataclass
class Block:
    """One block: `commands` in their order, after those in `given`."""

    line: int
    commands: list[Command] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    on_the_box: bool = False
    not_run: str = ""


def shell_blocks(page: str) -> list[Block]:
    """The blocks `sh` and `console` of a page, whose path is relative to the repository."""
    return list(_blocks((ROOT / page).read_text(encoding="utf-8").splitlines()))


def _blocks(lines: list[str]) -> Iterator[Block]:
    pending = Block(0)
    numbered = enumerate(lines, 1)
    for number, line in numbered:
        if comment := _COMMENT.match(line):
            kind, text = comment.groups()
            if kind == "given":
                pending.given.append(text)
            elif kind == "on the box":
                pending.on_the_box = True
            else:
                pending.not_run = text
        if line == "<!-- ci: test -->":
            pending.not_run = "it is all the tests"
        if not (fence := _FENCE.match(line)):
            continue
        inside = []
        for _, each in numbered:
            if _FENCE.match(each):
                break
            inside.append(each)
        if fence[1] in ("sh", "console"):
            pending.line = number
            read = _typed if fence[1] == "console" else _pasted
            pending.commands = list(read(inside, number + 1))
            yield pending
            pending = Block(0)


def _pasted(lines: list[str], start: int) -> Iterator[Command]:
    """The commands of a block without output: a line each, with those that a quote or a `\\` goes on in."""
    text, first = "", start
    for number, line in enumerate(lines, start):
        text, first = (f"{text}\n{line}", first) if text else (line, number)
        if text.endswith("\\") or _REMARK.sub("", text).count("'") % 2:
            continue
        if text.strip():
            yield Command(text, first)
        text = ""


def _typed(lines: list[str], start: int) -> Iterator[Command]:
    """The commands of a block with output: those behind `$ `."""
    text, first, shown = "", start, list[str]()
    for number, line in enumerate([*lines, "$ "], start):
        if not line.startswith("$ "):
            shown.append(line)
            continue
        if text:
            yield Command(text, first, "\n".join(shown))
        text, first, shown = line[2:], number, []
