"""Whether the OpenVINO that is installed here computes only the chosen experts of a graph of ours.

It recognises them by the shape of the graph. Where it does not, it computes all of them for every token,
rightly and without a word, and many times slower. So a graph of the same shape is compiled before a long
build: the same matrices, but few experts in each stack and one layer of each kind, full of zeros. That is
done in a process of its own, whose memory goes with it.
"""

import dataclasses
import importlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgephi.checkpoint.architecture import Architecture, MixtureOfExperts
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.commands import edgephi_command
from edgephi.engines.facts.packages import installed_version
from edgephi.engines.openvino_genai import CHOSEN_EXPERTS_KERNEL, DATA_FILE, FACTS, GRAPH_FILE
from edgephi.errors import NotSupportedError
from edgephi.export.openvino.graph import build_graph
from edgephi.export.openvino.layout import lay_out
from edgephi.export.stream.packed_tensor import align
from edgephi.processes.ask import Done, answer, ask
from edgephi.quantize.tensor_plan import TensorPlan, TensorPlans
from edgephi.steps import Step, silent

PRODUCTS_PER_LAYER = 3
"""Gate, up and down: each is one kernel for all experts."""

_VOCABULARY = 64


@dataclass(frozen=True)
class KernelsQuestion:
    """Which kernels a graph has when it is compiled."""

    graph: str


@dataclass(frozen=True)
class FoundKernels:
    """How many layers of a compiled graph compute with the chosen experts alone."""

    chosen: int


def check_expert_kernels(architecture: Architecture, plans: TensorPlans, *, step: Step = silent) -> None:
    """Raise NotSupportedError when the experts would all be computed.

    Nothing is checked where there are none, or no OpenVINO to ask: the runtime looks again when it opens a
    bundle.
    """
    if not isinstance(architecture.feed_forward, MixtureOfExperts) or installed_version(FACTS) is None:
        return
    small, own = _small(architecture, architecture.feed_forward, plans)
    with step("look for the experts' kernel", 0), tempfile.TemporaryDirectory() as name:
        check_graph(_write_zeros(Path(name), small, own), PRODUCTS_PER_LAYER * small.layers)


def check_graph(graph: Path, products: int) -> None:
    """Raise NotSupportedError when not so many products of a graph compute with the chosen experts alone."""
    compiled = ask(
        KernelsQuestion(str(graph)),
        FoundKernels,
        who="the process that compiles a layer with experts",
        hint="stop other programs, then try again",
    )
    if compiled.chosen < products:
        raise NotSupportedError(
            f"expected {FACTS.name} {installed_version(FACTS)} to compute only the chosen experts, in "
            f"{products} products, found {compiled.chosen}: it would compute all of them for every token",
            hint=f"`{edgephi_command('targets', 'show', 'openvino')}` names the versions of the engine",
        )


def _small(
    architecture: Architecture, experts: MixtureOfExperts, plans: TensorPlans
) -> tuple[Architecture, dict[ModelTensor, TensorPlan]]:
    """The same model with few experts, few words, and one of all layers that are stored alike."""
    of_layers: dict[int, dict[Role, TensorPlan]] = {}
    for tensor, plan in plans.items():
        if tensor.layer is not None:
            of_layers.setdefault(tensor.layer, {})[tensor.role] = plan
    kinds = {tuple(plan.scheme for plan in own.values()): layer for layer, own in of_layers.items()}
    layers = list(kinds.values())
    small = dataclasses.replace(
        architecture,
        layers=len(layers),
        vocabulary_size=_VOCABULARY,
        unused_token_ids=(),
        feed_forward=dataclasses.replace(experts, experts=min(experts.experts, experts.chosen + 1)),
    )
    own = {}
    for tensor in small.tensor_shapes():
        layer = None if tensor.layer is None else layers[tensor.layer]
        own[tensor] = plans[ModelTensor(tensor.role, layer)]
    return small, own


def _write_zeros(folder: Path, architecture: Architecture, plans: Mapping[ModelTensor, TensorPlan]) -> Path:
    """Write the artifact of a model that is full of zeros; returns the graph's file."""
    tensors, end = lay_out(dict.fromkeys(architecture.tensor_shapes(), ()), architecture, plans)
    literals_at = align(end)
    graph = build_graph(architecture, tensors, architecture.context, literals_at=literals_at)
    with (folder / DATA_FILE).open("wb") as file:
        file.seek(literals_at)  # what is skipped are zeros that take no room
        file.write(bytes(graph.literals))
    (folder / GRAPH_FILE).write_bytes(graph.xml())
    return folder / GRAPH_FILE


def _compile(question: KernelsQuestion, done: Done) -> FoundKernels:  # noqa: ARG001 - it is one step
    openvino = importlib.import_module("openvino")
    compiled = openvino.Core().compile_model(question.graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    layers = compiled.get_runtime_model().get_ops()
    kinds = [layer.get_rt_info()["layerType"].astype(str) for layer in layers]
    return FoundKernels(kinds.count(CHOSEN_EXPERTS_KERNEL))


if __name__ == "__main__":
    answer(KernelsQuestion, _compile)
