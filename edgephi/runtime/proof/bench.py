"""Several measurements of several bundles, put together: medians, extremes, and the bound by bandwidth.

Runs of different bundles alternate, so that a busy moment of the machine meets all of them.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.manifest import Manifest, read_manifest
from edgephi.machine.bandwidth import last_level_cache_bytes
from edgephi.machine.measurement import BenchRequest, ImageSpeed, Measurement, Speed
from edgephi.machine.memory import loaded_bytes
from edgephi.runtime.proof.measure import measure
from edgephi.steps import Step


@dataclass(frozen=True)
class Range:
    """A number that was measured several times."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class SpeedSummary:
    """One prompt length in all runs; see `edgephi.machine.measurement.Speed`.

    `decode_limit` is what memory bandwidth allows when each token reads its weights and the cache once: None
    where that is not known, or all of it fits into the processor's cache. `share_of_limit` is the part of
    it that the median reaches.
    """

    prompt_tokens: int
    generated_tokens: int
    first_token_seconds: Range
    prefill_tokens_per_second: Range
    decode_tokens_per_second: Range
    peak_memory_bytes: int
    decode_limit: float | None
    share_of_limit: float | None


@dataclass(frozen=True)
class ImageSummary:
    """An image in all runs; see `edgephi.machine.measurement.ImageSpeed`."""

    width: int
    height: int
    tokens: int
    tiles: int
    prompt_tokens: int
    read_seconds: Range
    encode_seconds: Range
    first_token_seconds: Range


@dataclass(frozen=True)
class BundleSummary:
    """One bundle in all runs. `artifact_bytes` are the engine's files, the peaks the largest of all runs."""

    bundle: str
    name: str
    model: str
    target: str
    engine: str
    version: str
    provider: str
    bits_per_weight: float
    artifact_bytes: int
    context: int
    load_seconds: Range
    peak_memory_bytes: int
    gpu_memory_bytes: int | None
    prompts: tuple[SpeedSummary, ...]
    image: ImageSummary | None = None


def bench(
    bundles: Sequence[Path],
    request: BenchRequest,
    *,
    runs: int,
    bandwidth: Callable[[str], float | None],
    step: Step,
) -> list[BundleSummary]:
    """Measure each bundle `runs` times, each time in a fresh process.

    `bandwidth` gives the bytes per second that a provider reads from its memory. Raises EdgephiError when a
    bundle cannot be measured.
    """
    manifests = [read_manifest(bundle) for bundle in bundles]
    size = sum(request.prompt_lengths) + len(request.prompt_lengths) * request.generated_tokens
    measured: list[list[Measurement]] = [[] for _ in bundles]
    for run in range(1, runs + 1):
        for bundle, manifest, own in zip(bundles, manifests, measured, strict=True):
            with step(f"run {run} of {runs}: {manifest.name}", size) as done:
                own.append(measure(bundle, request, done=done))
    return [
        _summary(bundle, manifest, own, bandwidth(own[0].provider))
        for bundle, manifest, own in zip(bundles, manifests, measured, strict=True)
    ]


def _summary(
    bundle: Path, manifest: Manifest, runs: Sequence[Measurement], bandwidth: float | None
) -> BundleSummary:
    gpu_bytes = [run.gpu_memory_bytes for run in runs if run.gpu_memory_bytes is not None]
    return BundleSummary(
        bundle=str(bundle),
        name=manifest.name,
        model=manifest.model.id,
        target=manifest.target.name,
        engine=runs[0].engine,
        version=runs[0].version,
        provider=runs[0].provider,
        bits_per_weight=manifest.quant.bits_per_weight,
        artifact_bytes=loaded_bytes(manifest),
        context=runs[0].context,
        load_seconds=_range([run.load_seconds for run in runs]),
        peak_memory_bytes=max(run.peak_memory_bytes for run in runs),
        gpu_memory_bytes=max(gpu_bytes) if gpu_bytes else None,
        prompts=tuple(
            _speeds(speeds, manifest, bandwidth) for speeds in zip(*(run.speeds for run in runs), strict=True)
        ),
        image=_image([run.image for run in runs if run.image is not None]),
    )


def _image(runs: Sequence[ImageSpeed]) -> ImageSummary | None:
    if not runs:
        return None
    return ImageSummary(
        width=runs[0].width,
        height=runs[0].height,
        tokens=runs[0].tokens,
        tiles=runs[0].tiles,
        prompt_tokens=runs[0].prompt_tokens,
        read_seconds=_range([run.read_seconds for run in runs]),
        encode_seconds=_range([run.encode_seconds for run in runs]),
        first_token_seconds=_range([run.first_token_seconds for run in runs]),
    )


def _speeds(speeds: Sequence[Speed], manifest: Manifest, bandwidth: float | None) -> SpeedSummary:
    decode = _range([speed.decode_tokens_per_second for speed in speeds])
    cached = speeds[0].prompt_tokens + speeds[0].generated_tokens / 2
    weights = loaded_bytes(manifest) - manifest.requires.idle_bytes
    read_bytes = weights + manifest.requires.memory_per_token_bytes * cached
    limit = None
    if bandwidth is not None and read_bytes > last_level_cache_bytes():
        limit = bandwidth / read_bytes
    return SpeedSummary(
        prompt_tokens=speeds[0].prompt_tokens,
        generated_tokens=min(speed.generated_tokens for speed in speeds),
        first_token_seconds=_range([speed.first_token_seconds for speed in speeds]),
        prefill_tokens_per_second=_range([speed.prefill_tokens_per_second for speed in speeds]),
        decode_tokens_per_second=decode,
        peak_memory_bytes=max(speed.peak_memory_bytes for speed in speeds),
        decode_limit=limit,
        share_of_limit=None if limit is None else decode.median / limit,
    )


def _range(numbers: Sequence[float]) -> Range:
    return Range(statistics.median(numbers), min(numbers), max(numbers))
