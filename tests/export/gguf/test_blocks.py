"""Blocks of every type, of any weights: the gguf library reads from them what we meant."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgephi.declared.recipe import Method
from edgephi.export.gguf.blocks import SCHEMES, TYPES, block_bytes, pack, unpack
from edgephi.quantize.groups import ErrorSums, Groups, restored
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan
from tests.property_profile import examples
from tests.quantize.test_free_scales import drawn_blocks

Floats = NDArray[np.float32]
every_scheme = pytest.mark.parametrize("scheme", TYPES, ids=[kind.name for kind in SCHEMES])


def blocks_of(groups: Groups, scheme: Scheme) -> NDArray[np.uint8]:
    (blocks,) = pack(groups, scheme)
    return np.asarray(blocks, np.uint8)


def read_by_the_library(blocks: NDArray[np.uint8], scheme: Scheme, columns: int) -> Floats:
    found: Floats = gguf.quants.dequantize(blocks.reshape(-1), TYPES[scheme])
    return found.reshape(-1, columns)


@every_scheme
@settings(max_examples=examples(30))
@given(weights=drawn_blocks(-9, 4), method=st.sampled_from(["weighted", "search", "rtn"]))
def test_what_was_quantised_is_what_is_read(scheme: Scheme, weights: Floats, method: Method) -> None:
    # An offset is no larger than a float16 can be.
    groups = Quantizer().quantize(weights.clip(-5e4, 5e4), TensorPlan(scheme, method))
    blocks = blocks_of(groups, scheme)
    assert blocks.shape[1] == block_bytes(scheme)[1]
    expected = restored(groups, scheme)
    np.testing.assert_array_equal(read_by_the_library(blocks, scheme, 256), expected, strict=True)
    np.testing.assert_array_equal(unpack(blocks, scheme, 256), expected, strict=True)


@every_scheme
@settings(max_examples=examples(30))
@given(data=st.data())
def test_any_bytes_are_read_as_the_library_reads_them(scheme: Scheme, data: st.DataObject) -> None:
    """All codes and all whole numbers, whether a quantiser would choose them or not."""
    weights, size = block_bytes(scheme)
    count = 256 // weights
    blocks = data.draw(arrays(np.uint8, (count, size)))
    scales = data.draw(arrays(np.float16, (count, 2), elements=st.floats(-8, 8, width=16)))
    start = size - 2 if scheme.bits == 6 else 0  # the step of Q6_K comes last
    floats = 2 if scheme.scales == "offset" or not scheme.symmetric else 1
    blocks[:, start : start + 2 * floats] = scales[:, :floats].copy().view(np.uint8)
    expected = read_by_the_library(blocks, scheme, 256)
    np.testing.assert_array_equal(unpack(blocks, scheme, 256), expected, strict=True)


@pytest.mark.parametrize("bits", [4, 5, 8])
@settings(max_examples=examples(30))
@given(data=st.data())
def test_symmetric_codes_are_ours_less_the_middle(bits: int, data: st.DataObject) -> None:
    """Any codes and any scales, the negative ones and the lowest code among them."""
    rows, groups = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    scheme = next(scheme for scheme in TYPES if scheme.bits == bits and scheme.scales == "free")
    codes = data.draw(arrays(np.uint8, (rows, 32 * groups), elements=st.integers(0, scheme.levels - 1)))
    codes[0, 0] = 0
    scales = data.draw(
        arrays(np.float16, (rows, groups), elements=st.floats(-8, 8, width=16, allow_subnormal=True))
    )
    found = read_by_the_library(
        blocks_of(Groups(codes, scales, None, ErrorSums()), scheme), scheme, 32 * groups
    )
    expected = (codes.astype(np.float32) - scheme.middle) * scales.astype(np.float32).repeat(32, axis=1)
    np.testing.assert_array_equal(found, expected)
