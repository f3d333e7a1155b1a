"""The OpenVINO operators that a decoder needs, with the shape and the type of what each returns.

Names: H hidden size, S head size.
"""

import math
from collections.abc import Mapping, Sequence

from numpy.typing import ArrayLike

from edgephi.checkpoint.roles import ModelTensor, bias_of
from edgephi.export.openvino.intermediate_representation import UNKNOWN, Graph, Shape, Value
from edgephi.export.stream.packed_tensor import PackedTensor, Region
from edgephi.export.tensor_names import WEIGHT_SUFFIX


class Operators:
    """The operators that the decoder needs; each method adds one layer, or a few, and returns its output."""

    def __init__(self, graph: Graph, tensors: Mapping[ModelTensor, PackedTensor]) -> None:
        self._graph = graph
        self._tensors = tensors

    def literal(self, content: ArrayLike, element_type: str = "i64") -> Value:
        """A number or an array that the graph itself holds."""
        return self._graph.literal(content, element_type)

    def plain(self, tensor: ModelTensor) -> Value:
        """A tensor that is not quantised, f32: a vector [H], or the router's matrix."""
        stored = self._tensors[tensor]
        return self._graph.stored(stored.name, "f32", stored.shape, stored.regions[0])

    def weights(self, matrix: ModelTensor, label: str = "", *, part: int = 0, parts: int = 1) -> Value:
        """A matrix, f32 [rows, columns], or a stack of them: (codes - zero points) * scales.

        `label` names the operators; by default it is the matrix's own name. Of a stack it may be one of
        several equal parts, in the order in which they are stored.
        """
        tensor = self._tensors[matrix]
        if tensor.scheme is None:
            raise AssertionError(f"{matrix} is not quantised")
        label = label or tensor.name
        scheme = tensor.scheme
        *stack, rows, columns = tensor.shape
        shape = (*(count // parts for count in stack), rows, columns)
        groups = columns // scheme.group_size
        of_groups = (*shape[:-1], groups, 1)
        regions = [
            Region(region.offset + part * region.size // parts, region.size // parts)
            for region in tensor.regions
        ]
        kind = f"u{scheme.bits}"
        by_group = (*shape[:-1], groups, scheme.group_size)
        graph = self._graph
        codes = self.convert(graph.stored(f"{label}/codes", kind, by_group, regions[0]), "f16")
        if scheme.symmetric:
            one = (1,) * len(by_group)
            zero_point = graph.literal(scheme.middle, kind, name=f"{label}/zero_point", shape=one)
        else:
            zero_kind = kind if regions[2].size < math.prod(of_groups) else "u8"
            zero_point = graph.stored(f"{label}/zero_points", zero_kind, of_groups, regions[2])
        centred = self.subtract(codes, self.convert(zero_point, "f16"))
        scales = graph.stored(f"{label}/scales", "f16", of_groups, regions[1])
        scaled = self.multiply(centred, scales)  # [..., rows, groups, group size]
        whole = self.reshape(scaled, shape, shape)
        return self.convert(whole, "f32", name=label)

    def embedding(self, matrix: ModelTensor, indices: Value) -> Value:
        """Rows of a quantised matrix."""
        return self.gather(self.weights(matrix), indices, 0)

    def project(self, matrix: ModelTensor, x: Value, *, label: str = "", biased: bool = False) -> Value:
        """`x` [..., columns] times the transpose of a quantised matrix [rows, columns], plus its bias.

        The product gets the name that the matrix has without ".weight": openvino-genai looks for that in
        products when it is to add an adapter to them.
        """
        label = label or self._tensors[matrix].name
        name = label.removesuffix(WEIGHT_SUFFIX)
        product = self.matmul(x, self.weights(matrix, label), transpose_b=True, name=name)
        return self.add(product, self.plain(bias_of(matrix))) if biased else product

    def dimension(self, x: Value, axis: int) -> Value:
        """One dimension of `x` at run time, i64 [1]."""
        return self.gather(self.dimensions(x), self.literal([axis]), 0)

    def dimensions(self, x: Value) -> Value:
        """The shape of `x` at run time, i64 [rank]."""
        return self._one("ShapeOf", [x], "i64", (len(x.shape),), version="opset3", output_type="i64")

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

    def scale(self, x: Value, factor: float) -> Value:
        """`x` times a number."""
        return x if factor == 1 else self.multiply(x, self.literal(factor, "f32"))

    def divide(self, a: Value, b: Value) -> Value:
        """A / b, element by element."""
        return self._elementwise("Divide", a, b, a.element_type, m_pythondiv="true")

    def minimum(self, a: Value, b: Value) -> Value:
        """The smaller of a and b, element by element."""
        return self._elementwise("Minimum", a, b, a.element_type)

    def maximum(self, a: Value, b: Value) -> Value:
        """The larger of a and b, element by element."""
        return self._elementwise("Maximum", a, b, a.element_type)

    def power(self, a: Value, b: Value) -> Value:
        """A to the power of b, element by element."""
        return self._elementwise("Power", a, b, a.element_type)

    def greater(self, a: Value, b: Value) -> Value:
        """A > b, boolean."""
        return self._elementwise("Greater", a, b, "boolean")

    def remainder(self, a: Value, b: Value) -> Value:
        """What is left of a, divided by b, element by element."""
        return self._elementwise("Mod", a, b, a.element_type)

    def less(self, a: Value, b: Value) -> Value:
        """A < b, boolean."""
        return self._elementwise("Less", a, b, "boolean")

    def less_equal(self, a: Value, b: Value) -> Value:
        """A <= b, boolean."""
        return self._elementwise("LessEqual", a, b, "boolean")

    def equal(self, a: Value, b: Value) -> Value:
        """A = b, boolean."""
        return self._elementwise("Equal", a, b, "boolean")

    def both(self, a: Value, b: Value) -> Value:
        """A and b, both boolean."""
        return self._elementwise("BitwiseAnd", a, b, "boolean", version="opset13")

    def either(self, a: Value, b: Value) -> Value:
        """A or b, both boolean."""
        return self._elementwise("BitwiseOr", a, b, "boolean", version="opset13")

    def negate(self, x: Value) -> Value:
        """Not x, boolean."""
        return self._one("LogicalNot", [x], "boolean", x.shape)

    def select(self, condition: Value, then: Value, otherwise: Value, *, name: str = "") -> Value:
        """`then` where the condition holds, else `otherwise`."""
        shape = _broadcast(condition.shape, _broadcast(then.shape, otherwise.shape))
        return self._one(
            "Select",
            [condition, then, otherwise],
            then.element_type,
            shape,
            name=name,
            auto_broadcast="numpy",
        )

    def range(self, start: Value, stop: Value) -> Value:
        """start, start + 1, …, stop - 1 as i64."""
        inputs = [start, stop, self.literal(1)]
        return self._one("Range", inputs, "i64", (UNKNOWN,), version="opset4", output_type="i64")

    def reshape(self, x: Value, pattern: Sequence[int], shape: Shape) -> Value:
        """`pattern` may hold 0 (as it was) and -1 (what is left); `shape` is what comes out."""
        inputs = [x, self.literal(pattern)]
        return self._one("Reshape", inputs, x.element_type, shape, special_zero=str(0 in pattern).lower())

    def reshape_to(self, x: Value, target: Value, shape: Shape) -> Value:
        """`x` in the shape that `target` holds at run time; `shape` is what is known of it."""
        return self._one("Reshape", [x, target], x.element_type, shape, special_zero="false")

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

    def tile(self, x: Value, times: int) -> Value:
        """`x` [rows, columns] so many times, one below the other."""
        rows, columns = x.shape
        shape = (UNKNOWN if rows == UNKNOWN else rows * times, columns)
        return self._one("Tile", [x, self.literal([times, 1])], x.element_type, shape)

    def largest(self, x: Value, count: int) -> tuple[Value, Value]:
        """The largest numbers of each row, the largest first, and where they stand, i64; [..., count] each.

        Of equal ones the first comes first, as NumPy and PyTorch have it.
        """
        shape = (*x.shape[:-1], count)
        data = {"axis": "-1", "mode": "max", "sort": "value", "index_element_type": "i64", "stable": "true"}
        outputs = [(x.element_type, shape), ("i64", shape)]
        found = self._graph.add("TopK", [x, self.literal(count)], outputs, version="opset11", data=data)
        return found[0], found[1]

    def scatter(self, x: Value, indices: Value, updates: Value, axis: int) -> Value:
        """`x` with the updates at the places that `indices` say along one axis."""
        inputs = [x, indices, updates, self.literal(axis)]
        return self._one("ScatterElementsUpdate", inputs, x.element_type, x.shape, version="opset3")

    def standardise(self, x: Value, epsilon: float) -> Value:
        """(x - mean) / sqrt(variance + epsilon) over the last dimension."""
        return self._one(
            "MVN",
            [x, self.literal([-1])],
            x.element_type,
            x.shape,
            version="opset6",
            normalize_variance="true",
            eps=repr(epsilon),
            eps_mode="inside_sqrt",
        )

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

    def attention(
        self, query: Value, keys: Value, values: Value, mask: Value, *, scale: float | None, name: str
    ) -> Value:
        """softmax(query · keysᵀ * scale + mask) · values; the scale is 1 / sqrt(S) where it is None."""
        own = [] if scale is None else [self.literal(scale, "f32")]
        return self._one(
            "ScaledDotProductAttention",
            [query, keys, values, mask, *own],
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
