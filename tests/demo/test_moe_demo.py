"""The trained mixture of experts of tests: Phi-3.5-MoE's form, good answers, and a router worth testing."""

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the oracle of these tests is transformers on torch")
transformers = pytest.importorskip(
    "transformers", reason="the oracle of these tests is transformers on torch"
)

from edgephi.checkpoint.checkpoint import CheckpointWeights, open_checkpoint  # noqa: E402
from edgephi.reference.forward import final_hidden_states, logits  # noqa: E402
from tests.demo.examine import exact_match, greedy_answers  # noqa: E402
from tests.demo.moe_demo import MOE_DEMO, some_held_out_commands  # noqa: E402
from tests.demo.train import chat_texts  # noqa: E402
from tests.demo.train_moe import CONFIG, SHIPPED, router_report, routings  # noqa: E402

FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(MOE_DEMO)


@pytest.fixture(scope="module")
def model() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(MOE_DEMO, dtype=torch.float32).eval()


def ids(tokenizer: Any, count: int) -> list[list[int]]:
    """Conversations with the answers that are right."""
    return [
        tokenizer.encode(text, add_special_tokens=False) for text in chat_texts(some_held_out_commands(count))
    ]


def test_it_fits_into_six_megabytes() -> None:
    assert sorted(file.name for file in MOE_DEMO.iterdir()) == sorted(FILES)
    assert sum((MOE_DEMO / name).stat().st_size for name in FILES) <= 6_000_000


def test_its_config_is_what_the_training_says() -> None:
    assert json.loads((MOE_DEMO / "config.json").read_text()) == CONFIG
    # int4 groups of 128 along the input dimension, and head sizes that engines' attention kernels take
    assert CONFIG["hidden_size"] % 128 == CONFIG["intermediate_size"] % 128 == 0
    assert (CONFIG["hidden_size"] // CONFIG["num_attention_heads"]) % 16 == 0


def test_its_tokenizer_is_the_shipped_demos() -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (MOE_DEMO / name).read_bytes() == (Path(SHIPPED) / name).read_bytes()


def test_it_is_a_trained_model_with_an_embedding_that_has_a_mean(model: Any) -> None:
    embedding = model.model.embed_tokens.weight.detach()
    assert (embedding.mean(-1) / embedding.std(-1)).abs().mean() > 0.1
    biases = {name: each.detach() for name, each in model.named_parameters() if name.endswith("bias")}
    assert len(biases) == 3 * (4 + 2) + 2  # four projections and two norms a layer, last norm and head
    assert all(bias.abs().max() > 0.01 for name, bias in biases.items() if "k_proj" not in name)


def test_held_out_commands_are_answered_exactly(model: Any, tokenizer: Any) -> None:
    commands = some_held_out_commands(128)
    assert exact_match(commands, greedy_answers(model, tokenizer, commands)) > 0.95


def test_its_router_uses_all_experts_and_has_near_ties(model: Any, tokenizer: Any) -> None:
    layers = torch.cat(list(routings(model, ids(tokenizer, 40))), dim=1)
    for each in layers:
        report = router_report(each, CONFIG["router_jitter_noise"])
        assert 0.03 < report["near ties"] < 0.3
        assert report["experts used"] >= 14
        assert report["busiest expert"] < 0.5


def test_the_reference_says_what_transformers_says(model: Any, tokenizer: Any) -> None:
    weights = CheckpointWeights(open_checkpoint(MOE_DEMO, id="moe", revision="local"))
    texts = ids(tokenizer, 8)
    [hidden] = final_hidden_states([weights], texts)
    ours = torch.log_softmax(torch.from_numpy(logits(weights, hidden)).double(), -1)
    with torch.no_grad():
        both = [model(torch.tensor([text]), use_cache=False).logits[0] for text in texts]
    theirs = torch.log_softmax(torch.cat(both).double(), -1)
    divergence = (theirs.exp() * (theirs - ours)).sum(-1)
    assert divergence.mean() < 1e-6
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
