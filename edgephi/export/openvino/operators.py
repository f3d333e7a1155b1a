"""The OpenVINO operators that a decoder needs, with the shape and the type of what each returns.

Names: H hidden size, S head size.
"""

from collections.abc import Mapping, Sequence

from numpy.typing import ArrayLike

from edgephi.checkpoint.roles import ModelTensor
from edgephi.export.openvino.intermediate_representation import UNKNOWN, Graph, Shape, Value
from edgephi.export.stream.packed_tensor import PackedTensor
from edgephi.export.tensor_names import WEIGHT_SUFFIX


class Operators:
    """The operators that the decoder needs; each method adds one layer, or a few, and returns its output."""

    def __init__(self, graph: Graph, tensors: Mapping[ModelTensor, PackedTensor]) -> None:
        self._graph = graph
        self._tensors = tensors

    def literal(self, content: ArrayLike, element_type: str = "i64") -> Value:
        """A number or an array that the graph itself holds."""
        return self._graph.literal(content, element_type)

    def vector(self, norm: ModelTensor) -> Value:
        """A norm's weights, f32 [H]."""
        tensor = self._tensors[norm]
        return self._graph.stored(tensor.name, "f32", tensor.shape, tensor.regions[0])

    def weights(self, matrix: ModelTensor, label: str = "") -> Value:
        """A matrix, f32 [rows, columns]: (codes - zero points) * scales.

        `label` names the operators; by default it is the matrix's own name.
        """
        tensor = self._tensors[matrix]
        if tensor.scheme is None:
            raise AssertionError(f"{matrix} is not quantised")
        label = label or tensor.name
        scheme = tensor.scheme
        rows, columns = tensor.shape
        groups = columns // scheme.group_size
        kind = f"u{scheme.bits}"
        by_group = (rows, groups, scheme.group_size)
        graph = self._graph
        codes = self.convert(graph.stored(f"{label}/codes", kind, by_group, tensor.regions[0]), "f16")
        if scheme.symmetric:
            zero_point = graph.literal(scheme.middle, kind, name=f"{label}/zero_point", shape=(1, 1, 1))
        else:
            zero_kind = kind if tensor.regions[2].size < rows * groups else "u8"
            zero_point = graph.stored(f"{label}/zero_points", zero_kind, (rows, groups, 1), tensor.regions[2])
        centred = self.subtract(codes, self.convert(zero_point, "f16"))
        scales = graph.stored(f"{label}/scales", "f16", (rows, groups, 1), tensor.regions[1])
        scaled = self.multiply(centred, scales)  # [rows, groups, group size]
        whole = self.reshape(scaled, [rows, columns], (rows, columns))
        return self.convert(whole, "f32", name=label)

    def embedding(self, matrix: ModelTensor, indices: Value) -> Value:
        """Rows of a quantised matrix."""
        return self.gather(self.weights(matrix), indices, 0)

    def project(self, matrix: ModelTensor, x: Value, *, label: str = "") -> Value:
        """`x` [..., columns] times the transpose of a quantised matrix [rows, columns].

        It gets the name that the matrix has without ".weight": openvino-genai looks for that in products
        when it is to add an adapter to them.
        """
        label = label or self._tensors[matrix].name
        name = label.removesuffix(WEIGHT_SUFFIX)
        return self.matmul(x, self.weights(matrix, label), transpose_b=True, name=name)

    def dimension(self, x: Value, axis: int) -> Value:
        """One dimension of `x` at run time, i64 [1]."""
        shape = self._one("ShapeOf", [x], "i64", (len(x.shape),), version="opset3", output_type="i64")
        return self.gather(shape, self.literal([axis]), 0)

    def scalar(self, x: Value) -> Value:
        """[1] -> []."""
        return self._one("Squeeze", [x, self.literal(0)], x.element_type, ())

    def convert(self, x: Value, element_type: str, *, name: str = "") -> Value:
        """`x` in another element type."""
        return self._one("Convert", [x], element_type, x.shape, name=name, destination_type=element_type)

    def unary(self, kind: str, x: Value, *, version: str = "opset1") -> Value:
        """An operator of one input that leaves type and shape as they are."""
        return self._one(kind, [x], x.element_type, x.shape, version=version)

    def add(self, a: Value, b: Value, *, name: str = "") -> Value:
        """A + b."""
        return self._elementwise("Add", a, b, a.element_type, name=name)

    def subtract(self, a: Value, b: Value) -> Value:
        """A - b."""
        return self._elementwise("Subtract", a, b, a.element_type)

    def multiply(self, a: Value, b: Value) -> Value:
        """A * b, element by element."""
        return self._elementwise("Multiply", a, b, a.element_type)

    def divide(self, a: Value, b: Value) -> Value:
        """A / b, element by element."""
        return self._elementwise("Divide", a, b, a.element_type, m_pythondiv="true")

    def power(self, a: Value, b: Value) -> Value:
        """A to the power of b, element by element."""
        return self._elementwise("Power", a, b, a.element_type)

    def greater(self, a: Value, b: Value) -> Value:
        """A > b, boolean."""
        return self._elementwise("Greater", a, b, "boolean")

    def less_equal(self, a: Value, b: Value) -> Value:
        """A <= b, boolean."""
        return self._elementwise("LessEqual", a, b, "boolean")

    def both(self, a: Value, b: Value) -> Value:
        """A and b, both boolean."""
        return self._elementwise("BitwiseAnd", a, b, "boolean", version="opset13")

    def select(self, condition: Value, then: Value, otherwise: Value) -> Value:
        """`then` where the condition holds, else `otherwise`."""
        shape = _broadcast(condition.shape, _broadcast(then.shape, otherwise.shape))
        return self._one(
            "Select", [condition, then, otherwise], then.element_type, shape, auto_broadcast="numpy"
        )

    def range(self, start: Value, stop: Value) -> Value:
        """start, start + 1, …, stop - 1 as i64."""
        inputs = [start, stop, self.literal(1)]
        return self._one("Range", inputs, "i64", (UNKNOWN,), version="opset4", output_type="i64")

    def reshape(self, x: Value, pattern: Sequence[int], shape: Shape) -> Value:
        """`pattern` may hold 0 (as it was) and -1 (what is left); `shape` is what comes out."""
        inputs = [x, self.literal(pattern)]
        return self._one("Reshape", inputs, x.element_type, shape, special_zero=str(0 in pattern).lower())

    def unsqueeze(self, x: Value, axes: Sequence[int]) -> Value:
        """Dimensions of 1 at the places `axes` of the result."""
        left = iter(x.shape)
        rank = len(x.shape) + len(axes)
        shape = tuple(1 if axis in axes else next(left) for axis in range(rank))
        return self._one("Unsqueeze", [x, self.literal(axes)], x.element_type, shape)

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        """The dimensions of `x` in another order."""
        shape = tuple(x.shape[axis] for axis in order)
        return self._one("Transpose", [x, self.literal(order)], x.element_type, shape)

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        """The parts one after the other along one axis."""
        sizes = [part.shape[axis] for part in parts]
        shape = list(parts[0].shape)
        shape[axis] = UNKNOWN if UNKNOWN in sizes else sum(sizes)
        return self._one("Concat", parts, parts[0].element_type, tuple(shape), axis=str(axis))

    def split(self, x: Value, axis: int, sizes: Sequence[int]) -> tuple[Value, ...]:
        """Parts of the given sizes along one axis."""
        outputs = []
        for size in sizes:
            shape = list(x.shape)
            shape[axis] = size
            outputs.append((x.element_type, tuple(shape)))
        return self._graph.add("VariadicSplit", [x, self.literal(axis), self.literal(sizes)], outputs)

    def slice(self, x: Value, *, stop: Value, axis: int) -> Value:
        """From 0 to `stop` along one axis."""
        shape = list(x.shape)
        shape[axis] = UNKNOWN
        inputs = [x, self.literal([0]), stop, self.literal([1]), self.literal([axis])]
        return self._one("Slice", inputs, x.element_type, tuple(shape), version="opset8")

    def gather(self, x: Value, indices: Value, axis: int) -> Value:
        """What lies at `indices` along one axis; their shape takes the place of the axis."""
        shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
        inputs = [x, indices, self.literal(axis)]
        return self._one("Gather", inputs, x.element_type, shape, version="opset8", batch_dims="0")

    def broadcast(self, x: Value, target: Value, shape: Shape, *, bidirectional: bool = True) -> Value:
        """`x` repeated up to the shape in `target`, or, if bidirectional, up to the larger of the two."""
        mode = "bidirectional" if bidirectional else "numpy"
        return self._one("Broadcast", [x, target], x.element_type, shape, version="opset3", mode=mode)

    def reduce(self, kind: str, x: Value, axes: Sequence[int], *, keep: bool) -> Value:
        """One value for all along the axes; `keep` leaves dimensions of 1 in their place."""
        reduced = {axis % len(x.shape) for axis in axes}
        shape = [1 if axis in reduced else size for axis, size in enumerate(x.shape)]
        if not keep:
            shape = [size for axis, size in enumerate(x.shape) if axis not in reduced]
        inputs = [x, self.literal(axes)]
        return self._one(kind, inputs, x.element_type, tuple(shape), keep_dims=str(keep).lower())

    def matmul(self, a: Value, b: Value, *, transpose_b: bool, name: str = "") -> Value:
        """A times b, or times the transpose of b, over their last two dimensions."""
        columns = b.shape[-2 if transpose_b else -1]
        shape = (*_broadcast(a.shape[:-2], b.shape[:-2]), a.shape[-2], columns)
        return self._one(
            "MatMul",
            [a, b],
            a.element_type,
            shape,
            name=name,
            transpose_a="false",
            transpose_b=str(transpose_b).lower(),
        )

    def attention(self, query: Value, keys: Value, values: Value, mask: Value, *, name: str) -> Value:
        """softmax(query · keysᵀ / sqrt(S) + mask) · values."""
        return self._one(
            "ScaledDotProductAttention",
            [query, keys, values, mask],
            query.element_type,
            query.shape,
            version="opset13",
            name=name,
            causal="false",
        )

    def read_state(self, variable: str, start: Value, shape: Shape) -> Value:
        """The state of that name; `start` is its value in a fresh request."""
        return self._one(
            "ReadValue",
            [start],
            start.element_type,
            shape,
            version="opset6",
            variable_id=variable,
            variable_type=start.element_type,
            variable_shape=",".join("?" if size == UNKNOWN else str(size) for size in shape),
        )

    def write_state(self, variable: str, x: Value) -> None:
        """Leave `x` as the state of that name for the next inference."""
        self._one("Assign", [x], x.element_type, x.shape, version="opset6", variable_id=variable)

    def _elementwise(
        self, kind: str, a: Value, b: Value, element_type: str, *, version: str = "opset1", **data: str
    ) -> Value:
        shape = _broadcast(a.shape, b.shape)
        name = data.pop("name", "")
        return self._one(
            kind, [a, b], element_type, shape, version=version, name=name, auto_broadcast="numpy", **data
        )

    def _one(
        self,
        kind: str,
        inputs: Sequence[Value],
        element_type: str,
        shape: Shape,
        *,
        version: str = "opset1",
        name: str = "",
        **data: str,
    ) -> Value:
        outputs = [(element_type, shape)]
        (value,) = self._graph.add(kind, inputs, outputs, version=version, name=name, data=data)
        return value


def _broadcast(a: Shape, b: Shape) -> Shape:
    """The shape of an elementwise result, as NumPy has it."""
    rank = max(len(a), len(b))
    pairs = zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True)
    # An unknown size beside a known one above 1 can only be that size, or 1.
    return tuple(max(x, y) if UNKNOWN not in (x, y) or max(x, y) > 1 else UNKNOWN for x, y in pairs)
