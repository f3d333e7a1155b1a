"""The trained checkpoint: the same function as its source, whose quantised groups are torn apart."""

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from tests.trained_checkpoint import fetch_source

pytestmark = pytest.mark.slow

TEXT = (
    "The lighthouse stands on a rock two miles from the shore. Its lamp was lit for the first time in 1841, "
    "and since then three families have looked after it. In winter the boat can reach the rock on few days."
)
GROUP, VALUES = 32, 16  # of the source: columns that share a scale and a minimum, and their values


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch_source(tmp_path_factory.mktemp("source"))


def llama(file: Path) -> Any:
    """The model in a GGUF file, as transformers reads it."""
    config = LlamaConfig(**load_gguf_checkpoint(str(file))["config"])
    model = LlamaForCausalLM(config)
    tensors = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # tied
    return model.eval()


def log_probabilities(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Of every next token, float64 [tokens, vocabulary]."""
    with torch.inference_mode():
        logits: torch.Tensor = model(tokens[None]).logits[0]
    return logits.double().log_softmax(-1)


def test_it_computes_what_its_source_does(trained: Path, source: Path) -> None:
    tokens = torch.tensor(AutoTokenizer.from_pretrained(trained)(TEXT)["input_ids"])
    found = log_probabilities(AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32), tokens)
    wanted = log_probabilities(llama(source), tokens)
    divergence = (wanted.exp() * (wanted - found)).sum(-1)
    assert divergence.mean() < 5e-4  # what rounding the weights to bfloat16 takes
    # It is trained: each token comes much likelier than by chance.
    chance = math.log(wanted.shape[1])
    assert -found[:-1].gather(1, tokens[1:, None]).mean() < chance / 2


def test_no_group_of_the_source_is_left_together(trained: Path, source: Path) -> None:
    weights = load_file(trained / "model.safetensors")
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    for ours, theirs in (("mlp.down_proj", "ffn_down"), ("self_attn.o_proj", "attn_output")):
        tensor = stored[f"blk.3.{theirs}.weight"]
        before = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert values_of_groups(before).max() <= VALUES
        after = weights[f"model.layers.3.{ours}.weight"].float().numpy()
        assert values_of_groups(after).mean() > VALUES + 2  # bfloat16 lets some of them meet again


def values_of_groups(matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """How many values each group of a matrix has."""
    ordered = np.sort(matrix.reshape(-1, GROUP), axis=1)
    counts: np.ndarray[Any, Any] = 1 + (np.diff(ordered, axis=1) != 0).sum(1)
    return counts
