"""NNCF on OpenVINO: the model as PyTorch's tracer gives it, compressed, and computed by OpenVINO in float32.

What AWQ folds into other operators cannot be read back as weights of the original's shape, so the engine
computes; its activations stay floats here, and the original itself comes out with a KL of about 1e-9.
"""

import functools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench import measure
from tests.bench.quality.harness import Floats, Logits
from tests.bench.quality.quantised import Quantised, Subject, Way
from tests.optimum_environment import optimum_python

_INT4 = {"mode": "int4_sym", "group_size": 32}
_CALIBRATED = {**_INT4, "calibrate": True}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "int4 sym g32": _INT4,
    "int4 sym g32 + scale estimation": {**_CALIBRATED, "scale_estimation": True},
    "int4 sym g32 + AWQ + scale estimation": {**_CALIBRATED, "awq": True, "scale_estimation": True},
    "int4 sym g32 + GPTQ + scale estimation": {**_CALIBRATED, "gptq": True, "scale_estimation": True},
}
_EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "KV_CACHE_PRECISION": "f32",
}


def ways() -> list[Way]:
    """Without data, and with each of its methods that need some; embedding and head are int8 by default."""
    return [
        Way(f"NNCF {name}", functools.partial(_quantise, options=options), "nncf")
        for name, options in _OPTIONS.items()
    ]


def _quantise(subject: Subject, options: Mapping[str, Any]) -> Quantised:
    source, output = subject.scratch / "source.xml", subject.scratch / "compressed.xml"
    if not source.is_file():
        _trace(subject.checkpoint, source)
    pieces = subject.scratch / "pieces.npy"
    np.save(pieces, np.array(subject.text.calibration, np.int64))
    python = optimum_python() or sys.executable
    command = [python, "-m", "tests.bench.quality.nncf_process", json.dumps(options)]
    cost = measure.run([*command, source, output, pieces], log=subject.scratch / "nncf.log")
    logits, bits, linear_bits = _compiled(output, len(subject.original["lm_head.weight"]), subject)
    return Quantised(logits, bits, linear_bits, cost.seconds, cost.peak_bytes)


def _trace(checkpoint: Path, output: Path) -> None:
    """Write the model as OpenVINO's converter makes it from transformers' class."""
    import openvino
    import torch
    from transformers import AutoModelForCausalLM

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModelForCausalLM.from_pretrained(
                checkpoint, dtype=torch.float32, attn_implementation="eager"
            ).eval()

        def forward(self, input_ids: torch.Tensor) -> Any:
            # With a mask of its own, which the tracer can follow; that of transformers it cannot.
            count = input_ids.shape[1]
            unseen = torch.ones(count, count).triu(1)[None, None] * torch.finfo(torch.float32).min
            places = torch.arange(count)[None]
            return self.model(
                input_ids=input_ids, attention_mask=unseen, position_ids=places, use_cache=False
            ).logits

    example = torch.arange(64)[None]  # [1, tokens]
    model = openvino.convert_model(Whole(), example_input=example, input=[[1, -1]])
    openvino.save_model(model, output, compress_to_fp16=False)


def _compiled(file: Path, vocabulary: int, subject: Subject) -> tuple[Logits, float, float]:
    """What computes with a compressed model, and its bits a weight: of the whole, of the layers' matrices."""
    import openvino

    core = openvino.Core()
    model = core.read_model(file)
    linear = words = 0.0
    for node in model.get_ops():
        if node.get_type_name() != "Constant":
            continue
        shape, kind = list(node.get_output_shape(0)), node.get_output_element_type(0)
        count = float(np.prod(shape))
        if kind.get_type_name() in ("i4", "u4", "i8", "u8"):
            size = count * kind.bitwidth
        elif len(shape) > 1 and shape[-1] == 1 and count > len(shape):
            size = count * 16  # scales, which are float16 in a model that is meant to be small
        else:
            continue
        if vocabulary in shape:
            words += size
        else:
            linear += size
    matrices = sum(subject.original[name].size for name in subject.matrices)
    whole = matrices + sum(
        subject.original[name].size
        for name in ("model.embed_tokens.weight", *([] if subject.harness.tied else ["lm_head.weight"]))
    )
    compiled = core.compile_model(model, "CPU", _EXACT)

    def logits(ids: Sequence[int]) -> Floats:
        found: Floats = compiled([np.array([ids], np.int64)])[0][0]
        return found

    return logits, (linear + words) / whole, linear / matrices
