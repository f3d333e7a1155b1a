"""`edgephi bench`: how fast bundles are on this machine."""

import dataclasses
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgephi.cli.argument_types import ReadPath, WrittenPath
from edgephi.cli.completion import complete_bundle
from edgephi.cli.options import crops_option, device_context_option, json_option, opened, provider_option
from edgephi.cli.output_file import write_output
from edgephi.cli.show.say import say, say_document
from edgephi.commands import shell_command
from edgephi.errors import UsageError

if TYPE_CHECKING:
    from edgephi.machine.host import Host
    from edgephi.runtime.proof.bench import BundleSummary, SpeedSummary

    LengthsType = click.ParamType[tuple[int, ...]]
else:
    LengthsType = click.ParamType  # not generic in click 8.2

_WIDTH = 80
_NAME_COLUMNS = 18


class PromptLengths(LengthsType):
    """Whole numbers from 1 on with commas between them."""

    name = "lengths"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The numbers in rising order, each once."""
        words = str(value).split(",")
        if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
            self.fail(f"expected whole numbers such as 32,128,512, found {value!r}", param, ctx)
        return tuple(sorted({int(word) for word in words}))


@click.command(no_args_is_help=True)
@click.argument(
    "bundles", nargs=-1, required=True, type=ReadPath(), metavar="BUNDLE...", shell_complete=complete_bundle
)
@click.option(
    "--prompt-tokens",
    "prompt_lengths",
    type=PromptLengths(),
    metavar="N,N,...",
    help="Lengths of the prompts. [default: those of 32,128,512 that fit the context]",
)
@click.option(
    "--generate",
    "generated_tokens",
    type=click.IntRange(min=2),
    default=32,
    show_default=True,
    metavar="N",
    help="Tokens to generate after each prompt.",
)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Processes to start for each bundle; medians are shown.",
)
@click.option(
    "--image",
    type=ReadPath(),
    metavar="FILE",
    help="Measure an answer about this image, too: reading it, its encoder, and the first token.",
)
@crops_option
@click.option("--compare", is_flag=True, help="Show how many times as fast each bundle is as the first one.")
@click.option(
    "--html",
    "page",
    type=WrittenPath(dir_okay=False),
    metavar="FILE",
    help="Write a page with plots, too: one file that needs nothing else.",
)
@device_context_option
@provider_option
@json_option
def bench(
    bundles: tuple[Path, ...],
    *,
    prompt_lengths: tuple[int, ...] | None,
    generated_tokens: int,
    runs: int,
    image: Path | None,
    crops: int | None,
    compare: bool,
    page: Path | None,
    context: int | None,
    provider: str | None,
    as_json: bool,
) -> None:
    """Measure bundles here: load, prefill, decode and memory.

    Each run is a process of its own that opens one bundle and answers one prompt of each length; runs of
    several bundles alternate. The limit is what memory bandwidth allows, because every token reads all
    weights. Memory is what the longest prompt takes, or all of --context where that is given.
    """
    from edgephi.bundle.manifest import read_manifest
    from edgephi.cli.show.machine import warn_when_busy
    from edgephi.cli.show.progress import step
    from edgephi.machine.measurement import BenchRequest
    from edgephi.machine.provider_memory import measured_host, provider_memory
    from edgephi.runtime.adapter import is_emulated
    from edgephi.runtime.images.in_messages import look_at
    from edgephi.runtime.proof.bench import bench as measure_bundles
    from edgephi.runtime.proof.measure import check_lengths, fitting_lengths

    if compare and len(bundles) < 2:
        raise UsageError("--compare: expected two bundles or more, found one", hint="name the others too")
    if page is not None and not page.absolute().parent.is_dir():
        raise UsageError(
            f"--html {page}: expected a file in a folder that exists",
            hint=shell_command("mkdir", "-p", page.parent),
        )
    bundles = tuple(map(opened, bundles))
    manifests = [read_manifest(bundle) for bundle in bundles]
    contexts = [manifest.limits.context for manifest in manifests]
    lengths = prompt_lengths or fitting_lengths(min(context or min(contexts), *contexts), generated_tokens)
    request = BenchRequest(
        lengths,
        generated_tokens,
        context=context,
        provider=provider,
        image="" if image is None else str(image.absolute()),
        crops=crops,
    )
    for manifest in manifests:
        check_lengths(manifest, request)
        if image is not None:
            look_at([image], manifest.model.images, crops)
    host, bandwidth = measured_host()
    warn_when_busy(host)
    measured = measure_bundles(
        bundles,
        request,
        runs=runs,
        # An emulator is bound by its own work, not by memory.
        bandwidth=lambda name: (
            None if is_emulated(name) else provider_memory(host, bandwidth, name).bytes_per_second
        ),
        step=step,
    )
    names = _names(measured)
    if page is not None:
        from edgephi.cli.pages.bench_page import bench_page

        moment = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        text = bench_page(host, bandwidth, names, measured, runs=runs, moment=moment)
        write_output(page, text)
    document = {
        "machine": {**dataclasses.asdict(host), "read_bytes_per_second": round(bandwidth)},
        "runs": runs,
        "bundles": [
            {**dataclasses.asdict(summary), "emulated": is_emulated(summary.provider)} for summary in measured
        ],
    }
    if as_json:
        say_document(document)
    else:
        say(_text(host, bandwidth, names, measured, compare=compare))


def _text(
    host: "Host",
    bandwidth: float,
    names: Sequence[str],
    measured: "Sequence[BundleSummary]",
    *,
    compare: bool,
) -> str:
    """Everything in at most 80 columns, a table for each prompt length."""
    from edgephi.cli.show.machine import machine_line
    from edgephi.cli.show.numbers import seconds
    from edgephi.cli.show.sizes import human_bytes
    from edgephi.cli.show.table import table
    from edgephi.runtime.adapter import EMULATION_NOTE, is_emulated

    lines = textwrap.wrap(machine_line(host, bandwidth), _WIDTH)
    width = max(map(len, names))
    lines += [
        f"{name:<{width}}  {each.engine} {each.version} on {each.provider}"
        for name, each in zip(names, measured, strict=True)
    ]
    on_gpu = any(each.gpu_memory_bytes is not None for each in measured)
    header = ["bundle", "load", "memory", "GPU memory", "artifact", "bits/weight"]
    rows = [
        [
            name,
            seconds(each.load_seconds.median),
            human_bytes(each.peak_memory_bytes),
            "-" if each.gpu_memory_bytes is None else human_bytes(each.gpu_memory_bytes),
            human_bytes(each.artifact_bytes),
            f"{each.bits_per_weight:.2f}",
        ]
        for name, each in zip(names, measured, strict=True)
    ]
    if not on_gpu:
        for row in (header, *rows):
            del row[3]
    blocks = ["\n".join(lines), table(rows, header, right=range(1, len(header)))]
    emulated = [is_emulated(each.provider) for each in measured]
    by_length = zip(*(each.prompts for each in measured), strict=True)
    blocks += [_prompt_table(names, speeds, emulated, compare=compare) for speeds in by_length]
    blocks += _image_tables(names, measured)
    blocks += [
        "\n".join(textwrap.wrap(f"{name}: {EMULATION_NOTE}", _WIDTH))
        for name, is_one in zip(names, emulated, strict=True)
        if is_one
    ]
    return "\n\n".join(blocks)


def _prompt_table(
    names: Sequence[str], speeds: "Sequence[SpeedSummary]", emulated: Sequence[bool], *, compare: bool
) -> str:
    """All bundles at one prompt length. An `emulated` one is not compared: its speed is no device's."""
    from edgephi.cli.show.numbers import rate, seconds, times
    from edgephi.cli.show.table import table

    first = speeds[0]
    rows = []
    for name, speed, is_one in zip(names, speeds, emulated, strict=True):
        prefill, decode = speed.prefill_tokens_per_second, speed.decode_tokens_per_second
        if compare and (is_one or emulated[0]):
            prefills, decodes = [rate(prefill.median), "-"], [rate(decode.median), "-"]
        elif compare:
            prefills = [rate(prefill.median), times(prefill.median, first.prefill_tokens_per_second.median)]
            decodes = [rate(decode.median), times(decode.median, first.decode_tokens_per_second.median)]
        else:
            prefills = [rate(prefill.median)]
            decodes = [rate(decode.median), f"{rate(decode.low)}-{rate(decode.high)}"]
        limit = "-" if speed.decode_limit is None else rate(speed.decode_limit)
        reached = "-" if speed.share_of_limit is None else f"{speed.share_of_limit:.0%}"
        rows.append([name, seconds(speed.first_token_seconds.median), *prefills, *decodes, limit, reached])
    speed_columns = (
        ["prefill/s", "times", "decode/s", "times"] if compare else ["prefill/s", "decode/s", "range"]
    )
    header = ["bundle", "first token", *speed_columns, "limit", "reached"]
    title = f"prompt of {first.prompt_tokens} tokens, {first.generated_tokens} generated"
    return f"{title}\n{table(rows, header, right=range(1, len(header)))}"


def _image_tables(names: Sequence[str], measured: "Sequence[BundleSummary]") -> list[str]:
    """The image, for all bundles to which it is as many tokens: a model may see fewer tiles of it."""
    from edgephi.cli.show.numbers import seconds
    from edgephi.cli.show.table import table

    header = ["bundle", "first token", "read", "encoder", "a tile"]
    by_title: dict[str, list[list[str]]] = {}
    for name, each in zip(names, measured, strict=True):
        if (image := each.image) is not None:
            title = f"image of {image.width} x {image.height}: {image.tokens} tokens, {image.tiles} tiles"
            moments = (image.first_token_seconds, image.read_seconds, image.encode_seconds)
            row = [name, *(seconds(moment.median) for moment in moments)]
            row.append(seconds(image.encode_seconds.median / image.tiles))
            by_title.setdefault(title, []).append(row)
    return [
        f"{title}\n{table(rows, header, right=range(1, len(header)))}" for title, rows in by_title.items()
    ]


def _names(measured: "Sequence[BundleSummary]") -> list[str]:
    """A short name for each bundle: its own or, where two have the same, its folder's."""
    own = [each.name for each in measured]
    names = own if len(set(own)) == len(own) else [Path(each.bundle).name or each.bundle for each in measured]
    return [name if len(name) <= _NAME_COLUMNS else f"{name[: _NAME_COLUMNS - 1]}…" for name in names]
