"""GGUF for llama.cpp: one file with the weights, the tokenizer and all that the loader asks for.

llama.cpp brings the graph. A file of its architecture "phi3" holds the checkpoint's own tensors under shorter
names; the fused projections stay fused. One of "phimoe", which weighs experts otherwise than Phi-3.5-MoE
does, is changed before it is quantised: see `centring` and `even_experts` here. Norms, biases, routers and
LongRoPE's factors are float32. Matrices are blocks of ggml's own types (`export.gguf.blocks`): its K-quants,
or `Q4_0` and `Q8_0`, which hold our symmetric groups of 32 number for number.

`general.context_length` is what llama.cpp's own tools allocate unless told otherwise, so it says how many
tokens they compute rightly: they attend past Phi-3's sliding window, and choose LongRoPE's factors by the
allocated context, not by the length of the text.

Sources: the `gguf` library (layouts, names of keys and tensors), `src/models/phi3.cpp`, `src/llama-model.cpp`
and `src/llama-context.cpp` of llama.cpp (what it reads, and what it makes of that).
"""

import shutil
from pathlib import Path

import numpy as np

from edgephi.bundle.manifest import TOKENIZER_FILE
from edgephi.checkpoint.architecture import Architecture, MixtureOfExperts
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.declared.target import Target
from edgephi.engines.facts.footprint import Footprint
from edgephi.engines.llama_cpp import FACTS, MODEL_FILE
from edgephi.errors import NotSupportedError, WrongRoutingError
from edgephi.export.exporter import ContextLimit
from edgephi.export.gguf.blocks import TYPES, pack
from edgephi.export.gguf.centring import centred, uncalibrated
from edgephi.export.gguf.even_experts import evened
from edgephi.export.gguf.layout import (
    ALIGNMENT,
    lay_out,
    right_context,
    rope_factors,
    tensor_bytes,
)
from edgephi.export.gguf.modelfile import MODELFILE, modelfile
from edgephi.export.gguf.tokenizer import breaks_after, ends, read_gguf_tokenizer
from edgephi.export.gguf.weights import ArtifactWeights
from edgephi.export.plain_decoder import check_plain_decoder, published_name
from edgephi.export.published_experts import check_published_experts
from edgephi.export.stream.one_pass import StreamReport, stream_tensors
from edgephi.export.stream.packed_tensor import Region, align
from edgephi.quantize.tensor_plan import TensorPlans, quantised_tensors
from edgephi.steps import Step, silent


def footprint(target: Target) -> Footprint:
    """float32 activations and a float16 cache, whatever the target's kernels."""
    return FACTS.provider(target.provider).footprint


def check_architecture(architecture: Architecture) -> None:
    """Raise NotSupportedError for a model that llama.cpp does not compute rightly, with the reason.

    WrongRoutingError for Phi-3.5-MoE, whose norms we mend, and whose routing we can only bring near.
    """
    if not isinstance(architecture.feed_forward, MixtureOfExperts):
        check_plain_decoder(architecture, FACTS.name)
        return
    check_published_experts(architecture, FACTS.name)
    if architecture.attention.rotary.long_attention_factor is not None:
        raise NotSupportedError(
            f"{published_name(architecture)} on {FACTS.name}: expected one magnitude for LongRoPE's short "
            "and long factors, found two",
            hint="choose another target",
        )
    raise WrongRoutingError(
        f"{published_name(architecture)} on {FACTS.name}: expected SparseMixer's weights of experts, "
        "found the same for both of a token however close their scores are: other answers than the model's",
        hint="take the target cpu, openvino or mlx, or --accept-wrong-routing and read the certificate",
    )


def context_limit(architecture: Architecture) -> ContextLimit | None:  # noqa: ARG001 - true of all of them
    """None: our runtime allocates what makes llama.cpp choose the right factors, at any length."""
    return None


def check_schemes(plans: TensorPlans, target: Target) -> None:
    """A scheme must be that of one of ggml's types."""
    for tensor, scheme in quantised_tensors(plans).items():
        if scheme not in TYPES:
            groups = "symmetric groups" if scheme.symmetric else "groups with zero points"
            raise NotSupportedError(
                f"{tensor}: expected symmetric groups of 32 weights or K-quants for GGUF, "
                f"found {groups} of {scheme.group_size}",
                # Q4_1 and Q5_1 would store -zero_point * scale as a float16: rounded.
                hint=f"set group_size = 32 and symmetric = true under [quant] of the target {target.name}",
            )


def artifact_bytes(
    architecture: Architecture,
    plans: TensorPlans,
    target: Target,  # noqa: ARG001 - no kernel option changes the size
    context: int,  # noqa: ARG001 - nor does the context: both sets of LongRoPE's factors are always there
) -> int:
    """Bytes of the tensors. The vocabulary comes on top: 1 MB for Phi-3's, 8 MB for Phi-4-mini's."""
    shapes = architecture.tensor_shapes()
    sizes = [tensor_bytes(shape, plans[tensor].scheme) for tensor, shape in shapes.items()]
    sizes += [factors.nbytes for factors in rope_factors(architecture).values()]
    return sum(align(size, ALIGNMENT) for size in sizes)


def write_artifact(
    folder: Path,
    checkpoint: Checkpoint,
    plans: TensorPlans,
    target: Target,  # noqa: ARG001 - one file for every kind of processor
    context: int,
    *,
    step: Step = silent,
) -> StreamReport:
    """Write `model.gguf`, the `tokenizer.json` that our runtime reads, and a `Modelfile` for Ollama."""
    tokenizer = read_gguf_tokenizer(
        checkpoint.tokenizer.folder / TOKENIZER_FILE, checkpoint.architecture.vocabulary_size
    )
    changes = checkpoint.changes
    if isinstance(checkpoint.architecture.feed_forward, MixtureOfExperts):
        changes, plans = evened(checkpoint, centred(checkpoint, step)), uncalibrated(plans)
    layout = lay_out(folder / MODEL_FILE, checkpoint, tokenizer, plans, context)
    end = Region(layout.size, 0)  # files of the format end aligned
    with (folder / MODEL_FILE).open("wb") as file:
        report = stream_tensors(
            checkpoint.shards,
            layout.tensors,
            pack,
            file,
            changes=changes,
            preamble=layout.header,
            lookup_tables=[
                *((region, factors) for _, region, factors in layout.factors),
                (end, np.empty(0, np.uint8)),
            ],
            step=step,
        )
    shutil.copyfile(checkpoint.tokenizer.folder / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    chat, stops = checkpoint.tokenizer.chat.built_in, ends(checkpoint.tokenizer)
    text = modelfile(
        MODEL_FILE,
        chat,
        breaks_after(tokenizer, chat),
        [tokenizer.tokens[id_] for id_ in stops],
        right_context(checkpoint.architecture, context),
        system=checkpoint.tokenizer.chat.system,
    )
    (folder / MODELFILE).write_text(text, encoding="utf-8")
    return report


def artifact_weights(folder: Path, architecture: Architecture) -> ArtifactWeights:
    """The weights of the artifact in `folder`."""
    return ArtifactWeights(folder / MODEL_FILE, architecture)
