"""`edgephi serve`: answer over HTTP, by OpenAI's API."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgephi.cli.argument_types import NAME, read_size
from edgephi.cli.options import (
    api_key_file_option,
    bundle_argument,
    device_context_option,
    host_option,
    ollama_option,
    port_option,
    provider_option,
    served_system_option,
    switched_adapter_option,
)
from edgephi.cli.show.say import say
from edgephi.cli.system_message import system_message
from edgephi.cli.text_file import utf8_text
from edgephi.commands import install_command, shell_command
from edgephi.errors import NotSupportedError, UsageError

_KEY_VARIABLE = "EDGEPHI_API_KEY"


if TYPE_CHECKING:
    from edgephi.bundle.manifest import Manifest
    from edgephi.server.endpoints.service import Fetches


@click.command(no_args_is_help=True)
@bundle_argument
@host_option
@port_option(may_be_free=True)
@api_key_file_option(otherwise=f"the variable {_KEY_VARIABLE}; none on 127.0.0.1")
@served_system_option
@device_context_option
@provider_option
@switched_adapter_option
@click.option(
    "--cache-memory",
    callback=read_size,
    metavar="SIZE",
    help="Memory for the conversations that are kept. "
    "[default: half of what is available, room for one to eight contexts]",
)
@click.option(
    "--queue",
    type=click.IntRange(min=0),
    default=16,
    show_default=True,
    metavar="N",
    help="So many requests may wait; more are told to come back later (429).",
)
@click.option(
    "--deadline",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    metavar="S",
    help="Seconds that a request may take, waiting included; 0 is no limit.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="S",
    help="Seconds for what is begun, after the signal to end.",
)
@click.option(
    "--watchdog",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    metavar="S",
    help="Seconds without a sign of a working engine after which it is started again; ten times as long "
    "when it uses the processor.",
)
@click.option(
    "--max-body",
    callback=read_size,
    default="4MB",
    show_default=True,
    metavar="SIZE",
    help="The largest request, images aside.",
)
@click.option(
    "--max-images",
    callback=read_size,
    default="32MB",
    show_default=True,
    metavar="SIZE",
    help="Where the model sees: the most that images add to a request, in base64. Those of all requests that "
    "wait take twice as much.",
)
@click.option(
    "--image-urls",
    "fetches",
    type=click.Choice(["none", "public", "all"]),
    default="none",
    show_default=True,
    help="Where the model sees: fetch images that a request gives an address of (http, https) from no "
    "address, from those of the public internet, or from this machine and its network too.",
)
@click.option(
    "--allow-host",
    "hosts",
    type=NAME,
    multiple=True,
    metavar="NAME",
    help="On 127.0.0.1: answer to this name too, such as a proxy's. Can be given again.",
)
@click.option(
    "--allow-origin",
    "origins",
    type=NAME,
    multiple=True,
    metavar="URL",
    help="Let web pages of this origin use the API (CORS). Can be given again.",
)
@ollama_option
@click.option("--log-json", is_flag=True, help="Write the log as lines of JSON.")
@click.option("--log-prompts", is_flag=True, help="Write the text of prompts into the log.")
def serve(
    bundle: Path,
    *,
    host: str,
    port: int,
    api_key_file: Path | None,
    system: str | None,
    context: int | None,
    provider: str | None,
    adapter: str | None,
    cache_memory: int | None,
    queue: int,
    deadline: float,
    grace: float,
    watchdog: float,
    max_body: int,
    max_images: int,
    fetches: "Fetches",
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    ollama: bool,
    log_json: bool,
    log_prompts: bool,
) -> None:
    """Answer over HTTP, by OpenAI's API.

    When the model is loaded and has generated its first token, one line on standard output says where. The
    log goes to standard error. With each of the bundle's adapters it is a model of its own, BUNDLE:ADAPTER.
    SIGTERM and Ctrl-C end it after what is begun is answered.
    """
    from edgephi.bundle.adapter_artifact import open_bundle

    manifest = open_bundle(bundle, adapter).manifest
    sees = manifest.model.images is not None
    _check_packages(manifest.target.engine, provider or manifest.target.provider, sees=sees)
    if fetches != "none" and not sees:
        raise UsageError(
            f"--image-urls: expected a model that sees, found {manifest.model.id}, which reads text only",
            hint="leave the option out",
        )
    # Before any of this is imported, so that the packages can be missing.
    from edgephi.server.engine.messages import Open
    from edgephi.server.serve import Listening, ServeOptions
    from edgephi.server.serve import serve as run

    adapters = ", ".join(each.name for each in manifest.adapters)
    names = f"{manifest.name} with {adapters}" if adapters else manifest.name

    def ready(listening: Listening) -> None:
        facts = listening.ready
        say(
            f"{listening.url}  {names}, context {facts.context}, "
            f"{facts.engine} {facts.version} on {facts.provider}"
        )

    run(
        bundle,
        manifest,
        ServeOptions(
            host=host,
            port=port,
            api_key=_api_key(api_key_file),
            opening=Open(
                context=context,
                provider=provider,
                cache_bytes=cache_memory,
                system=_served_system(system, manifest),
                adapter=adapter,
            ),
            queue=queue,
            deadline=deadline or None,
            grace=grace,
            max_body=max_body,
            max_images=max_images,
            fetches=fetches,
            watchdog=watchdog,
            log_json=log_json,
            log_prompts=log_prompts,
            hosts=tuple(name.lower() for name in hosts),
            origins=origins,
            ollama=ollama,
        ),
        ready,
    )


def _check_packages(engine: str, provider: str, *, sees: bool) -> None:
    """Raise NotSupportedError when the extra `serve` is not installed or, where the model sees, `vision`."""
    from edgephi.engines.facts.registry import known_engines
    from edgephi.server.packages import extras_of_service, missing_packages

    missing = missing_packages(sees=sees)
    if missing:
        extras = [known_engines()[engine].provider(provider).extra] if engine in known_engines() else []
        raise NotSupportedError(
            f"this command needs {' and '.join(missing)}, not installed here",
            hint=install_command(*extras, *extras_of_service(sees=sees)),
        )


def _api_key(file: Path | None) -> str | None:
    """The key from a file, else from the environment, where the engine's process shall not find it."""
    from_environment = os.environ.pop(_KEY_VARIABLE, None)
    if file is None:
        place, key = f"the variable {_KEY_VARIABLE}", from_environment
        if key is None:
            return None
    else:
        from edgephi.guards.secret_file import read_secret_file

        place, key = str(file), utf8_text(read_secret_file(file, "an API key", group_may=True), file)
    key = key.strip()
    # What stands in a header: anything else could never be sent.
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise UsageError(
            f"expected a key of ASCII letters, digits and signs in {place}, found "
            f"{'nothing' if not key else 'other characters or spaces'}",
            hint=f"`{shell_command('openssl', 'rand', '-hex', '32')}` makes one",
        )
    return key


def _served_system(text: str | None, manifest: "Manifest") -> str | None:
    """The system message of requests that bring none: what was asked for, or the bundle's own."""
    asked = system_message(text)
    return (manifest.chat.system if asked is None else asked) or None
