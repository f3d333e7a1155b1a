"""The reference forward pass against Hugging Face transformers, and against its own promises about memory."""

import tracemalloc
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]
from transformers import Phi3Config, Phi3ForCausalLM

from edgephi.checkpoint.architecture import Architecture, Attention, GatedSilu, RmsNorm
from edgephi.checkpoint.family.phi3 import sources
from edgephi.checkpoint.roles import EMBEDDING, ModelTensor, Role
from edgephi.checkpoint.rotary import RotaryEmbedding
from edgephi.reference.forward import final_hidden_states, logits, logits_blocks
from edgephi.reference.layers import attention, projection

Floats = NDArray[np.float32]


@dataclass
class StateDict:
    """A transformers state_dict as Weights; remembers what was read."""

    architecture: Architecture
    tensors: dict[str, Floats]
    reads: list[tuple[ModelTensor, int, int]] = field(default_factory=list)

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> Floats:
        assert 0 <= start < stop <= self.architecture.tensor_shapes()[tensor][0]
        self.reads.append((tensor, start, stop))
        (source,) = sources(self.architecture)[tensor]
        return self.tensors[source.tensor][start:stop]


@dataclass(frozen=True)
class Shape:
    """A small model; every field that is not here is the same in all of them."""

    heads: int = 4
    kv_heads: int = 4
    head_size: int = 64
    layers: int = 2
    vocabulary: int = 203
    window: int | None = None
    theta: float = 10000.0
    partial: float = 1.0
    tied: bool = False
    original: int | None = None  # LongRoPE where it is given
    context: int = 256
    attention_factor: float | None = None


def make(shape: Shape) -> tuple[Any, StateDict]:
    """A random transformers model of this shape, and its weights as we read them."""
    hidden, intermediate = shape.heads * shape.head_size, 3 * shape.head_size + 8
    size = int(shape.head_size * shape.partial)
    rope: dict[str, Any] = {"rope_theta": shape.theta, "partial_rotary_factor": shape.partial}
    short = long = None
    if shape.original is not None:
        short = tuple(np.linspace(1.0, 2.5, size // 2).tolist())
        long = tuple(np.geomspace(1.1, 48.0, size // 2).tolist())
        rope |= {"rope_type": "longrope", "short_factor": list(short), "long_factor": list(long)}
        if shape.attention_factor is not None:
            rope["attention_factor"] = shape.attention_factor
    else:
        rope["rope_type"] = "default"
    config = Phi3Config(
        vocab_size=shape.vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.context,
        original_max_position_embeddings=shape.original or shape.context,
        sliding_window=shape.window,
        tie_word_embeddings=shape.tied,
        rope_parameters=rope,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        attn_implementation="eager",
    )
    torch.manual_seed(7)
    model = Phi3ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger than at initialisation, so that attention prefers some tokens and positions matter.
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=1.5 / hidden**0.5)
    architecture = Architecture(
        model_type="phi3",
        vocabulary_size=shape.vocabulary,
        hidden_size=hidden,
        layers=shape.layers,
        norm=RmsNorm(config.rms_norm_eps),
        attention=Attention(
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_size=shape.head_size,
            window=shape.window,
            rotary=RotaryEmbedding(
                size=size,
                theta=shape.theta,
                original_context=shape.original or shape.context,
                context=shape.context,
                short_factor=short,
                long_factor=long,
                attention_factor=shape.attention_factor,
            ),
        ),
        feed_forward=GatedSilu(intermediate),
        context=shape.context,
        tied_embeddings=shape.tied,
        bos_token_id=1,
        eos_token_ids=(2,),
        pad_token_id=2,
    )
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return model, StateDict(architecture, tensors)


def some_tokens(count: int, vocabulary: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(count).integers(0, vocabulary, count)]


def oracle_logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        answer: torch.Tensor = model(torch.tensor([ids]), use_cache=False).logits[0]
    return answer


def assert_same_as_transformers(shape: Shape, *counts: int) -> None:
    """One passage for each of `counts`, all in one pass of ours; transformers sees each of them apart."""
    # transformers computes angles in float32, whose error grows with the position. With exact angles in
    # transformers too, the KL divergence at 4,097 tokens is 6e-11.
    largest_kl, largest_error = (1e-6, 1e-2) if max(counts) > 1000 else (1e-8, 1e-4)
    model, weights = make(shape)
    passages = [some_tokens(count, shape.vocabulary) for count in counts]
    [hidden] = final_hidden_states([weights], passages)
    ours = torch.from_numpy(logits(weights, hidden))
    theirs = torch.cat([oracle_logits(model, ids) for ids in passages])
    assert ours.shape == theirs.shape
    assert ours.dtype == torch.float32
    log_p, log_q = (torch.log_softmax(x.double(), dim=-1) for x in (theirs, ours))
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    # The test would see nothing if every token were equally likely.
    assert (log_p.exp().amax(-1) > 3 / shape.vocabulary).all()
    assert kl.max() < largest_kl
    torch.testing.assert_close(ours, theirs, atol=largest_error, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 33, 34, 100])
def test_multi_head_attention_with_a_sliding_window(count: int) -> None:
    assert_same_as_transformers(Shape(window=33), count)


def test_a_window_as_long_as_phi_3_mini_has() -> None:
    assert_same_as_transformers(Shape(heads=2, kv_heads=2, layers=1, window=2047, context=4096), 2100)


@pytest.mark.parametrize("head_size", [64, 96, 128])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_query_attention(kv_heads: int, head_size: int) -> None:
    assert_same_as_transformers(Shape(kv_heads=kv_heads, head_size=head_size), 70)


def test_a_window_with_grouped_queries() -> None:
    assert_same_as_transformers(Shape(kv_heads=2, window=20), 90)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 100])
def test_long_rope_changes_factors_past_the_original_context(count: int) -> None:
    assert_same_as_transformers(Shape(head_size=96, original=64, context=2048), count)


def test_long_rope_with_its_own_attention_factor() -> None:
    assert_same_as_transformers(Shape(original=64, context=2048, attention_factor=1.3), 80)


@pytest.mark.parametrize("count", [64, 65])
def test_phi_4_mini_in_small(count: int) -> None:
    shape = Shape(
        heads=3, kv_heads=1, head_size=128, partial=0.75, tied=True, original=64, context=2048, window=512
    )
    assert_same_as_transformers(shape, count)


def test_partial_rotary_embedding_without_long_rope() -> None:
    assert_same_as_transformers(Shape(partial=0.75), 60)


def test_the_rope_theta_of_phi_4() -> None:
    assert_same_as_transformers(Shape(kv_heads=1, head_size=128, theta=250_000.0), 120)


def test_every_passage_begins_anew() -> None:
    assert_same_as_transformers(Shape(kv_heads=2, window=20), 30, 1, 2, 55, 30)


def test_long_rope_is_chosen_by_the_length_of_each_passage() -> None:
    """The 200 tokens of all of them are no reason for the long factors, nor is one long passage."""
    assert_same_as_transformers(Shape(head_size=96, original=64, context=2048), 64, 65, 7, 64)


@pytest.mark.slow
@pytest.mark.parametrize("count", [4096, 4097])
def test_long_rope_at_its_real_boundary(count: int) -> None:
    assert_same_as_transformers(
        Shape(heads=2, kv_heads=1, head_size=96, layers=1, original=4096, context=131_072), count
    )


@pytest.fixture
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that even a tiny model falls into many, with a shorter last one."""
    monkeypatch.setattr(projection, "WEIGHT_BLOCK_BYTES", 5 * 256 * 4)
    monkeypatch.setattr(attention, "SCORE_BLOCK_BYTES", 7 * 100 * 4)


@pytest.mark.usefixtures("tiny_blocks")
@pytest.mark.parametrize("shape", [Shape(window=33), Shape(kv_heads=1), Shape(kv_heads=2, window=5)])
def test_the_size_of_the_blocks_does_not_matter(shape: Shape) -> None:
    assert_same_as_transformers(shape, 100, 9)


@pytest.mark.usefixtures("tiny_blocks")
def test_reads_every_row_of_every_layer_once_and_only_blocks() -> None:
    _, weights = make(Shape(kv_heads=2))
    [hidden] = final_hidden_states([weights], [[7, 5, 6], [7, 90], [0]])
    assert [read[1:] for read in weights.reads if read[0] == EMBEDDING] == [(0, 1), (5, 8), (90, 91)]
    logits(weights, hidden)
    for tensor, shape in weights.architecture.tensor_shapes().items():
        if tensor == EMBEDDING:
            continue
        spans = sorted((start, stop) for read, start, stop in weights.reads if read == tensor)
        assert [stop for _, stop in spans[:-1]] == [start for start, _ in spans[1:]]
        assert (spans[0][0], spans[-1][1]) == (0, shape[0])
        if len(shape) == 2:
            columns = shape[1]
            assert max(stop - start for start, stop in spans) <= max(1, 5 * 256 // columns)


def test_versions_run_side_by_side() -> None:
    _, weights = make(Shape())
    coarse = StateDict(
        weights.architecture,
        {name: tensor.astype(np.float16).astype(np.float32) for name, tensor in weights.tensors.items()},
    )
    ids = some_tokens(20, 203)
    steps: list[tuple[int, int]] = []
    both = final_hidden_states(
        [weights, coarse], [ids], progress=lambda done, total: steps.append((done, total))
    )
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for states, version in zip(both, [weights, coarse], strict=True):
        np.testing.assert_array_equal(states, final_hidden_states([version], [ids])[0])
    assert not np.array_equal(both[0], both[1])


def test_blocks_of_logits_are_the_logits() -> None:
    _, weights = make(Shape())
    [hidden] = final_hidden_states([weights], [some_tokens(23, 203)])
    blocks = list(logits_blocks(weights, hidden, tokens_per_block=10))
    assert [block.shape for block in blocks] == [(10, 203), (10, 203), (3, 203)]
    np.testing.assert_allclose(np.concatenate(blocks), logits(weights, hidden), atol=1e-5)


def test_refuses_what_it_cannot_run() -> None:
    _, weights = make(Shape())
    no_passages: list[list[list[int]]] = [[], [[]], [[1], []], [[203]], [[1], [-1]]]
    for passages in no_passages:
        with pytest.raises(ValueError, match="token ids from 0 to 202"):
            final_hidden_states([weights], passages)
    other = replace(weights, architecture=replace(weights.architecture, norm=RmsNorm(1e-6)))
    with pytest.raises(ValueError, match="one architecture"):
        final_hidden_states([weights, other], [[1]])


def test_an_error_of_the_reader_arrives_and_blas_gets_its_threads_back() -> None:
    class Broken(StateDict):
        def rows(self, tensor: ModelTensor, start: int, stop: int) -> Floats:
            if tensor == ModelTensor(Role.DOWN, 1):
                raise OSError("disk gone")
            return super().rows(tensor, start, stop)

    _, weights = make(Shape())
    threads = [(library["filepath"], library["num_threads"]) for library in threadpool_info()]
    with pytest.raises(OSError, match="disk gone"):
        final_hidden_states([Broken(weights.architecture, weights.tensors)], [[1, 2, 3]])
    assert threads == [(library["filepath"], library["num_threads"]) for library in threadpool_info()]


@pytest.mark.filterwarnings("error")
def test_a_very_negative_gate_makes_no_noise() -> None:
    _, weights = make(Shape())
    name = "model.layers.0.mlp.gate_up_proj.weight"
    weights.tensors[name] = weights.tensors[name] * 1e4
    [hidden] = final_hidden_states([weights], [[1, 2, 3]])
    assert np.isfinite(hidden).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["input_layernorm", "mlp.gate_up_proj"])
def test_numbers_past_the_range_are_told_by_the_result_alone(name: str) -> None:
    """In all threads: NumPy's warnings would stand between a build's steps and its one line of error."""
    _, weights = make(Shape())
    key = f"model.layers.0.{name}.weight"
    weights.tensors[key] = weights.tensors[key] * np.float32(1e37)
    [hidden] = final_hidden_states([weights], [[1, 2, 3]])
    assert not np.isfinite(logits(weights, hidden)).all()


@dataclass(frozen=True)
class MadeUp:
    """Weights of any size that exist only while they are read."""

    architecture: Architecture

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> Floats:
        return np.full((stop - start, *self.architecture.tensor_shapes()[tensor][1:]), 0.01, np.float32)


def peak_bytes(architecture: Architecture) -> tuple[int, int]:
    """Peak of traced memory of the layers, and of the head above the logits that it returns."""
    weights = MadeUp(architecture)
    tracemalloc.start()
    try:
        [hidden] = final_hidden_states([weights], [list(range(32))])
        layers = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        size = logits(weights, hidden).nbytes
        return layers, tracemalloc.get_traced_memory()[1] - size
    finally:
        tracemalloc.stop()


def test_memory_is_flat_in_the_size_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "WEIGHT_BLOCK_BYTES", 512 << 10)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)  # a block a worker
    _, weights = make(Shape(heads=8, kv_heads=8, vocabulary=1000))  # hidden 512: 3 MB of qkv
    small = replace(weights.architecture, feed_forward=GatedSilu(1024))
    peak_bytes(small)  # imports and caches are not the model's
    layers, head = peak_bytes(small)
    assert layers < 4 << 20
    assert head < 2 << 20
    more_layers, _ = peak_bytes(replace(small, layers=20))
    assert abs(more_layers - layers) < 1 << 20  # eighteen more layers weigh 190 MB
    _, larger_head = peak_bytes(replace(small, vocabulary_size=30_000))
    assert abs(larger_head - head) < 1 << 20  # 29,000 more rows weigh 59 MB
