"""Time and memory of the image encoder of `cpu`, `gguf` and `openvino` bundles, beside transformers.

The encoder has the published shape, CLIP ViT-L/14-336 and the projection to 3,072 numbers, with random
weights. One tile of 336 pixels at a time, in a process of its own for each side; the quickest of some tiles
counts, after one that warms up. Memory is what the process has more at its peak than before the encoder was
opened.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgephi.build.seeing.image_plans import plan_image_tensors
from edgephi.bundle.image_tokens import ImageFacts
from edgephi.checkpoint.checkpoint import open_checkpoint
from edgephi.declared.target import Kernels, read_target
from edgephi.export.onnx import image_encoder
from edgephi.export.openvino import image_encoder as openvino_image_encoder
from edgephi.runtime.engines.tile_encoder import OnnxTileEncoder
from tests.bench.measure import high_water_mark, report
from tests.portable import portable
from tests.tiny_phi3_v import TinyVision, write_tiny_phi3_v

SHAPE = TinyVision(
    hidden=3072,
    layers=1,
    heads=32,
    ffn=64,
    tile=336,
    crops=16,
    image_hidden=1024,
    image_layers=24,
    image_heads=16,
    image_ffn=4096,
)
"""The published encoder, and as little of a decoder as goes with it."""

KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "int8, groups of 128, int8 activations": ({"group_size": 128}, 4),
    "int8, groups of 32, int8 activations": ({"group_size": 32}, 4),
    "int8, groups of 32, float32 activations": ({"group_size": 32}, 0),
    "float16": ({"image_encoder": "float16"}, 4),
}
"""What of a recipe makes each of them, and the accuracy level of the target."""
OPENVINO_KINDS: dict[str, dict[str, Any]] = {
    "OpenVINO, int8, groups of 32, float32 activations": {"group_size": 32},
    "OpenVINO, float16": {"image_encoder": "float16"},
}
THEIR_KINDS = ("transformers, float32", "transformers, bfloat16")


def main() -> None:
    """Measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--threads", type=int, default=2, help="of transformers; ours takes all cores")
    arguments.add_argument("--tiles", type=int, default=5, help="tiles that are timed on each side")
    arguments.add_argument("--only", default="", help="kinds with this in their names, and transformers")
    arguments.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.side is not None:
        kind, folder = options.side
        measured = _theirs if kind in THEIR_KINDS else _openvino if kind in OPENVINO_KINDS else _ours
        print(json.dumps(measured(Path(folder), kind, options.tiles, options.threads)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        _run(Path(scratch), options.tiles, options.threads, only=options.only)


def _run(scratch: Path, tiles: int, threads: int, *, only: str) -> None:
    checkpoint = open_checkpoint(write_tiny_phi3_v(scratch / "checkpoint", SHAPE), id="random", revision="0")
    encoder = checkpoint.architecture.image_encoder
    assert encoder is not None
    sides = {}
    for kind, (quant, level) in KINDS.items():
        folder = scratch / kind.replace(" ", "-")
        folder.mkdir()
        plans = plan_image_tensors(encoder, dataclasses.replace(portable(), **quant))
        target = dataclasses.replace(read_target("cpu"), kernels=Kernels(level))
        image_encoder.write(folder, checkpoint, plans, target)
        sides[kind] = folder
    for kind, quant in OPENVINO_KINDS.items():
        folder = scratch / kind.replace(" ", "-")
        folder.mkdir()
        plans = plan_image_tensors(encoder, dataclasses.replace(portable(), **quant))
        openvino_image_encoder.write(folder, checkpoint, plans, read_target("openvino"))
        sides[kind] = folder
    sides = {kind: folder for kind, folder in sides.items() if only in kind}
    for kind in THEIR_KINDS:
        sides[kind] = scratch / "checkpoint"
    rows = []
    for kind, folder in sides.items():
        command = [sys.executable, "-m", "tests.bench.image_encoder", "--side", kind, str(folder)]
        command += ["--tiles", str(tiles), "--threads", str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{command} ended with {done.returncode}\n{done.stderr[-2000:]}")
        seconds, opening, taken = json.loads(done.stdout.splitlines()[-1])
        rows.append((kind, f"{seconds:.2f}", f"{5 * seconds:.1f}", f"{opening:.1f}", f"{taken / 1e6:.0f} MB"))
    report(("", "s a tile", "s an image of 4 crops", "s to open", "memory"), rows)


def _timed(encode: Callable[[Any], Any], tile: Any, tiles: int) -> float:
    """Seconds of the quickest tile but the first."""
    seconds = []
    for _ in range(tiles + 1):
        start = time.perf_counter()
        encode(tile)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _peak_bytes() -> int:
    return high_water_mark(os.getpid())


def _ours(folder: Path, _kind: str, tiles: int, _threads: int) -> tuple[float, float, int]:
    """Seconds of a tile and of opening, and memory."""
    import onnxruntime  # noqa: F401 - its own memory is no part of the encoder's

    before, start = _peak_bytes(), time.perf_counter()
    encoder = OnnxTileEncoder(folder, "cpu", package="onnxruntime", extra="cpu")
    tile = np.random.default_rng(0).standard_normal((3, 336, 336), dtype=np.float32)
    encoder.encode_tile(tile)
    opening = time.perf_counter() - start
    return _timed(encoder.encode_tile, tile, tiles), opening, _peak_bytes() - before


def _openvino(folder: Path, _kind: str, tiles: int, _threads: int) -> tuple[float, float, int]:
    """The same of OpenVINO."""
    from edgephi.runtime.engines.openvino_genai.adapter import _import_engine
    from edgephi.runtime.engines.openvino_genai.decoder import open_core
    from edgephi.runtime.engines.openvino_genai.image_encoder import OpenvinoTileEncoder

    openvino = _import_engine()
    core = open_core(openvino, "CPU")
    before, start = _peak_bytes(), time.perf_counter()
    facts = ImageFacts(SHAPE.tile, SHAPE.patch, SHAPE.crops, SHAPE.hidden, (0.5,) * 3, (0.5,) * 3)
    encoder = OpenvinoTileEncoder(openvino, core, folder, "CPU", facts)
    tile = np.random.default_rng(0).standard_normal((3, 336, 336), dtype=np.float32)
    encoder.encode_tile(tile)
    opening = time.perf_counter() - start
    return _timed(encoder.encode_tile, tile, tiles), opening, _peak_bytes() - before


def _theirs(folder: Path, kind: str, tiles: int, threads: int) -> tuple[float, float, int]:
    """The same of transformers' CLIPVisionModel and the projection in PyTorch."""
    import torch
    from safetensors.torch import load_file
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.set_num_threads(threads)
    dtype = getattr(torch, kind.rsplit(maxsplit=1)[-1])
    before, start = _peak_bytes(), time.perf_counter()
    with torch.no_grad():
        # The layer before the last is what counts, so only those up to it are computed.
        config = CLIPVisionConfig(
            hidden_size=SHAPE.image_hidden,
            intermediate_size=SHAPE.image_ffn,
            num_hidden_layers=SHAPE.image_layers - 1,
            num_attention_heads=SHAPE.image_heads,
            image_size=SHAPE.tile,
            patch_size=SHAPE.patch,
            hidden_act="quick_gelu",
            dtype=dtype,
        )
        model = CLIPVisionModel._from_config(config, dtype=dtype).eval()
        prefix = "model.vision_embed_tokens.img_projection."
        state = load_file(folder / "model.safetensors")
        weights = {
            name: state[f"{prefix}{name}"].to(dtype) for name in ("0.weight", "0.bias", "2.weight", "2.bias")
        }
        del state

        def encode(tile: Any) -> Any:
            seen = model(tile[None]).last_hidden_state[:, 1:]
            rows = seen.reshape(12, 2, 12, 2, -1).permute(0, 2, 1, 3, 4).reshape(144, -1)
            wide = torch.nn.functional.gelu(
                torch.nn.functional.linear(rows, weights["0.weight"], weights["0.bias"])
            )
            return torch.nn.functional.linear(wide, weights["2.weight"], weights["2.bias"])

        tile = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 336, 336), dtype=np.float32)).to(
            dtype
        )
        encode(tile)
        opening = time.perf_counter() - start
        return _timed(encode, tile, tiles), opening, _peak_bytes() - before


if __name__ == "__main__":
    main()
