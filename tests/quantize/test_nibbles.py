"""Two codes to a byte, and back."""

import hypothesis.extra.numpy as arrays
import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edgephi.quantize.nibbles import pack_nibbles, unpack_nibbles

Bytes = NDArray[np.uint8]
codes = arrays.arrays(
    np.uint8,
    st.tuples(st.integers(0, 5), st.integers(1, 20).map(lambda n: 2 * n)),
    elements=st.integers(0, 15),
)


@given(codes)
def test_what_was_packed_comes_back(some: Bytes) -> None:
    packed = pack_nibbles(some)
    assert packed.shape == (some.shape[0], some.shape[1] // 2)
    assert packed.dtype == np.uint8
    np.testing.assert_array_equal(unpack_nibbles(packed), some)


@given(codes)
def test_bytes_lie_as_onnx_lays_out_its_uint4(some: Bytes) -> None:
    tensor = onnx.TensorProto(data_type=TensorProto.UINT4, dims=some.shape)
    tensor.raw_data = pack_nibbles(some).tobytes()
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.uint8), some)


def test_the_even_code_lies_in_the_low_half() -> None:
    assert pack_nibbles(np.array([[1, 2, 15, 0]], np.uint8)).tolist() == [[0x21, 0x0F]]


def test_any_number_of_dimensions() -> None:
    some = np.random.default_rng(0).integers(0, 16, (2, 3, 4, 8), dtype=np.uint8)
    np.testing.assert_array_equal(unpack_nibbles(pack_nibbles(some)), some)


def test_a_view_that_is_not_contiguous() -> None:
    some = np.random.default_rng(0).integers(0, 16, (6, 16), dtype=np.uint8)
    np.testing.assert_array_equal(unpack_nibbles(pack_nibbles(some[::2])), some[::2])
    np.testing.assert_array_equal(unpack_nibbles(pack_nibbles(some[:, ::2])), some[:, ::2])
