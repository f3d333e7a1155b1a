"""The front door: whatever the recipe asks for, the weights come back about as they were."""

import itertools
import typing

import numpy as np
import pytest

from edgephi.declared.recipe import Method
from edgephi.quantize.groups import restored
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.scheme import Scales, Scheme
from edgephi.quantize.tensor_plan import TensorPlan

EVERY_WAY = list(itertools.product(typing.get_args(Method), typing.get_args(Scales)))


def scheme_of(scales: Scales, bits: typing.Literal[4, 8]) -> Scheme:
    """A scheme with such scales; super-blocks have 6 bits at most."""
    if scales == "superblocks":
        return Scheme(4, 32, symmetric=False, scales=scales) if bits == 4 else Scheme(6, 16, scales=scales)
    return Scheme(bits, 32, symmetric=scales != "offset", scales=scales)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("method", "scales"), EVERY_WAY)
def test_finds_codes_in_every_way(method: Method, scales: Scales, bits: typing.Literal[4, 8]) -> None:
    weights = np.random.default_rng(0).standard_normal((24, 256), np.float32)
    scheme = scheme_of(scales, bits)
    groups = Quantizer().quantize(weights, TensorPlan(scheme, method))
    off = restored(groups, scheme) - weights
    assert groups.sums.squared_error == pytest.approx(float((off**2).sum()), rel=2e-2)
    assert groups.sums.squared_error < {4: 0.01, 6: 1e-3, 8: 1e-4}[scheme.bits] * groups.sums.squared_norm


def test_one_that_has_done_other_plans_gives_the_same() -> None:
    weights = np.random.default_rng(1).standard_normal((24, 256), np.float32)
    used = Quantizer()
    for method, scales in EVERY_WAY * 2:
        plan = TensorPlan(scheme_of(scales, 4), method)
        once, again = Quantizer().quantize(weights, plan), used.quantize(weights, plan)
        assert (once.codes == again.codes).all()
        assert (once.scales == again.scales).all()
