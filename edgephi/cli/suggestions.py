"""What was probably meant by a command or an option that does not exist."""

from collections.abc import Iterable, Mapping

import click

# What other programs call our commands by.
_OTHER_NAMES: Mapping[str, str] = {
    "ask": "run",
    "benchmark": "bench",
    "cleanup": "gc",
    "convert": "build",
    "delete": "rm",
    "deploy": "flash",
    "download": "pull",
    "export": "build",
    "generate": "run",
    "help": "--help",
    "info": "inspect",
    "install": "flash",
    "ls": "list",
    "publish": "push",
    "quantise": "build",
    "quantize": "build",
    "remove": "rm",
    "server": "serve",
    "show": "inspect",
    "upload": "push",
    "version": "--version",
}


class SuggestingGroup(click.Group):
    """A group that says which of its commands was meant by a name that is none."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is called. Raises click.UsageError for a name that is none."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            commands = self.list_commands(ctx)
            other = _OTHER_NAMES.get(name.lower(), "")
            known = [other] if other in commands or other.startswith("--") else []
            raise click.UsageError(
                f"expected a command, found {name!r}" + _meant(known or _close(name.lower(), commands)), ctx
            )
        return super().resolve_command(ctx, args)


def usage_message(error: click.UsageError) -> str:
    """A usage error of click's as one line; for an option that is none, with those that were meant."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return error.format_message()
    options = [
        name
        for parameter in error.ctx.command.get_params(error.ctx)
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    ]
    name = error.option_name
    return f"expected an option of {error.ctx.command_path}, found {name!r}" + _meant(_close(name, options))


def _close(name: str, known: Iterable[str]) -> list[str]:
    import difflib

    return difflib.get_close_matches(name, list(known), n=1)


def _meant(names: list[str]) -> str:
    return f"; did you mean {names[0]}?" if names else ""
