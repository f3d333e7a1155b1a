"""Quantisation loss beside the builder's own int4 export, both engines asked for logits on the same tokens.

The reference is the original checkpoint in edgephi's float32 forward pass. Three texts of random tokens for
checkpoints with random weights; for the demo, conversations of the kind it was trained on.
"""

import argparse
import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointWeights, open_checkpoint
from edgephi.checkpoint.tokenizer import encode
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import read_target
from edgephi.reference.divergence import divergence
from edgephi.reference.evaluation_text import evaluation_tokens
from edgephi.reference.forward import final_hidden_states, logits
from edgephi.steps import silent
from tests.bench.measure import report

_BUILDER_OPTIONS = {
    "builder, block 128, int4 embedding": ["block_size=128", "op_types_to_quantize=MatMul/Gather"],
    "builder, block 32, int4 embedding": ["block_size=32", "op_types_to_quantize=MatMul/Gather"],
    "builder, its defaults (block 32)": [],
}


def main() -> None:
    """Measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("checkpoints", nargs="+", help="folders, or `demo`")
    for name in arguments.parse_args().checkpoints:
        located = find_checkpoint(
            name, read_recipe("demo" if name == "demo" else "default"), None, progress=False
        )
        checkpoint = open_checkpoint(located.folder, id=located.id, revision=located.revision)
        texts = _texts(checkpoint, device=name == "demo")
        weights = CheckpointWeights(checkpoint)
        references = [logits(weights, final_hidden_states([weights], [text])[0]) for text in texts]
        with tempfile.TemporaryDirectory() as scratch:
            artifacts = _ours(name, Path(scratch)) | _builders(located.folder, Path(scratch))
            rows = [_row(what, folder, texts, references, checkpoint) for what, folder in artifacts.items()]
        print(f"\n{name}")
        report(("", "KL mean", "top-1", "bits per weight"), rows)


def _texts(checkpoint: Checkpoint, *, device: bool) -> list[list[int]]:
    if device:
        text = evaluation_tokens(
            lambda words: encode(checkpoint.folder, words), "full", context=4096, domain="device"
        )
        return [text]
    high = min(checkpoint.tokenizer.vocabulary_size, checkpoint.architecture.vocabulary_size)
    return [np.random.default_rng(seed).integers(0, high, 256).tolist() for seed in range(3)]


def _ours(model: str, scratch: Path) -> dict[str, Path]:
    recipe = read_recipe("demo" if model == "demo" else "default")
    folders = {}
    quants = {
        "edgephi, default recipe (groups of 128)": recipe.quant,
        "edgephi, groups of 32": dataclasses.replace(recipe.quant, group_size=32),
    }
    for what, quant in quants.items():
        output = scratch / what.replace(" ", "-")
        request = BuildRequest(
            model, read_target("cpu"), dataclasses.replace(recipe, quant=quant), output, verify="off"
        )
        build(request, find_checkpoint(model, recipe, None, progress=False), silent)
        folders[what] = output / "model"
    return folders


def _builders(checkpoint: Path, scratch: Path) -> dict[str, Path]:
    folders = {}
    for what, extra in _BUILDER_OPTIONS.items():
        folders[what] = scratch / what.replace(" ", "-")
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint)]
        command += ["-o", str(folders[what]), "-p", "int4", "-e", "cpu"]
        command += ["--extra_options", *extra] if extra else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folders


def _row(
    what: str,
    artifact: Path,
    texts: Sequence[list[int]],
    references: Sequence[np.ndarray],
    checkpoint: Checkpoint,
) -> tuple[str, ...]:
    import onnxruntime_genai

    model = onnxruntime_genai.Model(str(artifact))
    measured = []
    for text, reference in zip(texts, references, strict=True):
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(text) + 1, chunk_size=0)
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(text)
        measured.append(divergence([(reference, generator.get_output("logits")[0])], text))
    weights = sum(
        path.stat().st_size for path in artifact.iterdir() if path.name.endswith((".onnx", ".data"))
    )
    bits = 8 * weights / checkpoint.architecture.parameters
    kl = float(np.mean([each.kl_mean for each in measured]))
    top = float(np.mean([each.top1 for each in measured]))
    return what, f"{kl:.3e}", f"{top:.1%}", f"{bits:.2f}"


if __name__ == "__main__":
    main()
