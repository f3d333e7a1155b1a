"""A checkpoint cut to its first layers, beside one that never had more."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from edgephi.checkpoint.checkpoint import CheckpointWeights, open_checkpoint
from edgephi.checkpoint.first_layers import first_layers
from edgephi.reference.forward import final_hidden_states, logits
from tests.tiny_checkpoint import write_tiny_checkpoint


def test_computes_what_the_first_layers_compute(tmp_path: Path) -> None:
    """The oracle is transformers, told by its config that the same files hold a model of fewer layers."""
    folder = write_tiny_checkpoint(tmp_path / "tiny", layers=3)
    whole = open_checkpoint(folder, id="tiny", revision="local")
    cut = first_layers(whole, 2)
    assert (cut.architecture.layers, whole.architecture.layers) == (2, 3)
    stored = {entry.name for shard in cut.shards for entry in shard.entries}
    assert stored == set(cut.tensors)
    assert set(cut.sources) == set(cut.architecture.tensor_shapes())
    tokens = list(range(3, 40))
    weights = CheckpointWeights(cut)
    ours = logits(weights, final_hidden_states([weights], [tokens])[0])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, num_hidden_layers=2, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        theirs = model(torch.tensor([tokens])).logits[0].numpy()
    assert np.allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_all_layers_are_the_checkpoint_itself(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "tiny", layers=2)
    whole = open_checkpoint(folder, id="tiny", revision="local")
    cut = first_layers(whole, 2)
    assert cut.architecture == whole.architecture
    assert cut.tensors == whole.tensors


@pytest.mark.parametrize("layers", [0, 3])
def test_layers_that_there_are_not(tmp_path: Path, layers: int) -> None:
    folder = write_tiny_checkpoint(tmp_path / "tiny", layers=2)
    with pytest.raises(ValueError, match="expected 1 to 2 layers"):
        first_layers(open_checkpoint(folder, id="tiny", revision="local"), layers)
