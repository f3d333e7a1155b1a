"""Artifacts of tiny models that are no plain Phi-3, and what the reference says with the weights in them.

The reference is held against transformers by its own tests; that its weights are those of the artifact, by
OpenVINO's reading of it, is tested here.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.architecture import MixtureOfExperts
from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointWeights, open_checkpoint
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.declared.recipe import Quant
from edgephi.declared.target import Kernels, Target, read_target
from edgephi.export.openvino import exporter
from edgephi.export.stream.packed_tensor import row_count
from edgephi.export.tensor_names import expert_part_name, tensor_name
from edgephi.reference.forward import final_hidden_states, logits
from tests.export.openvino.oracle import Engine
from tests.export.openvino.weights import weights_of
from tests.export.oracle import Floats, mean_kl
from tests.export.prefixes import prefix_groups
from tests.portable import portable

# A CPU with VNNI rounds activations to int8 unless the artifact says otherwise.
TARGET = Target(**{**vars(read_target("openvino")), "kernels": Kernels(accuracy_level=0)})
ROUNDING = 1e-8  # nats, of float32


@dataclass(frozen=True)
class Artifact:
    """A tiny checkpoint and what the exporter makes of it."""

    checkpoint: Checkpoint
    folder: Path
    quant: Quant
    context: int

    @cached_property
    def exact(self) -> Engine:
        """The graph with a float32 cache: nothing but rounding is left."""
        return Engine(self.folder, KV_CACHE_PRECISION="f32")

    @cached_property
    def unchanged(self) -> Engine:
        """The graph with the options that it asks for itself."""
        return Engine(self.folder)

    def expected(self, ids: list[int]) -> Floats:
        """The reference's logits after each token, with the artifact's own weights."""
        weights = exporter.artifact_weights(self.folder, self.checkpoint.architecture)
        [hidden] = final_hidden_states([weights], [ids])
        return logits(weights, hidden)


def export(
    tiny: Path, folder: Path, *, context: int = 8192, quant: Quant | None = None, target: Target = TARGET
) -> Artifact:
    """The artifact of the checkpoint `tiny`, written into a new `folder`."""
    checkpoint = open_checkpoint(tiny, id="tiny", revision="local")
    quant = quant or portable(method="rtn", group_size=32)
    plans = plan_tensors(checkpoint.architecture, quant)
    context = min(context, checkpoint.architecture.context)
    folder.mkdir()
    exporter.write_artifact(folder, checkpoint, plans, target, context)
    return Artifact(checkpoint, folder, quant, context)


def some_ids(count: int, *, seed: int = 0) -> list[int]:
    """Tokens that have an embedding of their own and are no special ones."""
    return [int(token) for token in np.random.default_rng(seed).integers(3, 299, count)]


def check_prefixes(artifact: Artifact, lengths: list[int], *, last: int = 0, limit: float = ROUNDING) -> None:
    """OpenVINO's prefill of the first tokens of a text, for each length, against the reference.

    One pass of the reference serves all lengths that use the same RoPE factors. Only the last tokens are
    compared when `last` is given.
    """
    for group in prefix_groups(artifact.checkpoint, artifact.context, lengths):
        ids = some_ids(max(group))
        expected = used(artifact, artifact.expected(ids))
        assert expected.std(axis=1).min() > 0.05
        for length in group:
            start = max(0, length - last) if last else 0
            found = used(artifact, artifact.exact.prefill(ids[:length]))
            kl = mean_kl(expected[start:length], found[start:])
            assert kl <= limit, f"{length} tokens: KL {kl:.2e}"


def used(artifact: Artifact, values: Floats) -> Floats:
    """Logits without those of unused tokens, which are the least number there is, and no more than that."""
    unused = list(artifact.checkpoint.architecture.unused_token_ids)
    assert (values[:, unused] == np.finfo(np.float32).min).all()
    return np.delete(values, unused, axis=1)


def check_reads_as_openvino(artifact: Artifact) -> None:
    """Our reader of the artifact against OpenVINO's own, bit for bit, and every tensor in its place."""
    architecture = artifact.checkpoint.architecture
    ours = exporter.artifact_weights(artifact.folder, architecture)
    theirs, original = weights_of(artifact.folder), CheckpointWeights(artifact.checkpoint)
    for tensor, shape in architecture.tensor_shapes().items():
        count = row_count(shape)
        expected = _as_ours(theirs, tensor).reshape(count, *shape[-1:] if len(shape) > 1 else ())
        np.testing.assert_array_equal(ours.rows(tensor, 0, count), expected, strict=True)
        start, stop = count // 3, count // 2
        np.testing.assert_array_equal(ours.rows(tensor, start, stop), expected[start:stop], strict=True)
        wanted = original.rows(tensor, 0, count)
        error = float(((expected - wanted) ** 2).sum() / (wanted**2).sum())
        assert error < (0.03 if artifact_quantises(artifact, tensor) else 1e-12), tensor


def artifact_quantises(artifact: Artifact, tensor: ModelTensor) -> bool:
    """Whether a tensor is stored as codes."""
    return plan_tensors(artifact.checkpoint.architecture, artifact.quant)[tensor].scheme is not None


def _as_ours(theirs: dict[str, Floats], tensor: ModelTensor) -> Floats:
    if tensor.layer is None or tensor.role not in (Role.EXPERTS_GATE_UP, Role.EXPERTS_DOWN):
        return theirs[tensor_name(tensor)]
    parts = ("gate", "up") if tensor.role is Role.EXPERTS_GATE_UP else ("down",)
    return np.concatenate([theirs[expert_part_name(tensor.layer, part)] for part in parts], axis=1)


def check_size(artifact: Artifact) -> None:
    """The plan knew the size of the data file to the byte."""
    architecture = artifact.checkpoint.architecture
    plans = plan_tensors(architecture, artifact.quant)
    planned = exporter.artifact_bytes(architecture, plans, TARGET, artifact.context)
    assert planned == (artifact.folder / "openvino_model.bin").stat().st_size


def check_kernels(artifact: Artifact) -> None:
    """The CPU plugin took every subgraph for what it is: no weight is unpacked before it is needed."""
    architecture = artifact.checkpoint.architecture
    found = artifact.exact.layers()
    kinds = [kind for kind, _, _ in found]
    matrices = [types[1] for kind, _, types in found if kind == "FullyConnected"]
    has_experts = isinstance(architecture.feed_forward, MixtureOfExperts)
    compressed = [each for each in matrices if each in ("u4", "u8")]
    assert len(compressed) == (2 if has_experts else 4) * architecture.layers + 1
    assert len(matrices) - len(compressed) == architecture.layers * has_experts  # routers
    experts = [types[1] for kind, _, types in found if kind == "GatherMatmul"]
    assert len(experts) == 3 * architecture.layers * has_experts
    assert set(experts) <= {"u4", "u8"}
    assert kinds.count("ScaledDotProductAttention") == architecture.layers
    assert kinds.count("RoPE") == 2 * architecture.layers
    assert kinds.count("MVN") == 2 * architecture.layers + 1


def rewritten(graph: Path, change: Any) -> None:
    """Change the text of a graph's file."""
    text = graph.read_text()
    changed = change(text)
    assert changed != text
    graph.write_text(changed)
