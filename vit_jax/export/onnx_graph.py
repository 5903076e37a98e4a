"""An ONNX graph that grows equation by equation from a traced JAX function of images.

What depends on constants alone (parameters, resizing weights, positions) is computed here; the rest becomes nodes.
The number of images stays open: one symbolic dimension, the first of the input.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.export
import numpy as np
import onnx
from onnx import helper, numpy_helper

_CALLS = ("checkpoint", "closed_call", "custom_jvp_call", "custom_vjp_call", "jit", "pjit", "remat2")

is_open = jax.export.is_symbolic_dim
Shape = tuple[Any, ...]  # ints and symbolic dimensions


@dataclass(frozen=True)
class Node:
    """A value that the graph computes. Along an axis its shape may be 1 where JAX's is more: ONNX broadcasts."""

    name: str
    shape: Shape


Value = Node | np.ndarray  # an array is a constant


@dataclass(frozen=True)
class Rule:
    """What an operation of JAX becomes: (graph, equation, operands) -> its result, or a list of several."""

    apply: Callable[..., Any]
    broadcasts: bool = False  # also takes operands of which an axis was left to broadcasting


class Graph:
    """Nodes and constants so far."""

    def __init__(self, input_name: str, shape: Shape, rules: Mapping[str, Rule]):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.images, self._batch, self._rules = Node(input_name, shape), shape[0], rules

    def run(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Value]) -> list[Value]:
        """Adds the equations of a jaxpr, but for those that none of its results needs; gives these.

        Raises NotImplementedError for an operation without a rule.
        """
        values: dict[Any, Value] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Value:
            return np.asarray(atom.val, atom.aval.dtype) if hasattr(atom, "val") else values[atom]

        for eqn in _used(jaxpr):
            operands = [read(atom) for atom in eqn.invars]
            values |= dict(zip(eqn.outvars, self._equation(eqn, operands), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, operands: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        if name in _CALLS:
            inner = eqn.params["call_jaxpr" if "call_jaxpr" in eqn.params else "jaxpr"]
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), operands)
        known = not any(is_open(dim) for out in eqn.outvars for dim in out.aval.shape)
        if known and all(isinstance(operand, np.ndarray) for operand in operands):
            results = eqn.primitive.bind(*operands, **eqn.params)
            return [np.asarray(x) for x in (results if eqn.primitive.multiple_results else [results])]
        if name not in self._rules:
            raise NotImplementedError(f"the operation {name}")
        rule = self._rules[name]
        if not rule.broadcasts:
            operands = [self.exact(x, atom.aval.shape) for x, atom in zip(operands, eqn.invars, strict=True)]
        results = rule.apply(self, eqn, *operands)
        return results if isinstance(results, list) else [results]

    def add(self, kind: str, *inputs: Value, shape: Shape = (), names: Sequence[str] = (), **attributes: Any) -> Node:
        """Adds a node; gives its result of that shape, the first of those where `names` names several."""
        outputs = list(names) or [f"{kind.lower()}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, [self._name(x) for x in inputs], outputs, **attributes))
        return Node(outputs[0], shape)

    def _name(self, value: Value) -> str:
        if isinstance(value, Node):
            return value.name
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def exact(self, value: Value, shape: Shape) -> Value:
        """The value with all of its shape, where it was left to broadcasting."""
        if value.shape == shape:
            return value
        wanted = [1 if is_open(dim) else dim for dim in shape]  # 1: as it is
        unfilled = [i for i, dim in enumerate(shape) if is_open(dim) and not is_open(value.shape[i])]
        if not unfilled:
            return self.add("Expand", value, ints(wanted), shape=shape)
        (axis,) = unfilled
        if shape[axis] != self._batch:
            raise NotImplementedError(f"broadcasting to {shape[axis]}")
        count = self.add("Shape", self.images, end=1)
        parts: list[Value] = [ints(wanted[:axis]), count, ints(wanted[axis + 1 :])]
        return self.add("Expand", value, self.add("Concat", *parts, axis=0), shape=shape)

    def reshape(self, value: Value, shape: Shape) -> Value:
        """At most one dimension of `shape` is open: that which is left over."""
        if isinstance(value, np.ndarray):
            return value.reshape(shape)
        return self.add("Reshape", value, ints([-1 if is_open(dim) else dim for dim in shape]), shape=shape)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        if isinstance(value, np.ndarray):
            return value.transpose(order)
        return self.add("Transpose", value, perm=list(order), shape=tuple(value.shape[i] for i in order))


def broadcast(operands: Sequence[Value]) -> Shape:
    """The shape of an elementwise operation's result: on each axis the dimension that isn't 1, if any."""
    rank = max(len(x.shape) for x in operands)
    shapes = [(1,) * (rank - len(x.shape)) + tuple(x.shape) for x in operands]
    return tuple(next((dim for dim in dims if is_open(dim) or dim != 1), 1) for dims in zip(*shapes, strict=True))


def ints(values: Sequence[int]) -> np.ndarray:
    """As ONNX takes axes, sizes and places."""
    return np.array(values, np.int64)


def _used(jaxpr: Any) -> list[Any]:
    """The equations on which the results depend, in their order."""
    needed, used = {id(atom) for atom in jaxpr.outvars}, []
    for eqn in reversed(jaxpr.eqns):
        if not needed.isdisjoint(map(id, eqn.outvars)):
            needed.update(map(id, eqn.invars))
            used.append(eqn)
    return used[::-1]
