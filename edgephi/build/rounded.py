"""What plain rounding would have made of a bundle's checkpoint: what any better method has to beat."""

import dataclasses

from edgephi.build.tensor_plans import plan_tensors
from edgephi.bundle.manifest import Manifest
from edgephi.checkpoint.roles import EMBEDDING
from edgephi.declared.recipe import Quant
from edgephi.engines.facts.registry import facts_of
from edgephi.errors import BadBundleError, BadDeclarationError
from edgephi.quantize.tensor_plan import TensorPlan
from edgephi.records import read_record
from edgephi.reference.comparison.plain_rounding import RoundedWeights
from edgephi.reference.weights import Weights

_PLAIN = "rtn"
_CHOSEN_BITS = 4
"""With 8 bits every method takes the scale that spans the group."""

_HINT = "build the bundle again"


def plainly_rounded(weights: Weights, manifest: Manifest) -> Weights | None:
    """`weights` rounded to nearest, with the bits, groups and formats that the manifest says.

    What the bundle keeps at more bits is kept here too.

    None where the bundle's own codes are found no other way. Raises BadBundleError when the manifest says
    what no recipe can.
    """
    facts = manifest.quant
    if facts.method == _PLAIN or _CHOSEN_BITS not in (facts.bits, facts.embedding_bits, facts.head_bits):
        return None
    told = {
        "method": _PLAIN,
        "bits": facts.bits,
        "group_size": facts.group_size,
        "symmetric": facts.symmetric,
        "embedding_bits": facts.embedding_bits,
        "head_bits": facts.head_bits,
        "formats": facts.formats,
        "mixture": facts.mixture,
        "keep": {"tensors": list(facts.kept)},
    }
    quant = read_record(Quant, told, where="quant", error=BadBundleError, hint=_HINT)
    engine = facts_of(manifest.target.engine)
    try:
        plans = plan_tensors(weights.architecture, quant, engine.native_groups)
    except BadDeclarationError as cause:  # a name that no matrix has
        raise BadBundleError(cause.message, hint=_HINT) from None
    if engine.row_scales:
        # The embedding is looked up by the processor, unless it is the head's matrix as well.
        free = set() if weights.architecture.tied_embeddings else {EMBEDDING}
        plans = {
            tensor: plan if plan.scheme is None or tensor in free else _with_row_scales(plan)
            for tensor, plan in plans.items()
        }
    return RoundedWeights(weights, plans)


def _with_row_scales(plan: TensorPlan) -> TensorPlan:
    return dataclasses.replace(plan, scheme=dataclasses.replace(plan.quantised, scales="multiples"))
