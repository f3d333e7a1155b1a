"""`--exporter upstream`: the engine's own converter in our place, in a process of its own.

These converters load the whole model, with PyTorch. They are here for two reasons: they may know an option
that we do not, and they are what our exporters are held against. Nothing of theirs is imported: their output
is captured, and whether the model fits into memory is checked before they start.
"""

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.unfinished import file_sha256
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.commands import pip_command
from edgephi.declared.recipe import Quant
from edgephi.declared.target import Target
from edgephi.engines.facts.footprint import Footprint
from edgephi.errors import DoesNotFitError, NotSupportedError
from edgephi.export.exporter import ContextLimit, Exporter
from edgephi.export.plain_decoder import check_plain_decoder
from edgephi.export.stream.one_pass import StreamReport
from edgephi.installed.extras import with_installed
from edgephi.installed.origin import requirement
from edgephi.processes.child_process import run_child
from edgephi.processes.ending import ending
from edgephi.quantize.tensor_plan import TensorPlans
from edgephi.reference.weights import Weights
from edgephi.steps import Step, silent

Command = Callable[[Path, Path, Path, Quant, Target], list[str]]
"""Checkpoint's folder, folder to write, cache folder, quantisation, target -> a module and its arguments."""


@dataclass(frozen=True)
class Upstream:
    """An engine's own converter.

    `distributions` must be installed: an `extra` of edgephi brings some, `packages` the others.
    `peak_bytes_per_parameter` is the peak memory of a conversion to int4, measured with 3.8 billion
    parameters by tests/bench/build.py. What it does to embedding and head cannot be chosen: `embedding_bits`,
    `head_bits` (None: as the other matrices).
    """

    name: str
    distributions: tuple[str, ...]
    packages: tuple[str, ...]
    peak_bytes_per_parameter: float
    command: Command
    embedding_bits: int | None = None
    head_bits: int | None = None
    always_symmetric: bool | None = None
    extra: str = ""

    @property
    def install(self) -> str:
        """The command that brings all of its distributions."""
        own = requirement(with_installed([self.extra] if self.extra else []))
        return pip_command("install", *own, *self.packages)

    @property
    def version(self) -> str:
        """The version of the first of its distributions."""
        return importlib.metadata.version(self.distributions[0])


def _genai(source: Path, folder: Path, cache: Path, quant: Quant, target: Target) -> list[str]:
    options = [f"block_size={quant.group_size}", f"is_symmetric={str(quant.symmetric).lower()}"]
    # Without this the embedding stays float32: as many bytes as a seventh of a small model.
    options.append("op_types_to_quantize=MatMul/Gather")
    options.append(f"accuracy_level={target.kernels.accuracy_level}")
    places = ["-i", str(source), "-o", str(folder), "-c", str(cache)]
    kind = ["-p", "int4", "-e", target.provider]
    return ["onnxruntime_genai.models.builder", *places, *kind, "--extra_options", *options]


def _optimum(source: Path, folder: Path, _cache: Path, quant: Quant, _target: Target) -> list[str]:
    scheme = ["--weight-format", "int4", "--group-size", str(quant.group_size), "--ratio", "1.0"]
    if quant.symmetric:
        scheme.append("--sym")
    task = ["--task", "text-generation-with-past"]
    return [
        "optimum.commands.optimum_cli", "export", "openvino", "-m", str(source), *task, *scheme, str(folder)
    ]  # fmt: skip


def _mlx(source: Path, folder: Path, _cache: Path, quant: Quant, _target: Target) -> list[str]:
    scheme = ["-q", "--q-bits", "4", "--q-group-size", str(quant.group_size)]
    # It insists on making its folder itself.
    folder.rmdir()
    return ["mlx_lm", "convert", "--hf-path", str(source), "--mlx-path", str(folder), *scheme]


_UPSTREAMS = {
    "onnxruntime-genai": Upstream(
        name="onnxruntime-genai's model builder",
        distributions=("onnxruntime-genai", "onnx-ir", "torch", "transformers"),
        packages=("onnx-ir", "torch", "transformers"),
        extra="cpu",
        peak_bytes_per_parameter=6.4,
        command=_genai,
    ),
    "openvino-genai": Upstream(
        name="optimum-intel",
        distributions=("optimum-intel", "nncf", "torch", "transformers"),
        packages=("optimum-intel",),
        peak_bytes_per_parameter=2.8,
        command=_optimum,
        embedding_bits=8,
        head_bits=8,
    ),
    "mlx-lm": Upstream(
        name="mlx_lm.convert",
        distributions=("mlx-lm", "transformers"),
        packages=(),
        extra="mlx",
        peak_bytes_per_parameter=0.9,
        command=_mlx,
        always_symmetric=False,
    ),
}


def upstream(engine: str) -> Upstream:
    """The converter of an engine, installed. Raises NotSupportedError when there is none."""
    if engine not in _UPSTREAMS:
        raise NotSupportedError(
            f"--exporter upstream: {engine} has no converter that pip can install",
            hint="leave --exporter out: edgephi's own needs nothing else",
        )
    found = _UPSTREAMS[engine]
    missing = [name for name in found.distributions if not _is_installed(name)]
    if missing:
        raise NotSupportedError(
            f"--exporter upstream: {found.name} needs {', '.join(missing)}, not installed", hint=found.install
        )
    return found


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@dataclass(frozen=True)
class UpstreamExporter:
    """An `Exporter` whose artifacts an engine's own converter writes.

    What the engine takes on a device, and what it cannot do, is asked of `own`, our exporter for it. `quant`
    is what the converter is told; it must fit into `available_memory` bytes, None when nobody asks.
    """

    tool: Upstream
    own: Exporter
    quant: Quant
    available_memory: int | None = None

    def footprint(self, target: Target) -> Footprint:
        """What the engine takes beside the artifact's bytes."""
        return self.own.footprint(target)

    def check_architecture(self, architecture: Architecture) -> None:
        """Raise NotSupportedError for other than a plain decoder: upstream's way with others is not ours."""
        check_plain_decoder(architecture, self.tool.name)

    def context_limit(self, architecture: Architecture) -> ContextLimit | None:
        """The engine's own limit below the model's, or None."""
        return self.own.context_limit(architecture)

    def check_schemes(self, plans: TensorPlans, target: Target) -> None:
        """Raise NotSupportedError for other than int4, and for what the engine's format cannot hold."""
        self.own.check_schemes(plans, target)
        if self.quant.bits != 4:
            raise NotSupportedError(
                f"--exporter upstream: {self.tool.name} is asked for int4 only, "
                f"found bits = {self.quant.bits}",
                hint="set bits = 4 in the recipe, or leave --exporter out",
            )
        if self.quant.keep.tensors or self.quant.chooses:
            raise NotSupportedError(
                f"--exporter upstream: {self.tool.name} cannot be told what to keep at more bits",
                hint="take [quant.keep] out of the recipe, or leave --exporter out",
            )

    def artifact_bytes(
        self,
        architecture: Architecture,
        plans: TensorPlans,
        target: Target,
        context: int,
    ) -> int:
        """About the size of the artifact's weights: that of ours with the same quantisation."""
        return self.own.artifact_bytes(architecture, plans, target, context)

    def write_artifact(
        self,
        folder: Path,
        checkpoint: Checkpoint,
        plans: TensorPlans,
        target: Target,
        context: int,  # noqa: ARG002 - the converters take the model's
        *,
        step: Step = silent,
    ) -> StreamReport:
        """Have the checkpoint converted into the empty `folder`; caches lie beside that meanwhile.

        The report holds what we know of it: the hashes of the checkpoint, and no errors. Raises
        NotSupportedError with the last line that the converter wrote when it fails; all of its output is then
        in a temporary file that the hint names. DoesNotFitError when memory does not suffice.
        """
        self.check_schemes(plans, target)
        if self.available_memory is not None:
            check_memory(self.tool, checkpoint, self.available_memory)
        with (
            step(f"export with {self.tool.name}", 0),
            tempfile.TemporaryDirectory(dir=folder.parent) as scratch,
        ):
            _convert(self.tool, folder, checkpoint, self.quant, target, scratch=Path(scratch))
        with step("hash the checkpoint", 0):
            hashes = {shard.file.name: file_sha256(shard.file) for shard in checkpoint.shards}
        return StreamReport(hashes, data_file="", data_size=0, data_sha256="", data_chunks=(), errors=())

    def artifact_weights(self, folder: Path, architecture: Architecture) -> Weights:  # noqa: ARG002
        """Raises NotSupportedError: only what we have written ourselves is read."""
        raise NotSupportedError(
            f"{folder}: expected codes of edgephi's own exporter, found those of {self.tool.name}",
            hint="leave --exporter out to have the export error measured as well",
        )


def check_memory(tool: Upstream, checkpoint: Checkpoint, available_memory: int) -> None:
    """Raise DoesNotFitError when a conversion takes more than `available_memory` bytes."""
    needed = round(tool.peak_bytes_per_parameter * checkpoint.architecture.parameters)
    if needed > available_memory:
        raise DoesNotFitError(
            f"{tool.name} needs about {needed / 1e9:.1f} GB of memory for {checkpoint.id}, "
            f"{available_memory / 1e9:.1f} GB are available",
            hint="leave --exporter out: edgephi's own needs less than 1 GB",
        )


def _convert(
    tool: Upstream, folder: Path, checkpoint: Checkpoint, quant: Quant, target: Target, *, scratch: Path
) -> None:
    source = checkpoint.folder.resolve()
    cache = scratch / "upstream-cache"
    module, *arguments = tool.command(source, folder, cache, quant, target)
    handle, name = tempfile.mkstemp(prefix="edgephi-upstream-", suffix=".log")
    log = Path(name)
    try:
        with os.fdopen(handle, "wb") as output:
            command = [sys.executable, "-P", "-m", "edgephi.export.upstream_process", module, *arguments]
            finished = run_child(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {"HF_HUB_OFFLINE": "1"},  # the checkpoint is on this disk
            )
    except BaseException:
        log.unlink()
        raise
    if finished.returncode < 0:
        raise DoesNotFitError(
            f"{tool.name} {ending(finished.returncode)}",
            hint=f"free some memory; its output is in {log}",
        )
    if finished.returncode:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise NotSupportedError(
            f"{tool.name} failed: {lines[-1].strip() if lines else 'it said nothing'}",
            hint=f"its whole output is in {log}",
        )
    log.unlink()
