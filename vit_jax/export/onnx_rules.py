"""A traced JAX function as an ONNX model, for the operations that this package's models are made of."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from vit_jax.export.onnx_graph import Graph, Node, Rule, Value, broadcast, ints, is_open

_OPSET, _IR = 18, 9  # of 2022 and 2023: runtimes have had them for long


def convert(traced: Any, input_name: str, output_name: str) -> onnx.ModelProto:
    """The model of a jaxpr (jax.make_jaxpr) with one input, whose first dimension is symbolic, and one output.

    Raises NotImplementedError for an operation that isn't known here.
    """
    (argument,), (out,) = traced.jaxpr.invars, traced.jaxpr.outvars
    graph = Graph(input_name, argument.aval.shape, RULES)
    (result,) = graph.run(traced.jaxpr, traced.consts, [graph.images])
    graph.add("Identity", graph.exact(result, out.aval.shape), names=[output_name])

    def declared(name: str, aval: Any) -> onnx.ValueInfoProto:
        shape = ["batch" if is_open(dim) else dim for dim in aval.shape]
        return helper.make_tensor_value_info(name, _type(aval.dtype), shape)

    inputs, outputs = [declared(input_name, argument.aval)], [declared(output_name, out.aval)]
    proto = helper.make_graph(graph.nodes, "vit_jax", inputs, outputs, graph.constants)
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)


def _type(dtype: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _elementwise(kind: str) -> Rule:
    return Rule(lambda graph, eqn, *xs: graph.add(kind, *xs, shape=broadcast(xs)), broadcasts=True)


def _reduction(kind: str) -> Rule:
    return Rule(lambda graph, eqn, x: graph.add(kind, x, ints(eqn.params["axes"]), keepdims=0, shape=_shape(eqn)))


def _shape(eqn: Any) -> tuple[Any, ...]:
    return eqn.outvars[0].aval.shape


def _reshape(graph: Graph, eqn: Any, x: Node) -> Value:
    return graph.reshape(x, _shape(eqn))


def _cast(graph: Graph, eqn: Any, x: Node) -> Node:
    return graph.add("Cast", x, to=_type(eqn.params["new_dtype"]), shape=x.shape)


def _new_axes(graph: Graph, eqn: Any, x: Value) -> Value:
    """All that is done here of broadcast_in_dim: what takes the result broadcasts it."""
    shape = [1] * len(eqn.params["shape"])
    for axis, dim in zip(eqn.params["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = dim
    return graph.reshape(x, tuple(shape))


def _rsqrt(graph: Graph, eqn: Any, x: Node) -> Node:
    return graph.add("Reciprocal", graph.add("Sqrt", x), shape=x.shape)


def _power(graph: Graph, eqn: Any, x: Node) -> Node:
    return graph.add("Pow", x, np.array(eqn.params["y"], np.float32), shape=x.shape)


def _square(graph: Graph, eqn: Any, x: Node) -> Node:
    return graph.add("Mul", x, x, shape=x.shape)


def _transpose(graph: Graph, eqn: Any, x: Node) -> Value:
    return graph.transpose(x, eqn.params["permutation"])


def _concatenate(graph: Graph, eqn: Any, *xs: Value) -> Node:
    return graph.add("Concat", *xs, axis=eqn.params["dimension"], shape=_shape(eqn))


def _stack(graph: Graph, eqn: Any, *xs: Value) -> Node:
    axis = eqn.params["axis"]
    parts = [graph.add("Unsqueeze", x, ints([axis])) for x in xs]
    return graph.add("Concat", *parts, axis=axis, shape=_shape(eqn))


def _split(graph: Graph, eqn: Any, x: Node) -> list[Value]:
    names = [f"split_{len(graph.nodes)}_{i}" for i in range(len(eqn.outvars))]
    graph.add("Split", x, ints(eqn.params["sizes"]), axis=eqn.params["axis"], names=names)
    return [Node(name, out.aval.shape) for name, out in zip(names, eqn.outvars, strict=True)]


def _gather(graph: Graph, eqn: Any, x: Value, start: Value) -> Value:
    """x[:, 3] and the like: one place, which is known."""
    sizes = eqn.params["slice_sizes"]
    if isinstance(start, Node) or start.ndim != 1:
        raise NotImplementedError("gathering from several places, or from where the images say")
    axes = eqn.params["dimension_numbers"].start_index_map
    ends = [first + sizes[axis] for first, axis in zip(start.tolist(), axes, strict=True)]
    return graph.reshape(graph.add("Slice", x, ints(start.tolist()), ints(ends), ints(axes)), _shape(eqn))


def _dot(graph: Graph, eqn: Any, x: Value, y: Value) -> Node:
    """MatMul where each operand has one axis of its own and they share one, else Einsum."""
    summed, batched = eqn.params["dimension_numbers"]
    own = [
        [i for i in range(len(z.shape)) if i not in (*summed[side], *batched[side])] for side, z in enumerate((x, y))
    ]
    if all(len(axes) == 1 for axes in (*own, *summed)):
        x = graph.transpose(x, (*batched[0], *own[0], *summed[0]))
        y = graph.transpose(y, (*batched[1], *summed[1], *own[1]))
        return graph.add("MatMul", x, y, shape=_shape(eqn))
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    left = {axis: next(letters) for axis in range(len(x.shape))}
    right = {j: left[i] for i, j in zip((*summed[0], *batched[0]), (*summed[1], *batched[1]), strict=True)}
    right |= {axis: next(letters) for axis in own[1]}
    operands = ["".join(names[axis] for axis in sorted(names)) for names in (left, right)]
    result = "".join([left[i] for i in (*batched[0], *own[0])] + [right[j] for j in own[1]])
    return graph.add("Einsum", x, y, equation=f"{','.join(operands)}->{result}", shape=_shape(eqn))


def _convolution(graph: Graph, eqn: Any, x: Node, kernel: Value) -> Value:
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
        shape=tuple(_shape(eqn)[i] for i in numbers.out_spec),
    )
    return graph.transpose(y, np.argsort(numbers.out_spec).tolist())


def _max_pool(graph: Graph, eqn: Any, x: Node) -> Value:
    window, strides, padding = (eqn.params[key] for key in ("window_dimensions", "window_strides", "padding"))
    axes = [i for i, side in enumerate(window) if side > 1]
    order = [i for i in range(len(window)) if i not in axes] + axes  # to (B, C, H, W)
    y = graph.add(
        "MaxPool",
        graph.transpose(x, order),
        kernel_shape=[window[i] for i in axes],
        strides=[strides[i] for i in axes],
        pads=_pads([padding[i] for i in axes]),
        shape=tuple(_shape(eqn)[i] for i in order),
    )
    return graph.transpose(y, np.argsort(order).tolist())


def _pads(pairs: Sequence[tuple[int, int]]) -> list[int]:
    return [low for low, _ in pairs] + [high for _, high in pairs]


_SAME = {
    "add": "Add", "div": "Div", "erf": "Erf", "exp": "Exp", "logistic": "Sigmoid", "max": "Max", "mul": "Mul",
    "stop_gradient": "Identity", "sub": "Sub", "tanh": "Tanh",
}  # fmt: skip
RULES = {name: _elementwise(kind) for name, kind in _SAME.items()} | {
    "broadcast_in_dim": Rule(_new_axes, broadcasts=True),
    "concatenate": Rule(_concatenate),
    "conv_general_dilated": Rule(_convolution),
    "convert_element_type": Rule(_cast, broadcasts=True),
    "dot_general": Rule(_dot),
    "gather": Rule(_gather),
    "integer_pow": Rule(_power, broadcasts=True),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_window_max": Rule(_max_pool),
    "reshape": Rule(_reshape),
    "rsqrt": Rule(_rsqrt, broadcasts=True),
    "split": Rule(_split),
    "square": Rule(_square, broadcasts=True),
    "stack": Rule(_stack),
    "transpose": Rule(_transpose, broadcasts=True),
}
