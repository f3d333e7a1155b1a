"""What a build does with every tensor: all of it known from shapes, but for what the build chooses itself."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, get_args

from edgephi.build.matrix_names import EVERY_LAYER, tensors_named
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import EMBEDDING, EXPERTS, ModelTensor, Role
from edgephi.declared.recipe import GroupSize, Quant
from edgephi.engines.facts.engine import NativeGroups
from edgephi.errors import DoesNotFitError, NotSupportedError
from edgephi.quantize.k_quants import k_quant
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan, TensorPlans

MEASURING_METHODS = ("weighted", "calibrated")
"""Those that measure how large the inputs of each matrix are."""


def plan_tensors(
    architecture: Architecture, quant: Quant, native: NativeGroups = "symmetric"
) -> dict[ModelTensor, TensorPlan]:
    """What is done with every tensor: matrices are quantised, vectors and routers stay float32.

    `native` says what groups the engine has, for formats of that kind. Of what a recipe keeps at more bits
    only the tensors that it names are told apart: the others are chosen later.
    Where the recipe's groups do not divide a matrix's columns it gets the largest smaller ones that do.
    Raises NotSupportedError when none does, BadDeclarationError for a name that no matrix has.
    """
    embedding_bits, head_bits = quant.embedding_bits, quant.head_bits
    if architecture.tied_embeddings:
        embedding_bits = head_bits = max(embedding_bits, head_bits)
    special = {EMBEDDING: embedding_bits, architecture.head: head_bits}
    kept = tensors_named(quant.keep.tensors, architecture)
    plans: dict[ModelTensor, TensorPlan] = {}
    for tensor, shape in architecture.tensor_shapes().items():
        if not is_quantised(tensor, shape):
            plans[tensor] = TensorPlan(None, quant.method)
            continue
        own = quant.expert_bits if tensor.role in EXPERTS else None
        bits = special.get(tensor, own or quant.bits)
        if tensor in kept and (quant.formats == "portable" or native != "K-quants"):
            bits = 8
        columns = shape[-1]
        if tensor.role in (Role.EXPERTS_GATE_UP, Role.EXPERTS_DOWN):
            # The same groups for both: some engines compute a layer's experts in one operator.
            columns = math.gcd(architecture.hidden_size, architecture.feed_forward.width)
        size = dividing(quant.group_size, columns)
        if quant.formats == "portable":
            scheme = Scheme(bits, size, quant.symmetric)
        elif native == "K-quants":
            scheme = k_quant(tensor, shape[-1], bits, quant.mixture, kept=tensor in kept)
        else:
            scheme = _native_scheme(bits, size, native)
        if shape[-1] % scheme.group_size:
            raise NotSupportedError(
                f"{tensor}: group size {scheme.group_size} does not divide its {shape[-1]} columns",
                hint="every matrix needs a multiple of 32 columns",
            )
        plans[tensor] = TensorPlan(scheme, quant.method)
    return plans


def is_quantised(tensor: ModelTensor, shape: tuple[int, ...]) -> bool:
    """Whether codes are found for a tensor: all matrices but a router, whose few weights choose experts."""
    return len(shape) > 1 and tensor.role is not Role.ROUTER


def dividing(group_size: GroupSize, columns: int) -> GroupSize:
    """The largest size of groups up to this one that divides so many columns; this one where none does."""
    smaller = (size for size in sorted(get_args(GroupSize), reverse=True) if size <= group_size)
    return next((size for size in smaller if columns % size == 0), group_size)


def _native_scheme(bits: Literal[4, 8], group_size: GroupSize, native: NativeGroups) -> Scheme:
    """The best that an engine has at so many bits. With 8 of them nothing is gained by more than a scale."""
    if bits == 8 or native == "symmetric":
        return Scheme(bits, group_size)
    return Scheme(bits, group_size, symmetric=False, scales="offset" if native == "offsets" else "free")


def improvable(
    architecture: Architecture, quant: Quant, native: NativeGroups = "symmetric"
) -> dict[ModelTensor, TensorPlan]:
    """The layers' matrices that a build may choose to keep at more bits, as they are stored then.

    Those that the recipe names are kept in any case, and what has 8 bits gains nothing.
    """
    plans = plan_tensors(architecture, quant, native)
    every = dataclasses.replace(quant.keep, tensors=(*quant.keep.tensors, EVERY_LAYER))
    better = plan_tensors(architecture, dataclasses.replace(quant, keep=every), native)
    return {tensor: plan for tensor, plan in better.items() if plan.scheme != plans[tensor].scheme}


def weights_to_keep(architecture: Architecture, share: float) -> int:
    """How many weights a share of those of the layers' matrices is."""
    return int(share * sum(matrix_sizes(architecture).values()))


def bytes_to_spend(architecture: Architecture, bits_per_weight: float, base_bytes: int) -> int:
    """What a budget leaves for an artifact that takes `base_bytes` with nothing more kept at more bits.

    Raises DoesNotFitError when that is more than the budget.
    """
    budget = int(bits_per_weight * architecture.parameters / 8)
    if base_bytes > budget:
        least = least_bits_per_weight(architecture, base_bytes)
        raise DoesNotFitError(
            f"expected an artifact of at most {bits_per_weight:g} bits per weight, found {least:.2f} with "
            "nothing more kept at more bits",
            hint=f"set bits_per_weight = {least:.2f} or more in the recipe",
        )
    return budget - base_bytes


def least_bits_per_weight(architecture: Architecture, base_bytes: int) -> float:
    """The least budget, in hundredths of a bit, for an artifact that takes `base_bytes` without it."""
    return math.ceil(800 * base_bytes / architecture.parameters) / 100


SizeOf = Callable[[TensorPlans], int]
"""What an artifact with these tensors takes, in bytes."""


def most_added(
    architecture: Architecture, quant: Quant, plans: TensorPlans, better: TensorPlans, size_of: SizeOf
) -> int:
    """The most bytes that an artifact grows by when the build chooses among `better`; 0 when it does not.

    Raises what `bytes_to_spend` raises, and NotSupportedError for a method that measures nothing to choose
    by.
    """
    if not quant.chooses:
        return 0
    if quant.method not in MEASURING_METHODS:
        raise NotSupportedError(
            f"quant.keep: auto and bits_per_weight: expected the method {' or '.join(MEASURING_METHODS)}, "
            f"found {quant.method}, which does not measure what rounding a matrix costs",
            hint="name the matrices under quant.keep: tensors, or take another method",
        )
    base = size_of(plans)
    everything = size_of({**plans, **better}) - base
    if quant.bits_per_weight is not None:
        return min(bytes_to_spend(architecture, quant.bits_per_weight, base), everything)
    left, added = weights_to_keep(architecture, quant.keep.auto), 0.0
    sizes, growth = matrix_sizes(architecture), added_bytes(plans, better, size_of)
    for tensor in sorted(better, key=lambda each: growth[each] / sizes[each], reverse=True):
        taken = min(left, sizes[tensor])
        left, added = left - taken, added + taken * growth[tensor] / sizes[tensor]
    return min(math.ceil(added), everything)


def added_bytes(plans: TensorPlans, better: TensorPlans, size_of: SizeOf) -> dict[ModelTensor, int]:
    """The bytes that an artifact grows by for each matrix that is stored as `better` says.

    All of one role grow alike, but for one at the end of a file that need not end on a boundary.
    """
    base = size_of(plans)
    found: dict[ModelTensor, int] = {}
    for role in {tensor.role for tensor in better}:
        kind = [tensor for tensor in better if tensor.role is role]
        growth = max(size_of({**plans, end: better[end]}) - base for end in (kind[0], kind[-1]))
        found.update(dict.fromkeys(kind, growth))
    return found


def matrix_sizes(architecture: Architecture) -> dict[ModelTensor, int]:
    """The numbers of weights of the layers' matrices."""
    return {
        tensor: math.prod(shape)
        for tensor, shape in architecture.tensor_shapes().items()
        if tensor.layer is not None and is_quantised(tensor, shape)
    }
