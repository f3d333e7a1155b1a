"""Routing in a graph, run by onnxruntime, against the function of transformers."""

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from transformers.models.phimoe.modeling_phimoe import sparsemixer

from edgephi.checkpoint.architecture import MixtureOfExperts
from edgephi.export.onnx.graph_builder import GraphBuilder
from edgephi.export.onnx.layout import OnnxLayout
from edgephi.export.onnx.sparse_mixer import sparse_mixer

EXPERTS = 16
MIXTURE = MixtureOfExperts(width=32, experts=EXPERTS, chosen=2, jitter=0.01)
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    """Logits [tokens, experts] -> the logarithms and the sum that the graph makes of them."""
    graph = GraphBuilder(OnnxLayout({}, (), 0, np.float32), 0)
    routing = sparse_mixer(graph, MIXTURE, "logits")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["tokens", size])
        for name, size in (("logits", EXPERTS), (routing.logarithms, EXPERTS), (routing.total, 1))
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "routing", values[:1], values[1:], graph.initializers),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    return onnxruntime.InferenceSession(model.SerializeToString())


def weights(session: onnxruntime.InferenceSession, logits: Floats) -> Floats:
    """What an operator that makes a softmax of the logarithms gives each expert, times the sum."""
    logarithms, total = session.run(None, {"logits": logits})
    found: Floats = torch.softmax(torch.from_numpy(logarithms), dim=-1).numpy() * total
    return found


def expected(logits: Floats) -> Floats:
    own, experts = sparsemixer(torch.from_numpy(logits), jitter_eps=0.01, training=False)
    found = torch.zeros(logits.shape).scatter_(1, experts, own)
    weights: Floats = found.numpy()
    return weights


def check(session: onnxruntime.InferenceSession, logits: Floats) -> None:
    np.testing.assert_allclose(weights(session, logits), expected(logits), rtol=0, atol=1e-6)


@pytest.mark.parametrize("spread", [0.001, 0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("centre", [0.0, 3.0, -3.0])
def test_logits_of_every_size(session: onnxruntime.InferenceSession, spread: float, centre: float) -> None:
    random = np.random.default_rng(3)
    check(session, (centre + spread * random.standard_normal((500, EXPERTS))).astype(np.float32))


def test_experts_that_are_nearly_as_high_share_the_weight(session: onnxruntime.InferenceSession) -> None:
    logits = np.zeros((3, EXPERTS), np.float32)
    logits[0, [3, 5, 9]] = 5, 4.95, 4.92
    logits[1, [3, 5, 9]] = 5, 4.0, 3.96
    logits[2, [3, 5, 9]] = 5, 4.91, 3.0
    check(session, logits)
    found = weights(session, logits)
    assert found[0, 3] < 0.4  # of three
    assert found[1, 3] == pytest.approx(1)
    assert found[1, 5] == pytest.approx(np.exp(4.0) / (np.exp(4.0) + np.exp(3.96)), abs=1e-6)
    assert found[2, 3] == pytest.approx(np.exp(5.0) / (np.exp(5.0) + np.exp(4.91)), abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 2.0, -2.0])
def test_the_first_of_equal_ones_is_taken(session: onnxruntime.InferenceSession, value: float) -> None:
    """With 0 everywhere the ratio that decides is no number, and then an expert counts."""
    logits = np.full((1, EXPERTS), value, np.float32)
    check(session, logits)
    assert (weights(session, logits)[0] > 1e-6).nonzero()[0].tolist() == [0, 1]
