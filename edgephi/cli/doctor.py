"""`edgephi doctor`: what this machine is, and what it can build and run."""

import dataclasses
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from edgephi.cli.options import json_option
from edgephi.cli.show.say import say, say_document

if TYPE_CHECKING:
    from edgephi.build.choosing.this_machine import ThisMachine
    from edgephi.errors import NotSupportedError
    from edgephi.installed.extras import OutOfRange

_WIDTH = 80


@click.command()
@json_option
def doctor(*, as_json: bool) -> None:
    """Say what this machine is, and what it can build and run.

    Its processor, memory and accelerators, the engines installed, packages of a version that edgephi is not
    made for, and each target: possible here, or why not and what would help. Takes a few seconds, of which
    one reads memory as fast as it can.
    """
    from edgephi.build.choosing.this_machine import survey

    machine = survey()
    if as_json:
        say_document(_document(machine))
    else:
        say(_text(machine))


def _document(machine: "ThisMachine") -> dict[str, Any]:
    from edgephi.installed.extras import out_of_range

    host = dataclasses.asdict(machine.host)
    return {
        **host,
        "read_bytes_per_second": round(machine.bytes_per_second),
        "engines": [dataclasses.asdict(engine) for engine in machine.engines.values()],
        "packages_out_of_range": [dataclasses.asdict(package) for package in out_of_range()],
        "targets": [
            {
                "name": state.target.name,
                "engine": state.target.engine,
                "provider": state.target.provider,
                "build": _verdict(state.build_problem),
                "run": _verdict(state.run_problem),
            }
            for state in machine.targets
        ],
    }


def _verdict(problem: "NotSupportedError | None") -> dict[str, Any]:
    if problem is None:
        return {"possible": True}
    return {"possible": False, "reason": problem.message, "hint": problem.hint}


def _text(machine: "ThisMachine") -> str:
    """All of it in at most 80 columns."""
    from edgephi.cli.show.table import table
    from edgephi.installed.extras import out_of_range

    engines = [
        (state.engine, ", ".join(filter(None, (state.version or "not installed", state.details))))
        for state in machine.engines.values()
    ]
    return "\n\n".join(
        [
            "\n".join(_facts(machine)),
            table(engines, ("engine", "version")),
            *(["\n".join(_packages(wrong))] if (wrong := out_of_range()) else []),
            "\n".join(_targets(machine)),
        ]
    )


def _facts(machine: "ThisMachine") -> Iterator[str]:
    from edgephi.cli.show.sizes import human_bytes

    host, processor = machine.host, machine.host.processor
    yield from _fact("system", f"{host.system}, kernel {host.kernel}, Python {host.python}")
    if host.board:
        yield from _fact("board", host.board)
    physical = f"{processor.physical_cores} cores, " if processor.physical_cores else ""
    yield from _fact("processor", f"{processor.model}, {processor.architecture}")
    yield from _fact("", f"{physical}{processor.usable_cores} of {processor.logical_cores} threads to use")
    yield from _fact("", " ".join(processor.features) or "no features that matter here")
    yield from _fact(
        "memory", f"{human_bytes(host.memory_bytes)}, of which {human_bytes(host.available_bytes)} are free"
    )
    yield from _fact("", f"read at {machine.bytes_per_second / 1e9:.1f} GB/s, measured with all threads")
    if host.is_busy:
        yield from _fact("", f"too low: other programs took {host.busy_percent:.0f} % of the processors")
    label = "accelerator"
    for accelerator in host.accelerators:
        words = [accelerator.name, f"driver {accelerator.driver}" if accelerator.driver else ""]
        if accelerator.memory_bytes is not None:
            words.append(human_bytes(accelerator.memory_bytes))
        if accelerator.bytes_per_second is not None:
            words.append(f"{accelerator.bytes_per_second / 1e9:.0f} GB/s by its clock")
        yield from _fact(label, ", ".join(filter(None, words)))
        if accelerator.problem:
            yield from _fact("", f"cannot be used: {accelerator.problem}")
        label = ""
    if not host.accelerators:
        yield from _fact(label, "no GPU and no NPU found")


def _packages(wrong: "Sequence[OutOfRange]") -> Iterator[str]:
    """The packages whose version may not work, and what brings the right ones."""
    from edgephi.cli.show.table import table
    from edgephi.commands import install_command

    rows = [
        (each.package, each.installed, f"{each.allowed}{f' ({each.extra})' if each.extra else ''}")
        for each in wrong
    ]
    yield from table(rows, ("wrong version", "here", "edgephi needs")).splitlines()
    extras = sorted({each.extra for each in wrong} - {""})
    yield from _wrapped("  ", install_command(*extras))


def _targets(machine: "ThisMachine") -> Iterator[str]:
    """The table of targets, below each row the reasons of what is not possible."""
    from edgephi.cli.show.table import table

    rows = [
        (state.target.name, "no" if state.build_problem else "yes", "no" if state.run_problem else "yes")
        for state in machine.targets
    ]
    header, *lines = table(rows, ("target", "build", "run")).splitlines()
    yield header
    for line, state in zip(lines, machine.targets, strict=True):
        yield line
        for what, problem in (("build", state.build_problem), ("run", state.run_problem)):
            if problem is not None:
                yield from _wrapped(f"  {what + ':':<7}", problem.message)
                yield from _wrapped(" " * 9, problem.hint)


def _fact(label: str, value: str) -> Iterator[str]:
    return _wrapped(f"{label:<13}", value)


def _wrapped(label: str, value: str) -> Iterator[str]:
    """A label in its own column, and its value wrapped beside it."""
    yield from textwrap.wrap(
        value,
        _WIDTH,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )
