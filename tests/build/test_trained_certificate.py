"""What a certificate says of a trained model, beside what transformers computes from the same weights."""

import math
from pathlib import Path
from typing import Any

import pytest

from edgephi.bundle.certificate import Certificate
from edgephi.bundle.manifest import read_manifest
from edgephi.checkpoint.checkpoint import open_checkpoint
from edgephi.checkpoint.conversation import conversation_renderer
from edgephi.checkpoint.family.phi3 import sources
from edgephi.checkpoint.tokenizer import encoder
from edgephi.export.exporter import exporter
from edgephi.reference.evaluation_text import EvaluationLevel, evaluation_passages
from tests.build.conftest import Here

torch = pytest.importorskip("torch")

# Whether 135 M parameters at 4 bits still answer depends on the processor's kernels; what they lose does not.
GROUPS_OF_32 = """name = "groups-of-32"
summary = "A width of 576 is no multiple of 64 times a power of two"

[quant]
group_size = 32
head_bits = 8
embedding_bits = 8

[gate]
answers = false
"""
FIRST = 16
"""Positions of each passage that are not counted."""


@pytest.mark.slow
def test_the_loss_of_a_trained_model_is_what_transformers_computes(
    here: Here, trained: Path, tmp_path: Path, work: Path
) -> None:
    (tmp_path / "recipe.toml").write_text(GROUPS_OF_32)
    options = ("--recipe", tmp_path / "recipe.toml", "--verify", "quick")
    assert here("build", trained, "-t", "cpu", "-o", work / "b", *options).returncode == 0
    assert_same_as_transformers(read_manifest(work / "b").certificate, trained, work / "b", "quick")


def assert_same_as_transformers(
    certificate: Certificate, checkpoint: Path, bundle: Path, level: EvaluationLevel
) -> None:
    """The quantisation loss, by a pass of its own over each passage with the artifact's weights."""
    opened = open_checkpoint(checkpoint, id="x", revision="local")
    passages = evaluation_passages(
        encoder(checkpoint), conversation_renderer(opened.tokenizer.chat), level, context=4096
    )
    original = model_of(checkpoint)
    quantised = model_of(checkpoint)
    artifact = exporter("onnxruntime-genai").artifact_weights(bundle / "model", opened.architecture)
    state = quantised.state_dict()
    for tensor, shape in opened.architecture.tensor_shapes().items():
        (source,) = sources(opened.architecture)[tensor]
        state[source.tensor].copy_(torch.from_numpy(artifact.rows(tensor, 0, shape[0])))
    divergences, same, surprises = [], [], []
    for passage in passages:
        ids = torch.tensor([passage.ids])
        with torch.no_grad():
            p, q = (
                torch.log_softmax(model(ids, use_cache=False).logits[0].double(), dim=-1)[FIRST:]
                for model in (original, quantised)
            )
        divergences.append((p.exp() * (p - q)).sum(-1))
        same.append(p.argmax(-1) == q.argmax(-1))
        following = ids[0, FIRST + 1 :, None]
        surprises.append([-logs[:-1].gather(1, following)[:, 0] for logs in (p, q)])
    kl = torch.cat(divergences)
    found = certificate.quantisation_loss
    assert found is not None
    assert found.kl_mean > 0.05  # it is a loss, of which one per cent is more than rounding
    assert found.kl_mean == pytest.approx(float(kl.mean()), rel=0.01)
    assert found.kl_median == pytest.approx(float(kl.quantile(0.5)), rel=0.01)
    assert found.kl_p99 == pytest.approx(float(kl.quantile(0.99)), rel=0.01)
    assert found.top1 == pytest.approx(float(torch.cat(same).double().mean()), abs=0.005)
    perplexities = (found.perplexity_from, found.perplexity_to)
    for perplexity, each in zip(perplexities, zip(*surprises, strict=True), strict=True):
        assert perplexity == pytest.approx(math.exp(torch.cat(each).mean()), rel=0.01)
    means = torch.stack([each.mean() for each in divergences])
    if len({len(each) for each in divergences}) == 1:
        assert found.kl_standard_error == pytest.approx(float(means.std()) / len(means) ** 0.5, rel=0.01)
    assert certificate.tokens == len(kl)


def model_of(checkpoint: Path) -> Any:
    from transformers import Phi3ForCausalLM

    return Phi3ForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()
