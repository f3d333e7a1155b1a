"""Head and embedding where config and files disagree: what transformers makes of it is what is built."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from transformers import Phi3ForCausalLM

from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointWeights, open_checkpoint
from edgephi.errors import BadCheckpointError
from edgephi.reference.forward import final_hidden_states, logits
from tests.tiny_checkpoint import TinyShape, tiny_weights, write_tiny_checkpoint

TIED = TinyShape(layers=1, hidden=64, ffn=96, tied=True)
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
IDS = [3, 5, 7, 90, 300]


def checkpoint_with(folder: Path, changes: dict[str, NDArray[np.float32] | None]) -> Checkpoint:
    """A checkpoint whose config ties head and embedding, with some tensors added, and None left out."""
    write_tiny_checkpoint(folder, TIED)
    weights = {**tiny_weights(TIED), **changes}
    stored = {name: array for name, array in weights.items() if array is not None}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return open_checkpoint(folder, id="tiny", revision="local")


def assert_answers_as_in_transformers(checkpoint: Checkpoint) -> None:
    weights = CheckpointWeights(checkpoint)
    (hidden,) = final_hidden_states([weights], [IDS])
    model = Phi3ForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32)
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(logits(weights, hidden), expected, atol=1e-5)


def other_head() -> NDArray[np.float32]:
    return np.random.default_rng(8).normal(0, 0.02, (TIED.vocab, TIED.hidden)).astype(np.float32)


def test_a_head_of_its_own_is_used(tmp_path: Path) -> None:
    checkpoint = checkpoint_with(tmp_path / "x", {HEAD: other_head()})
    assert not checkpoint.architecture.tied_embeddings
    assert "two matrices" in checkpoint.remarks[0]
    assert_answers_as_in_transformers(checkpoint)


def test_one_that_differs_in_its_last_number_is_one_of_its_own(tmp_path: Path) -> None:
    head = tiny_weights(TIED)[EMBEDDING].copy()
    head[-1, -1] += 1
    assert not checkpoint_with(tmp_path / "x", {HEAD: head}).architecture.tied_embeddings


def test_the_same_matrix_twice_is_one(tmp_path: Path) -> None:
    checkpoint = checkpoint_with(tmp_path / "x", {HEAD: tiny_weights(TIED)[EMBEDDING]})
    assert checkpoint.architecture.tied_embeddings
    assert checkpoint.remarks == ()
    assert HEAD not in checkpoint.tensors
    assert_answers_as_in_transformers(checkpoint)


def test_a_head_without_an_embedding_is_both(tmp_path: Path) -> None:
    checkpoint = checkpoint_with(tmp_path / "x", {EMBEDDING: None, HEAD: other_head()})
    assert checkpoint.architecture.tied_embeddings
    assert_answers_as_in_transformers(checkpoint)


def test_a_head_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpointError, match=r"lm_head.weight: expected shape \[512, 64\]"):
        checkpoint_with(tmp_path / "x", {HEAD: other_head()[:-1]})


def test_the_same_numbers_in_another_type_are_one(tmp_path: Path) -> None:
    checkpoint = checkpoint_with(tmp_path / "x", {})
    exact = CheckpointWeights(checkpoint).rows(checkpoint.architecture.head, 0, TIED.vocab)
    narrow = exact.astype(np.float16)
    again = checkpoint_with(
        tmp_path / "y",
        {EMBEDDING: narrow.astype(np.float32), HEAD: narrow},  # type: ignore[dict-item]
    )
    assert again.architecture.tied_embeddings
