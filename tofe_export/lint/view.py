"""One graph as the rules see it: nodes, types, shapes, constants, and the names people use.

A model is a tree of graphs: the main one, the bodies of If, Loop and Scan, and those of local functions.
`views` walks it; in a body, names of the surrounding graphs stay visible, as in ONNX itself. Types carry the
names of NVIDIA's table, so that a rule compares words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

# TensorProto.DataType of the ONNX standard, in NVIDIA's words
TYPES = {
    **{1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "STRING"},
    **{9: "BOOL", 10: "FP16", 11: "DOUBLE", 12: "UINT32", 13: "UINT64", 14: "COMPLEX64", 15: "COMPLEX128"},
    **{16: "BF16", 17: "FP8", 18: "FP8E4M3FNUZ", 19: "FP8E5M2", 20: "FP8E5M2FNUZ", 21: "UINT4", 22: "INT4"},
    **{23: "FP4", 24: "FP8E8M0"},
}
ONNX_DOMAINS = ("", "ai.onnx")

Shape = list["int | str | None"]  # a size, a symbol, or unknown


@dataclass(eq=False)
class View:
    """A graph or body. `path` goes before node names: "If_3/then_branch/"."""

    nodes: Sequence[NodeProto]
    opsets: Mapping[str, int]
    functions: Mapping[tuple[str, str], FunctionProto]
    path: str = ""
    outer: View | None = None
    inputs: Sequence[str] = ()  # without those that only name an initializer
    outputs: Sequence[str] = ()
    types: Mapping[str, TypeProto] = field(default_factory=dict)
    initializers: Mapping[str, TensorProto] = field(default_factory=dict)
    is_function: bool = False  # nothing is known of its tensors

    @property
    def opset(self) -> int:
        """Of ONNX's own domain; 0 if the model imports none."""
        return max((self.opsets.get(domain, 0) for domain in ONNX_DOMAINS), default=0)

    @cached_property
    def producers(self) -> dict[str, NodeProto]:
        """The node that makes each tensor of this graph."""
        return {output: node for node in self.nodes for output in node.output if output}

    @cached_property
    def consumers(self) -> dict[str, list[NodeProto]]:
        """The nodes of this graph that read each tensor."""
        readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                readers.setdefault(name, []).append(node)
        return readers

    def name(self, node: NodeProto) -> str:
        """The node's name with its path; one without a name is called after what it makes."""
        made = next((output for output in node.output if output), "nothing")
        return f"{self.path}{node.name or f'({node.op_type} making {made})'}"

    def of_onnx(self) -> Iterator[NodeProto]:
        """The nodes of ONNX's own domain."""
        return (node for node in self.nodes if node.domain in ONNX_DOMAINS)

    def type_of(self, name: str) -> str | None:
        """The element type of a tensor; None if unknown, or not a tensor."""
        if name in self.initializers:
            return TYPES.get(self.initializers[name].data_type)
        if name in self.types:
            return TYPES.get(self.types[name].tensor_type.elem_type)
        return self.outer.type_of(name) if self.outer else None

    def shape_of(self, name: str) -> Shape | None:
        """The sizes of a tensor; None if not even their number is known."""
        if name in self.initializers:
            return list(self.initializers[name].dims)
        if name in self.types:
            tensor = self.types[name].tensor_type
            if not tensor.HasField("shape"):
                return None
            return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
        return self.outer.shape_of(name) if self.outer else None

    def is_initializer(self, name: str) -> bool:
        """Whether the parser sees weights: an initializer, or what a Constant node makes."""
        if name in self.initializers:
            return True
        if name in self.producers:
            return self.producers[name].op_type == "Constant"
        return self.outer.is_initializer(name) if self.outer else False

    def is_constant(self, name: str) -> bool:
        """Whether the builder can compute it: weights, static shapes, and what is made of them."""
        pending, seen = [name], set()
        while pending:
            current = pending.pop()
            if not current or current in seen or self.is_initializer(current):
                continue
            seen.add(current)
            node = self.producers.get(current)
            if node is None:
                if self.outer is None or current in self.inputs or not self.outer.is_constant(current):
                    return False
            elif node.op_type in ("Shape", "Size"):
                sizes = self.shape_of(node.input[0])
                if sizes is None or not all(isinstance(size, int) for size in sizes):
                    return False
            elif node.op_type.startswith("Random") or not node.input:
                return False
            else:
                pending.extend(node.input)
        return True

    def value(self, name: str) -> npt.NDArray[Any] | None:
        """The value of weights that are small and in the file; None otherwise."""
        from onnx import TensorProto, numpy_helper

        if name in self.initializers:
            tensor = self.initializers[name]
            return None if tensor.data_location == TensorProto.EXTERNAL else numpy_helper.to_array(tensor)
        node = self.producers.get(name)
        if node is not None:
            return _constant_value(node) if node.op_type == "Constant" else None
        return self.outer.value(name) if self.outer else None


def attribute(node: NodeProto, name: str) -> Any:  # noqa: ANN401 - whatever ONNX attributes hold
    """An attribute's value with text decoded; None if it is absent or refers to one of a function."""
    from onnx import helper

    for found in node.attribute:
        if found.name == name and not found.ref_attr_name:
            value = helper.get_attribute_value(found)
            return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return None


def views(model: ModelProto) -> Iterator[View]:
    """The main graph, then every body in it, then local functions that are used, each once."""
    functions = {(function.domain, function.name): function for function in model.functions}
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    called: dict[tuple[str, str], None] = {}
    for view in _tree(_graph_view(model.graph, opsets, functions)):
        yield view
        called.update(dict.fromkeys(_calls(view)))
    done: set[tuple[str, str]] = set()
    while pending := [key for key in called if key not in done]:
        for key in pending:
            done.add(key)
            function = functions[key]
            own = {opset.domain: opset.version for opset in function.opset_import}
            body = View(function.node, own or opsets, functions, path=f"{function.name}()/", is_function=True)
            for view in _tree(body):
                yield view
                called.update(dict.fromkeys(_calls(view)))


def _calls(view: View) -> list[tuple[str, str]]:
    return [(n.domain, n.op_type) for n in view.nodes if (n.domain, n.op_type) in view.functions]


def _tree(view: View) -> Iterator[View]:
    yield view
    for node in view.nodes:
        for found in node.attribute:
            bodies = [found.g] if found.HasField("g") else list(found.graphs)
            for number, body in enumerate(bodies):
                mark = f"[{number}]" if found.graphs else ""
                path = f"{view.name(node)}/{found.name}{mark}/"
                yield from _tree(_graph_view(body, view.opsets, view.functions, path, view))


def _graph_view(
    graph: GraphProto,
    opsets: Mapping[str, int],
    functions: Mapping[tuple[str, str], FunctionProto],
    path: str = "",
    outer: View | None = None,
) -> View:
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    return View(
        nodes=graph.node,
        opsets=opsets,
        functions=functions,
        path=path,
        outer=outer,
        inputs=[value.name for value in graph.input if value.name not in initializers],
        outputs=[value.name for value in graph.output],
        types={value.name: value.type for value in (*graph.value_info, *graph.input, *graph.output)},
        initializers=initializers,
    )


def _constant_value(node: NodeProto) -> npt.NDArray[Any] | None:
    from onnx import TensorProto, numpy_helper

    for found in node.attribute:
        if found.name == "value":
            outside = found.t.data_location == TensorProto.EXTERNAL
            return None if outside else numpy_helper.to_array(found.t)
    value = next((attribute(node, found.name) for found in node.attribute), None)
    return None if value is None else np.asarray(value)
