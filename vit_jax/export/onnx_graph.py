"""A traced JAX function as an ONNX graph, for the operations that models of this package are made of.

What depends on constants alone (parameters, resizing weights, positions) is computed here; the rest becomes nodes.
The number of images stays open: one symbolic dimension, the first of the input.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import onnx
from onnx import helper, numpy_helper

_OPSET, _IR = 18, 9  # of 2022 and 2023: what runtimes have had for long

# Operations with a counterpart of the same meaning, on operands of one shape.
_PLAIN = {
    "abs": "Abs", "add": "Add", "and": "And", "copy": "Identity", "cos": "Cos", "div": "Div", "eq": "Equal",
    "erf": "Erf", "exp": "Exp", "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "log": "Log",
    "logistic": "Sigmoid", "lt": "Less", "max": "Max", "min": "Min", "mul": "Mul", "neg": "Neg", "sin": "Sin",
    "sqrt": "Sqrt", "stop_gradient": "Identity", "sub": "Sub", "tanh": "Tanh",
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """A value that the graph computes. Along an axis its shape may be 1 where JAX's is more: ONNX broadcasts."""

    name: str
    shape: tuple[Any, ...]  # ints and one symbolic dimension


Value = Node | np.ndarray  # an array is a constant


def convert(traced: Any, input_name: str, output_name: str) -> onnx.ModelProto:
    """The model of a jaxpr (jax.make_jaxpr) with one input, whose first dimension is symbolic, and one output.

    Raises NotImplementedError for an operation that isn't known here.
    """
    (argument,) = traced.jaxpr.invars
    graph = Graph(input_name, argument.aval.shape)
    (result,) = graph.run(traced.jaxpr, traced.consts, [graph.images])
    graph.add("Identity", graph.exact(result, traced.jaxpr.outvars[0].aval.shape), names=[output_name])

    def declared(name: str, aval: Any) -> onnx.ValueInfoProto:
        shape = [dim if isinstance(dim, int) else "batch" for dim in aval.shape]
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(aval.dtype)), shape)

    inputs, outputs = [declared(input_name, argument.aval)], [declared(output_name, traced.jaxpr.outvars[0].aval)]
    proto = helper.make_graph(graph.nodes, "vit_jax", inputs, outputs, graph.constants)
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)


class Graph:
    """Nodes and constants so far."""

    def __init__(self, input_name: str, shape: tuple[Any, ...]):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.images, self._batch = Node(input_name, shape), shape[0]

    def run(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Value]) -> list[Value]:
        """Adds the equations of a jaxpr; gives its results."""
        values: dict[Any, Value] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Value:
            return np.asarray(atom.val) if hasattr(atom, "val") else values[atom]

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            values |= dict(zip(eqn.outvars, self._equation(eqn, operands), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, operands: list[Value]) -> Sequence[Value]:
        name, inner = eqn.primitive.name, eqn.params.get("call_jaxpr") or eqn.params.get("jaxpr")
        if inner is not None:  # a call, like jax.jit's and jax.custom_vjp's
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), operands)
        shapes = [out.aval.shape for out in eqn.outvars]
        known = all(isinstance(dim, int) for shape in shapes for dim in shape)
        if known and all(isinstance(operand, np.ndarray) for operand in operands):
            results = eqn.primitive.bind(*operands, **eqn.params)
            return [np.asarray(x) for x in (results if eqn.primitive.multiple_results else [results])]
        if name == "optimization_barrier":
            return operands
        if name in _PLAIN:
            return [self.add(_PLAIN[name], *operands, shape=_broadcast(operands))]
        if name not in _RULES:
            raise NotImplementedError(f"the operation {name}")
        if name not in _BROADCASTING:
            operands = [self.exact(x, atom.aval.shape) for x, atom in zip(operands, eqn.invars, strict=True)]
        results = _RULES[name](self, eqn, *operands)
        return results if isinstance(results, list) else [results]

    def add(
        self, kind: str, *inputs: Value, shape: Any = None, names: Sequence[str] = (), **attributes: Any
    ) -> Node:
        """Adds a node with one output, or with those of `names`."""
        outputs = list(names) or [f"{kind.lower()}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, [self._name(x) for x in inputs], outputs, **attributes))
        return Node(outputs[0], shape)

    def _name(self, value: Value) -> str:
        if isinstance(value, Node):
            return value.name
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
        return name

    def exact(self, value: Value, shape: tuple[Any, ...]) -> Value:
        """The value with all of its shape, where it was left to broadcasting."""
        if value.shape == shape:
            return value
        wanted = [dim if isinstance(dim, int) else 1 for dim in shape]
        open_axes = [i for i, dim in enumerate(shape) if not isinstance(dim, int) and isinstance(value.shape[i], int)]
        if not open_axes:
            return self.add("Expand", value, np.array(wanted), shape=shape)
        (axis,) = open_axes
        if shape[axis] != self._batch:
            raise NotImplementedError(f"broadcasting to {shape[axis]}")
        count = self.add("Slice", self.add("Shape", self.images), np.array([0]), np.array([1]))
        parts = [np.array(wanted[:axis], np.int64), count, np.array(wanted[axis + 1 :], np.int64)]
        return self.add("Expand", value, self.add("Concat", *parts, axis=0), shape=shape)

    def reshape(self, value: Value, shape: tuple[Any, ...]) -> Value:
        """At most one dimension of `shape` is symbolic: that which is left over."""
        return self.add("Reshape", value, np.array([d if isinstance(d, int) else -1 for d in shape]), shape=shape)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        if isinstance(value, np.ndarray):
            return value.transpose(order)
        return self.add("Transpose", value, perm=list(order), shape=tuple(value.shape[i] for i in order))


def _broadcast(operands: Sequence[Value]) -> tuple[Any, ...]:
    """The shape of an elementwise operation's result: on each axis the dimension that isn't 1, if any."""
    rank = max(len(x.shape) for x in operands)
    shapes = [(1,) * (rank - len(x.shape)) + tuple(x.shape) for x in operands]
    return tuple(next((d for d in dims if not isinstance(d, int) or d != 1), 1) for dims in zip(*shapes, strict=True))


def _cast(graph: Graph, eqn: Any, x: Node) -> Node:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
    return graph.add("Cast", x, to=kind, shape=x.shape)


def _broadcast_in_dim(graph: Graph, eqn: Any, x: Value) -> Value:
    """Only new axes: `exact` or the consumer does the rest."""
    axes = eqn.params["broadcast_dimensions"]
    shape = [1] * len(eqn.params["shape"])
    for axis, dim in zip(axes, x.shape, strict=True):
        shape[axis] = dim
    return x.reshape(shape) if isinstance(x, np.ndarray) else graph.reshape(x, tuple(shape))


def _select(graph: Graph, eqn: Any, which: Value, *cases: Value) -> Node:
    no, yes = cases
    return graph.add("Where", which, yes, no, shape=_broadcast([which, yes, no]))


def _power(graph: Graph, eqn: Any, x: Node) -> Node:
    return graph.add("Pow", x, np.array(eqn.params["y"], np.float32), shape=x.shape)


def _rsqrt(graph: Graph, eqn: Any, x: Node) -> Node:
    return graph.add("Reciprocal", graph.add("Sqrt", x), shape=x.shape)


def _reshape(graph: Graph, eqn: Any, x: Node) -> Node:
    return graph.reshape(x, eqn.outvars[0].aval.shape)


def _reduce(kind: str) -> Callable[..., Node]:
    def rule(graph: Graph, eqn: Any, x: Node) -> Node:
        return graph.add(kind, x, np.array(eqn.params["axes"]), keepdims=0, shape=eqn.outvars[0].aval.shape)

    return rule


def _concatenate(graph: Graph, eqn: Any, *xs: Value) -> Node:
    return graph.add("Concat", *xs, axis=eqn.params["dimension"], shape=eqn.outvars[0].aval.shape)


def _stack(graph: Graph, eqn: Any, *xs: Value) -> Node:
    axis = eqn.params["axis"]
    parts = [graph.add("Unsqueeze", x, np.array([axis])) for x in xs]
    return graph.add("Concat", *parts, axis=axis, shape=eqn.outvars[0].aval.shape)


def _split(graph: Graph, eqn: Any, x: Node) -> list[Node]:
    names = [f"split_{len(graph.nodes)}_{i}" for i in range(len(eqn.outvars))]
    graph.add("Split", x, np.array(eqn.params["sizes"], np.int64), axis=eqn.params["axis"], names=names)
    return [Node(name, out.aval.shape) for name, out in zip(names, eqn.outvars, strict=True)]


def _slice(graph: Graph, eqn: Any, x: Node) -> Node:
    starts, ends, strides = (eqn.params[key] for key in ("start_indices", "limit_indices", "strides"))
    axes = [i for i, end in enumerate(ends) if isinstance(end, int)]  # whole along the others
    bounds = [np.array([values[i] for i in axes], np.int64) for values in (starts, ends, strides or [1] * len(ends))]
    return graph.add("Slice", x, *bounds[:2], np.array(axes), bounds[2], shape=eqn.outvars[0].aval.shape)


def _gather(graph: Graph, eqn: Any, x: Node, start: Value) -> Node:
    """x[:, 3] and the like: one place that is known."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if not isinstance(start, np.ndarray) or start.ndim != 1 or isinstance(x, np.ndarray):
        raise NotImplementedError("gathering at places that the input decides")
    axes = list(numbers.start_index_map)
    ends = start + [sizes[axis] for axis in axes]
    piece = graph.add("Slice", x, start.astype(np.int64), ends.astype(np.int64), np.array(axes))
    return graph.add("Squeeze", piece, np.array(numbers.collapsed_slice_dims), shape=eqn.outvars[0].aval.shape)


def _dot(graph: Graph, eqn: Any, x: Value, y: Value) -> Node:
    """MatMul where each operand has one axis of its own and they share one, else Einsum."""
    (summed, batched), shape = eqn.params["dimension_numbers"], eqn.outvars[0].aval.shape
    own = [
        [i for i in range(len(z.shape)) if i not in (*summed[side], *batched[side])] for side, z in enumerate((x, y))
    ]
    if all(len(axes) == 1 for axes in (*own, *summed)):
        x = graph.transpose(x, (*batched[0], *own[0], *summed[0]))
        y = graph.transpose(y, (*batched[1], *summed[1], *own[1]))
        return graph.add("MatMul", x, y, shape=shape)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    left = {axis: next(letters) for axis in range(len(x.shape))}
    right = {j: left[i] for i, j in zip((*summed[0], *batched[0]), (*summed[1], *batched[1]), strict=True)}
    right |= {axis: next(letters) for axis in own[1]}
    result = [left[i] for i in (*batched[0], *own[0])] + [right[j] for j in own[1]]
    texts = ["".join(axes[i] for i in range(len(axes))) for axes in (left, right)]
    return graph.add("Einsum", x, y, equation=f"{','.join(texts)}->{''.join(result)}", shape=shape)


def _convolution(graph: Graph, eqn: Any, x: Node, kernel: Value) -> Node:
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    if params["batch_group_count"] != 1 or set(params["lhs_dilation"]) != {1}:
        raise NotImplementedError("transposed convolutions")
    y = graph.add(
        "Conv",
        graph.transpose(x, numbers.lhs_spec),  # (B, C, H, W)
        graph.transpose(kernel, numbers.rhs_spec),  # (out, in, H, W)
        strides=list(params["window_strides"]),
        pads=_pads(params["padding"]),
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
        shape=tuple(eqn.outvars[0].aval.shape[i] for i in numbers.out_spec),
    )
    return graph.transpose(y, np.argsort(numbers.out_spec).tolist())


def _max_pool(graph: Graph, eqn: Any, x: Node) -> Node:
    window, strides, padding = (eqn.params[key] for key in ("window_dimensions", "window_strides", "padding"))
    axes = [i for i, side in enumerate(window) if side > 1]
    order = [i for i in range(len(window)) if i not in axes] + axes  # (B, C, H, W)
    y = graph.add(
        "MaxPool",
        graph.transpose(x, order),
        kernel_shape=[window[i] for i in axes],
        strides=[strides[i] for i in axes],
        pads=_pads([padding[i] for i in axes]),
        shape=tuple(eqn.outvars[0].aval.shape[i] for i in order),
    )
    return graph.transpose(y, np.argsort(order).tolist())


def _pad(graph: Graph, eqn: Any, x: Node, value: Value) -> Node:
    low, high, interior = zip(*eqn.params["padding_config"], strict=True)
    if any(interior):
        raise NotImplementedError("padding between entries")
    return graph.add("Pad", x, np.array([*low, *high], np.int64), value, shape=eqn.outvars[0].aval.shape)


def _pads(pairs: Sequence[tuple[int, int]]) -> list[int]:
    return [low for low, _ in pairs] + [high for _, high in pairs]


_BROADCASTING = ("broadcast_in_dim", "select_n", "convert_element_type", "integer_pow", "square", "rsqrt", "transpose")
_RULES: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "dot_general": _dot,
    "gather": _gather,
    "integer_pow": _power,
    "pad": _pad,
    "reduce_max": _reduce("ReduceMax"),
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_window_max": _max_pool,
    "reshape": _reshape,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "split": _split,
    "square": lambda graph, _, x: graph.add("Mul", x, x, shape=x.shape),
    "squeeze": _reshape,
    "stack": _stack,
    "transpose": lambda graph, eqn, x: graph.transpose(x, eqn.params["permutation"]),
}
