"""An artifact of a tiny checkpoint, run by the engine, beside the reference with the artifact's weights."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime_genai
from numpy.typing import NDArray

from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.checkpoint import Checkpoint, open_checkpoint
from edgephi.declared.recipe import Quant
from edgephi.declared.target import Kernels, read_target
from edgephi.engines.onnxruntime_genai import TOLD_LENGTH_INPUT
from edgephi.export.onnx import exporter
from edgephi.export.onnx.weights import ArtifactWeights
from edgephi.export.stream.packed_tensor import row_count
from edgephi.export.tensor_names import tensor_name
from edgephi.reference.forward import final_hidden_states, logits
from tests.export.oracle import tensors_of
from tests.portable import portable

Floats = NDArray[np.float32]

LIMIT = 1e-8
"""Of divergences with float32 activations, in nats: rounding noise."""

FLOAT32, INT8, FLOAT16 = Kernels(0), Kernels(4), Kernels(0, "float16")
GROUPS_OF_32 = portable(group_size=32)


@dataclass(frozen=True)
class Artifact:
    """A checkpoint and its artifact, whose own configuration may ask for another provider than the CPU."""

    checkpoint: Checkpoint
    folder: Path
    _kept: list[Any] = dataclasses.field(default_factory=list)

    @property
    def weights(self) -> ArtifactWeights:
        return exporter.artifact_weights(self.folder, self.checkpoint.architecture)

    @property
    def model(self) -> onnx.ModelProto:
        return onnx.load(self.folder / "model.onnx", load_external_data=False)

    @cached_property
    def engine(self) -> Any:
        config = onnxruntime_genai.Config(str(self.folder))
        config.clear_providers()
        return onnxruntime_genai.Model(config)

    def expected(self, ids: list[int]) -> Floats:
        """The reference's logits, [tokens, vocabulary]."""
        weights = self.weights
        [hidden] = final_hidden_states([weights], [ids])
        return logits(weights, hidden)

    def generator(self, length: int, *, told: int | None = None) -> Any:
        """For so many tokens; where `told`, the graph knows from the start that there will be so many."""
        parameters = onnxruntime_genai.GeneratorParams(self.engine)
        parameters.set_search_options(max_length=length, do_sample=False)
        generator = onnxruntime_genai.Generator(self.engine, parameters)
        if told is not None:
            length_input = np.array([told])
            generator.set_model_input(TOLD_LENGTH_INPUT, length_input)
            self._kept.append(length_input)  # the engine does not
        return generator

    def in_pieces(self, ids: list[int], piece: int, *, length: int | None = None) -> Floats:
        """The engine's logits of all tokens, `piece` of them appended at once."""
        return append(self.generator(length or len(ids)), ids, piece)


def append(generator: Any, ids: list[int], piece: int) -> Floats:
    """The logits of all tokens that are appended, `piece` of them at once."""
    rows = []
    for start in range(0, len(ids), piece):
        generator.append_tokens(ids[start : start + piece])
        rows.append(generator.get_output("logits")[0].astype(np.float32))
    return np.concatenate(rows)


def export(
    tiny: Path,
    folder: Path,
    *,
    kernels: Kernels = FLOAT32,
    quant: Quant = GROUPS_OF_32,
    context: int,
    target: str = "cpu",
) -> Artifact:
    """The artifact of the checkpoint in `tiny`, written into `folder`."""
    checkpoint = open_checkpoint(tiny, id="tiny", revision="local")
    plans = plan_tensors(checkpoint.architecture, quant)
    made_for = dataclasses.replace(read_target(target), kernels=kernels)
    exporter.check_architecture(checkpoint.architecture)
    exporter.check_schemes(plans, made_for)
    folder.mkdir(parents=True)
    report = exporter.write_artifact(folder, checkpoint, plans, made_for, context)
    planned = exporter.artifact_bytes(checkpoint.architecture, plans, made_for, context)
    assert 0 <= planned - report.data_size < 64
    return Artifact(checkpoint, folder)


def divergences(expected: Floats, found: Floats) -> Floats:
    """KL(expected ‖ found) in nats of each row of logits; both have the same least numbers there are."""
    assert expected.shape == found.shape
    possible = expected[0] > np.finfo(np.float16).min
    assert ((found > np.finfo(np.float16).min) == possible).all()
    expected, found = expected[:, possible], found[:, possible]
    log_p, log_q = (_log_softmax(each.astype(np.float64)) for each in (expected, found))
    result: Floats = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return result


def _log_softmax(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = rows - rows.max(axis=1, keepdims=True)
    found: NDArray[np.float64] = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return found


def some_ids(count: int, *, seed: int = 0, vocabulary: int = 512) -> list[int]:
    """Random tokens."""
    return [int(token) for token in np.random.default_rng(seed).integers(0, vocabulary, count)]


def check_opens(artifact: Artifact) -> None:
    """The onnx library finds nothing wrong with the graph and its data."""
    model = artifact.model
    names = [tensor.name for tensor in model.graph.initializer]
    used = {name for node in model.graph.node for name in node.input}
    assert len(names) == len(set(names))
    assert set(names) <= used
    checked = artifact.folder / "checked.onnx"  # beside the data, which is checked too
    checked.write_bytes(model.SerializeToString())
    try:
        onnx.checker.check_model(checked)
    finally:
        checked.unlink()


def check(artifact: Artifact, ids: list[int], *, piece: int, limit: float = LIMIT) -> None:
    """The engine computes what the reference does."""
    expected = artifact.expected(ids)
    # Else all words were as likely whatever is wrong.
    assert (np.quantile(expected, 0.9, axis=1) - np.median(expected, axis=1)).min() > 0.3
    assert divergences(expected, artifact.in_pieces(ids, piece)).mean() <= limit


def check_reads_as_the_onnx_library(artifact: Artifact) -> None:
    """Our reader of the artifact against the onnx library's and a decoder of the tests' own, bit for bit."""
    ours, theirs = artifact.weights, tensors_of(artifact.folder)
    shapes = artifact.checkpoint.architecture.tensor_shapes()
    tied = {"lm_head.weight"} if artifact.checkpoint.architecture.tied_embeddings else set()
    assert {tensor_name(tensor) for tensor in shapes} | tied == theirs.keys()
    for tensor, shape in shapes.items():
        rows = row_count(shape)
        expected = theirs[tensor_name(tensor)]
        assert expected.shape == shape
        flat = expected.reshape(rows, *shape[1:][-1:])
        np.testing.assert_array_equal(ours.rows(tensor, 0, rows), flat, strict=True)
        start, stop = rows // 3, rows // 2 + 1
        np.testing.assert_array_equal(ours.rows(tensor, start, stop), flat[start:stop], strict=True)
