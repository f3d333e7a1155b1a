"""What a plan says of a device's memory is what the runner takes: not less, and not much more.

The vocabulary is that of Phi-3, because the logits of what is computed at once are most of what may go wrong.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.bundle.manifest import read_manifest
from edgephi.declared.recipe import ImagePrecision, read_recipe
from edgephi.declared.target import read_target
from edgephi.machine.measurement import BenchRequest
from edgephi.runtime.proof.measure import measure
from edgephi.steps import silent
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.tiny_phi3_v import TinyVision, write_tiny_phi3_v
from tests.tiny_phi3small import write_tiny_phi3small
from tests.tiny_phimoe import write_tiny_phimoe

SLACK_BYTES = 80e6  # the plan has room for the threads of a larger processor


@pytest.mark.slow
def test_the_engine_takes_what_the_plan_says(tmp_path: Path) -> None:
    """LongRoPE: a prompt that is longer than 4,096 tokens is computed in a first piece of so many."""
    pytest.importorskip("onnxruntime_genai")
    context = 4400
    tiny = write_tiny_checkpoint(tmp_path / "tiny", "mini-128k", layers=1, vocab=32064)
    bundle = tmp_path / "bundle"
    request = BuildRequest(
        str(tiny), read_target("cpu"), read_recipe("default"), bundle, verify="off", context=context
    )
    build(request, find_checkpoint(str(tiny), request.recipe, None, progress=False), silent)
    declared = read_manifest(bundle).requires.memory_bytes
    taken = measure(bundle, BenchRequest((context - 8,), 2, context=context)).peak_memory_bytes
    assert declared - SLACK_BYTES < taken <= declared


@pytest.mark.slow
def test_what_the_kernels_pack_is_in_the_plan(tmp_path: Path) -> None:
    """Small groups of wide matrices: a scale and a sum of each come to more than the plan has to spare."""
    pytest.importorskip("onnxruntime_genai")
    tiny = write_tiny_checkpoint(tmp_path / "wide", "mini-4k", layers=4, hidden=3072, ffn=8192, vocab=2048)
    default = read_recipe("default")
    quant = dataclasses.replace(default.quant, group_size=32, method="rtn")
    bundle = tmp_path / "bundle"
    request = BuildRequest(
        str(tiny),
        read_target("cpu"),
        dataclasses.replace(default, quant=quant),
        bundle,
        verify="off",
        context=512,
    )
    build(request, find_checkpoint(str(tiny), request.recipe, None, progress=False), silent)
    declared = read_manifest(bundle).requires.memory_bytes
    taken = measure(bundle, BenchRequest((500,), 2, context=512)).peak_memory_bytes
    assert declared - SLACK_BYTES < taken <= declared


@pytest.mark.slow
@pytest.mark.parametrize(("target", "slack_bytes"), [("cpu", SLACK_BYTES), ("openvino", 2 * SLACK_BYTES)])
@pytest.mark.parametrize("kind", ["experts", "block-sparse attention"])
def test_other_kinds_of_models_take_what_the_plan_says(
    tmp_path: Path, kind: str, target: str, slack_bytes: float
) -> None:
    """The engine packs experts otherwise than a single matrix, and keeps the scores of sparse attention."""
    pytest.importorskip({"cpu": "onnxruntime_genai", "openvino": "openvino_genai"}[target])
    if kind == "experts":
        tiny = write_tiny_phimoe(tmp_path / "tiny", layers=4, hidden=1024, heads=8, ffn=704)
    else:
        tiny = write_tiny_phi3small(tmp_path / "tiny", hidden=1024, heads=32, kv_heads=8, ffn=512)
    default, context = read_recipe("default"), 4096
    quant = dataclasses.replace(default.quant, group_size=32, method="rtn")
    recipe = dataclasses.replace(default, quant=quant)
    bundle = tmp_path / "bundle"
    request = BuildRequest(str(tiny), read_target(target), recipe, bundle, verify="off", context=context)
    build(request, find_checkpoint(str(tiny), request.recipe, None, progress=False), silent)
    declared = read_manifest(bundle).requires.memory_bytes
    taken = measure(bundle, BenchRequest((context - 8,), 2, context=context)).peak_memory_bytes
    assert declared - slack_bytes < taken <= declared


SEE = """
import pathlib, sys
import numpy as np
from edgephi.bundle.manifest import read_manifest
from edgephi.runtime.adapter import open_engine
from edgephi.runtime.proof.measure import peak_memory_bytes
bundle = pathlib.Path(sys.argv[1])
manifest = read_manifest(bundle)
engine = open_engine(bundle, manifest, provider="cpu")
tile = np.zeros((3, manifest.model.images.tile, manifest.model.images.tile), np.float32)
engine.tile_encoder.encode_tile(tile)
list(engine.open_cache(manifest.limits.context).append([20] * manifest.limits.context))
print(peak_memory_bytes())
"""
"""What takes the most memory that a model which sees can take."""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_an_image_encoder_is_in_the_plan(tmp_path: Path, precision: ImagePrecision) -> None:
    """OpenVINO unpacks float16 to float32, and leaves codes as they are."""
    pytest.importorskip("openvino_genai")
    shape = TinyVision(
        tile=336, image_hidden=1024, image_heads=16, image_layers=6, image_ffn=4096, hidden=512, heads=8
    )
    tiny = write_tiny_phi3_v(tmp_path / "tiny", shape)
    default = read_recipe("default")
    quant = dataclasses.replace(default.quant, method="rtn", image_encoder=precision)
    recipe = dataclasses.replace(default, quant=quant)
    bundle = tmp_path / "bundle"
    request = BuildRequest(str(tiny), read_target("openvino"), recipe, bundle, verify="off", context=1024)
    build(request, find_checkpoint(str(tiny), request.recipe, None, progress=False), silent)
    declared = read_manifest(bundle).requires.memory_bytes
    done = subprocess.run([sys.executable, "-c", SEE, bundle], capture_output=True, text=True, check=True)
    assert declared - SLACK_BYTES < int(done.stdout) <= declared


LOOK = """
import sys
from pathlib import Path
import numpy as np
from edgephi.bundle.image_tokens import token_count
from edgephi.bundle.manifest import read_manifest
from edgephi.runtime.adapter import open_engine
from edgephi.runtime.images.encode import ReadyImage, encode_image
bundle = Path(sys.argv[1])
manifest = read_manifest(bundle)
facts, grid = manifest.model.images, (4, 4)
engine = open_engine(bundle, manifest)
cache = engine.open_cache(manifest.limits.context)
pixels = np.zeros((17, 3, facts.tile, facts.tile), np.float32)
image = ReadyImage(pixels, grid, token_count(grid, facts), "one")
ids = engine.image_rows.place(image.key, image.tokens)
list(encode_image(engine, image, facts))
list(cache.append(ids))
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")]
print(int(peak) * 1024)
"""
"""An image of 16 tiles, into a context that has room for it."""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "gguf"])
def test_one_that_onnxruntime_runs_is_in_the_plan(tmp_path: Path, target: str) -> None:
    """The most tiles, of the published size; the encoder has a few layers of the published width."""
    pytest.importorskip({"cpu": "onnxruntime_genai", "gguf": "xllamacpp"}[target])
    tiny = write_tiny_phi3_v(
        tmp_path / "tiny",
        hidden=1024,
        heads=16,
        tile=336,
        crops=16,
        image_hidden=1024,
        image_layers=5,
        image_heads=16,
        image_ffn=4096,
    )
    bundle = tmp_path / "bundle"
    request = BuildRequest(
        str(tiny), read_target(target), read_recipe("default"), bundle, verify="off", context=4096
    )
    build(request, find_checkpoint(str(tiny), request.recipe, None, progress=False), silent)
    declared = read_manifest(bundle).requires.memory_bytes
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(bundle)], capture_output=True, text=True, check=True
    )
    assert declared - SLACK_BYTES < int(done.stdout) <= declared
