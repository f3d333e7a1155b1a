"""Build a checkpoint for a target with edgephi, and with that engine's own converter, side by side.

The converters hold the model in memory, that of onnxruntime-genai several times (24 GB for 3.8 B parameters),
so run nothing beside them. `--no-peer` leaves them out, for models that they cannot do at all. llama.cpp's
converter is not on PyPI: `--llama-cpp` names a folder of its sources with `llama-quantize` built in
`build/bin`; both of its steps, convert to bfloat16 and quantise, are counted.
"""

import argparse
import importlib
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgephi.build.plan import suited
from edgephi.declared.recipe import Quant, recipe_for
from edgephi.declared.target import Target, read_target
from edgephi.export.upstream import upstream
from tests.bench.measure import Cost, edgephi, folder_bytes, report, run

_PIECE_TYPES = {"<unk>": 2, "<s>": 3, "</s>": 3}  # unknown and control, as sentencepiece numbers them


def main() -> None:
    """Measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("checkpoint", type=Path)
    arguments.add_argument("--target", default="cpu")
    arguments.add_argument("--methods", default="rtn,search", help="ways to choose scales, with commas")
    arguments.add_argument("--runs", type=int, default=3, help="runs of edgephi; the median is printed")
    arguments.add_argument("--no-peer", action="store_true")
    arguments.add_argument("--llama-cpp", type=Path, help="llama.cpp's sources, the peer of target gguf")
    arguments.add_argument("--scratch", type=Path, default=None, help="folder for the artifacts")
    options = arguments.parse_args()
    target = read_target(options.target)
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        scratch = Path(name)
        ours = {
            f"edgephi {method}": _ours(options.checkpoint, target, scratch, method, options.runs)
            for method in options.methods.split(",")
        }
        peers = {} if options.no_peer else _peer(options.checkpoint, target, scratch, options.llama_cpp)
    slowest = max((cost.seconds for cost, _ in peers.values()), default=0.0)
    largest = max((cost.peak_bytes for cost, _ in peers.values()), default=0)
    rows = []
    for what, (cost, size) in (ours | peers).items():
        faster = f"{slowest / cost.seconds:.1f}x" if peers else "-"
        smaller = f"{largest / cost.peak_bytes:.0f}x" if peers else "-"
        rows.append((what, *_numbers(cost, size), faster, smaller))
    report((f"target {target.name}", "wall", "peak memory", "artifact", "faster", "less memory"), rows)


def _numbers(cost: Cost, size: int) -> tuple[str, str, str]:
    return f"{cost.seconds:.1f} s", f"{cost.peak_bytes / 1e9:.2f} GB", f"{size / 1e9:.2f} GB"


def _ours(checkpoint: Path, target: Target, scratch: Path, method: str, runs: int) -> tuple[Cost, int]:
    costs = []
    bundle = scratch / "bundle"
    size = 0
    for _ in range(runs):
        options = ("--target", target.name, "--verify", "off", "--method", method, "-o", bundle)
        costs.append(run(edgephi("build", checkpoint, *options), log=scratch / "log"))
        size = folder_bytes(bundle / "model")
        shutil.rmtree(bundle)
        print(f"edgephi {method}: {costs[-1].seconds:.1f} s", file=sys.stderr, flush=True)
    seconds = statistics.median(cost.seconds for cost in costs)
    return Cost(seconds, max(cost.peak_bytes for cost in costs)), size


def _peer(
    checkpoint: Path, target: Target, scratch: Path, llama_cpp: Path | None
) -> dict[str, tuple[Cost, int]]:
    """What the engine's own converter costs for the same group size."""
    if target.engine == "llama.cpp":
        if llama_cpp is None:
            raise SystemExit("give --llama-cpp FOLDER, or --no-peer")
        return {"llama.cpp convert + quantize Q4_0": _llama_cpp(checkpoint, scratch, llama_cpp)}
    quant: Quant = suited(recipe_for(str(checkpoint)).quant, target)
    tool = upstream(target.engine)
    artifact = scratch / "peer"
    artifact.mkdir()
    module, *arguments = tool.command(checkpoint.resolve(), artifact, scratch / "cache", quant, target)
    cost = run([sys.executable, "-P", "-m", module, *arguments], log=scratch / "log")
    return {f"{tool.name} {tool.version}": (cost, folder_bytes(artifact))}


def _llama_cpp(checkpoint: Path, scratch: Path, sources: Path) -> tuple[Cost, int]:
    whole, artifact = scratch / "bf16.gguf", scratch / "q4_0.gguf"
    checkpoint = _with_sentencepiece(checkpoint, scratch / "checkpoint")
    convert: list[str | Path] = [
        sys.executable,
        sources / "convert_hf_to_gguf.py",
        checkpoint,
        "--outtype",
        "bf16",
        "--outfile",
        whole,
    ]
    quantise: list[str | Path] = [sources / "build" / "bin" / "llama-quantize", whole, artifact, "Q4_0"]
    first, second = run(convert, log=scratch / "log"), run(quantise, log=scratch / "log")
    whole.unlink()
    total = Cost(first.seconds + second.seconds, max(first.peak_bytes, second.peak_bytes))
    return total, artifact.stat().st_size


def _with_sentencepiece(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint with a `tokenizer.model`, which that converter demands for Phi-3 and not all have."""
    proto: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    folder.mkdir()
    for file in checkpoint.resolve().iterdir():
        (folder / file.name).symlink_to(file)
    if not (folder / "tokenizer.model").exists():
        model = proto.ModelProto()
        model.trainer_spec.model_type = proto.TrainerSpec.BPE
        vocabulary = json.loads((checkpoint / "tokenizer.json").read_text())["model"]["vocab"]
        for token, place in sorted(vocabulary.items(), key=lambda item: item[1]):
            model.pieces.add(piece=token, score=-float(place), type=_PIECE_TYPES.get(token, 1))
        (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    return folder


if __name__ == "__main__":
    main()
