"""The originals: transformers for Phi-3.5-MoE, edgephi's reference for Phi-3-small, which has no class there.

The reference is held against a second implementation, and onnxruntime's SparseAttention, by the tests.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.checkpoint import CheckpointWeights, open_checkpoint
from edgephi.checkpoint.config import family_of
from edgephi.checkpoint.weights.safetensors import read_tensor_rows
from edgephi.reference.forward import final_hidden_states, logits
from edgephi.reference.weights import Weights
from tests.bench.other_tools.asked import Floats, Model

Tensors = dict[str, Floats]


def stored_tensors(checkpoint: Path) -> Tensors:
    """The tensors of a checkpoint, float32."""
    opened = open_checkpoint(checkpoint, id="checkpoint", revision="local")
    return {name: read_tensor_rows(entry, range(entry.shape[0])) for name, entry in opened.tensors.items()}


def tensors_of(weights: Weights, architecture: Architecture, like: Tensors) -> Tensors:
    """Weights, such as those of an artifact, under the names and in the shapes of a checkpoint's tensors."""
    tensors = {name: np.empty_like(tensor) for name, tensor in like.items()}
    for tensor, sources in family_of(architecture.model_type).sources(architecture).items():
        for source in sources:
            rows = weights.rows(tensor, source.into.start, source.into.stop)[:: source.into.step]
            tensors[source.tensor][source.rows] = rows
    return tensors


def transformers_model(checkpoint: Path, tensors: Tensors | None = None) -> Model:
    """Phi-3.5-MoE's class in float32; of these tensors in place of its own, where there are any."""
    import torch
    from transformers import PhimoeForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    if tensors is None:
        model = PhimoeForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    else:
        import shutil
        import tempfile

        from safetensors.numpy import save_file

        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(checkpoint / "config.json", Path(folder) / "config.json")
            save_file(tensors, Path(folder) / "model.safetensors", {"format": "pt"})
            model = PhimoeForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()

    def compute(tokens: Sequence[int]) -> Floats:
        with torch.no_grad():
            found: Floats = model(torch.tensor([list(tokens)]), use_cache=False).logits[0].numpy()
        return found

    return compute


def reference(weights: Weights) -> Model:
    """edgephi's reference forward pass, in float32."""

    def compute(tokens: Sequence[int]) -> Floats:
        [hidden] = final_hidden_states([weights], [list(tokens)])
        return logits(weights, hidden)

    return compute


def checkpoint_weights(checkpoint: Path) -> CheckpointWeights:
    """The weights of a checkpoint."""
    return CheckpointWeights(open_checkpoint(checkpoint, id="checkpoint", revision="local"))
