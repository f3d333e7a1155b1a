"""`edgephi`: the group of all commands, and the one place where an error becomes a line and an exit code."""

import builtins
import contextlib
import importlib
import keyword
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

import edgephi
from edgephi.cli.listing import COMMANDS, GROUPS
from edgephi.cli.suggestions import SuggestingGroup, usage_message
from edgephi.cli.terminal.interrupts import INTERRUPTED, Ended, handle_ending_signals, let_go_of_signals
from edgephi.cli.terminal.standard_streams import (
    drop_output,
    is_reader_gone,
    open_standard_streams,
    output_problem,
)
from edgephi.commands import edgephi_command, install_command
from edgephi.errors import DoesNotFitError, EdgephiError, NotSupportedError, UsageError, from_os_error

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_CLOSED_PIPE = 128 + signal.SIGPIPE  # what a shell reports when a reader went away
_EXTRAS: dict[str, str] = {
    "asyncssh": "flash",
    "cryptography": "flash",
    "cyclonedx": "sbom",
    "httpx2": "flash",
    "huggingface_hub": "build",
    "numpy": "build",
    "onnx": "build",
    "packageurl": "sbom",
    "packaging": "build",
    "threadpoolctl": "build",
    "tokenizers": "build",
}


class LazyGroup(SuggestingGroup):
    """A group that knows its commands by name and imports each when it is used."""

    debug = False

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command; None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        is_pythons = keyword.iskeyword(cmd_name) or hasattr(builtins, cmd_name)
        own = f"{cmd_name}_" if is_pythons else cmd_name
        command = getattr(importlib.import_module(f"edgephi.cli.{own}"), own)
        assert isinstance(command, click.Command)  # noqa: S101 - for the type checker
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the listing from `GROUPS`, where click would import every command."""
        width = max(map(len, COMMANDS))
        for heading, commands in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Complete the name of a command from `COMMANDS`, where click would import every command."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the arguments; what `--help` prints may have no reader either."""
        with _reader_may_go():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        with _reader_may_go(), _notes_said():
            return super().invoke(ctx)


@contextlib.contextmanager
def _reader_may_go() -> Iterator[None]:
    """End without a word when nobody reads what is printed any more (`edgephi run … | head`)."""
    try:
        yield
    except OSError as cause:
        if not is_reader_gone(cause):
            raise
        drop_output()
        raise click.exceptions.Exit(_CLOSED_PIPE) from None


@contextlib.contextmanager
def _notes_said() -> Iterator[None]:
    """Say what is to be known beside an error, or when a command is interrupted."""
    try:
        yield
    except BaseException as error:
        notes: list[str] = []
        told: BaseException | None = error
        while told is not None:
            notes += getattr(told, "__notes__", ())
            told = told.__cause__
        if notes:
            from edgephi.cli.show.say import say

            say("\n".join(f"note: {note}" for note in notes), err=True)
        raise


def _set_debug(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
    assert isinstance(ctx.command, LazyGroup)  # noqa: S101 - for the type checker
    ctx.command.debug = value


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show tracebacks of errors."
)
@click.version_option(edgephi.__version__, "--version", prog_name="edgephi", message="%(prog)s %(version)s")
def cli() -> None:
    """Build, prove and run Phi-3-family models on edge devices."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the code that `edgephi.errors` gives to what happened."""
    code = INTERRUPTED
    try:
        handle_ending_signals()
        code = _exit_code(arguments)
        problem = output_problem()
        if problem is not None and code == 0:
            code = _report(problem.message, problem.hint, problem.exit_code)
        let_go_of_signals()
    except KeyboardInterrupt:  # again, while an error is told, or when all is done
        pass
    except Ended as ended:
        code = ended.exit_code
    sys.exit(code)


def _exit_code(arguments: list[str] | None) -> int:  # noqa: PLR0911 - one return a kind of error
    try:
        open_standard_streams()
        code = cli.main(arguments, prog_name="edgephi", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as usage:
        usage.show()
        return UsageError.exit_code
    except click.UsageError as usage:
        context = usage.ctx.command_path if usage.ctx else "edgephi"
        return _report(
            usage_message(usage),
            f"see `{edgephi_command(*context.split()[1:], '--help')}`",
            UsageError.exit_code,
        )
    except click.ClickException as cause:
        return _report(cause.format_message(), f"see `{edgephi_command('--help')}`", UsageError.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Ended as ended:
        return ended.exit_code
    except EdgephiError as error:
        return _report(error.message, error.hint, error.exit_code)
    except OSError as cause:
        refused = from_os_error(cause)
        return _report(refused.message, refused.hint, refused.exit_code)
    except MemoryError:
        return _report("not enough memory", "stop other programs", DoesNotFitError.exit_code)
    except ModuleNotFoundError as missing:
        extra = _EXTRAS.get((missing.name or "").partition(".")[0])
        if extra is None:
            return _report_bug(missing, sys.argv[1:] if arguments is None else arguments)
        return _report(
            f"this command needs {missing.name}, which is not installed",
            install_command(extra),
            NotSupportedError.exit_code,
        )
    except Exception as bug:  # nothing but a line may reach the user
        return _report_bug(bug, sys.argv[1:] if arguments is None else arguments)
    return code if isinstance(code, int) else 0


def _report_bug(bug: Exception, arguments: Sequence[str]) -> int:
    summary = f"{type(bug).__name__}: {bug}"
    if cli.debug:
        hint = "report it with the traceback above"
    else:
        hint = f"run `{edgephi_command('--debug', *arguments)}` and report what it shows"
    return _report(f"bug in edgephi: {summary}", hint, 1)


def _report(message: str, hint: str, code: int) -> int:
    """Print an error as one line and its hint as another."""
    from edgephi.cli.show.say import error_lines, say

    if cli.debug:
        traceback.print_exc()
    say(error_lines(message, hint), err=True)
    return code
