"""The reference's Phi-3.5-MoE against the class of transformers; experts that no token has are left alone."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import PhimoeForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.phimoe.modeling_phimoe import PhimoeRotaryEmbedding, sparsemixer

from edgephi.checkpoint.architecture import Architecture, MixtureOfExperts
from edgephi.checkpoint.checkpoint import CheckpointWeights, open_checkpoint
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.reference.forward import final_hidden_states, logits
from edgephi.reference.layers.routing import route
from tests.tiny_phimoe import write_tiny_phimoe

Floats = NDArray[np.float32]


@dataclass
class Watched:
    """The weights of a checkpoint; remembers which rows of experts were read."""

    weights: CheckpointWeights
    read: set[tuple[ModelTensor, int]] = field(default_factory=set)

    @property
    def architecture(self) -> Architecture:
        return self.weights.architecture

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> Floats:
        if tensor.role in (Role.EXPERTS_GATE_UP, Role.EXPERTS_DOWN):
            of_each = self.architecture.tensor_shapes()[tensor][1]
            self.read.add((tensor, start // of_each))
        return self.weights.rows(tensor, start, stop)


def opened(folder: Path) -> CheckpointWeights:
    return CheckpointWeights(open_checkpoint(folder, id="tiny", revision="local"))


def some_tokens(count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(count).integers(0, 512, count)]


def ours(weights: Any, ids: list[int]) -> torch.Tensor:
    [hidden] = final_hidden_states([weights], [ids])
    return torch.from_numpy(logits(weights, hidden))


def theirs(folder: Path, ids: list[int]) -> torch.Tensor:
    model = PhimoeForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        answer: torch.Tensor = model(torch.tensor([ids]), use_cache=False).logits[0]
    return answer


def divergences(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL in nats, for each token."""
    log_p, log_q = (torch.log_softmax(x.double(), dim=-1) for x in (p, q))
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def divergence(p: torch.Tensor, q: torch.Tensor) -> float:
    return float(divergences(p, q).mean())


_LONGROPE = ROPE_INIT_FUNCTIONS["longrope"]


def _longrope(config: Any, device: Any = None, *, tokens: int, **_: Any) -> Any:
    return _LONGROPE(config, device, tokens)


def _exact_angles(
    self: Any, x: torch.Tensor, position_ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines as the class computes them, but in float64."""
    frequencies, _ = self.rope_init_fn(self.config)
    half = position_ids[..., None].double() * frequencies.double()
    angles = torch.cat((half, half), dim=-1)
    magnitude = self.config.rope_parameters["short_mscale"]
    return (angles.cos() * magnitude).to(x.dtype), (angles.sin() * magnitude).to(x.dtype)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_phimoe(tmp_path_factory.mktemp("phimoe") / "tiny", dtype="F32")


@pytest.mark.parametrize("count", [1, 17, 512])
def test_it_says_what_transformers_says(checkpoint: Path, count: int) -> None:
    ids = some_tokens(count)
    assert divergence(theirs(checkpoint, ids), ours(opened(checkpoint), ids)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("count", [1023, 1024, 1025, 2100, 4095, 4096])
def test_it_says_the_same_of_long_texts(
    checkpoint: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the angles of transformers in float64: in its float32 their errors grow with the position.

    Where two experts are as good as each other to the last digits, float32 may take the other one: of some
    thousand tokens one, whose divergence says nothing of the others.
    """
    monkeypatch.setattr(PhimoeRotaryEmbedding, "forward", _exact_angles)
    ids = some_tokens(count)
    each = divergences(theirs(checkpoint, ids), ours(opened(checkpoint), ids))
    assert (each > 1e-6).sum() <= 1
    assert each.sort().values[:-1].mean() < 1e-9


def test_it_keeps_to_the_order_of_files_that_transformers_writes(tmp_path: Path, checkpoint: Path) -> None:
    PhimoeForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).save_pretrained(tmp_path)
    for file in checkpoint.glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    ids = some_tokens(33)
    assert torch.equal(ours(opened(tmp_path), ids), ours(opened(checkpoint), ids))


@pytest.mark.parametrize(
    ("original", "count"),
    [(64, 64), (64, 65), (64, 120), pytest.param(4096, 4097, marks=pytest.mark.slow)],
)
def test_long_rope_has_magnitudes_of_its_own(
    tmp_path: Path, original: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past its original context, with the long factors.

    transformers takes these for Phi-3 only: PhimoeRotaryEmbedding computes its frequencies without a length,
    which are always the short ones. So it is told the length here, as the published code has it.
    """
    folder = write_tiny_phimoe(tmp_path / "tiny", original_context=original, long_magnitude=1.4, dtype="F32")
    monkeypatch.setitem(ROPE_INIT_FUNCTIONS, "longrope", partial(_longrope, tokens=count))
    ids = some_tokens(count)
    assert divergence(theirs(folder, ids), ours(opened(folder), ids)) < 1e-6


def test_experts_that_no_token_has_are_not_read(checkpoint: Path) -> None:
    watched = Watched(opened(checkpoint))
    ours(watched, [7])
    feed_forward = watched.architecture.feed_forward
    assert isinstance(feed_forward, MixtureOfExperts)
    for layer in range(watched.architecture.layers):
        for role in (Role.EXPERTS_GATE_UP, Role.EXPERTS_DOWN):
            read = [expert for tensor, expert in watched.read if tensor == ModelTensor(role, layer)]
            assert len(read) == feed_forward.chosen


def test_passages_have_experts_of_their_own(checkpoint: Path) -> None:
    weights, passages = opened(checkpoint), [some_tokens(count) for count in (5, 1, 12)]
    [hidden] = final_hidden_states([weights], passages)
    apart = np.concatenate([final_hidden_states([weights], [each])[0] for each in passages])
    np.testing.assert_allclose(hidden, apart, atol=1e-4)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_routing_is_that_of_sparsemixer(scale: float) -> None:
    scores = torch.randn(4000, 16, generator=torch.Generator().manual_seed(1)) * scale
    scores[:500] -= 3 * scale  # all negative, mostly
    scores[500:1000, 3] = scores[500:1000, 11] = scores[500:1000].amax(1)  # equal ones
    scores[1000:1400, 5] = scores[1000:1400].amax(1) * 1.004  # close ones
    scores[1400] = 0
    weights, experts = sparsemixer(scores, jitter_eps=0.01, training=False)
    found = route(scores.numpy(), chosen=2, jitter=0.01)
    assert np.array_equal(found.experts, experts.numpy())
    np.testing.assert_allclose(found.weights, weights.numpy(), rtol=1e-6)
