"""Turn a float32 graph into a typed one: nodes compute in half precision, except those that stay float32.

Every tensor has the type of the node that makes it, and one Cast to the other type if some reader wants that;
so no two Casts ever follow each other. Nodes and tensors keep their names, which is how a typed graph and its
float32 twin are compared. The graph's inputs and outputs stay float32.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from tofe_export.errors import BuildFailed
from tofe_export.graph.passes.base import Pass, PassResult
from tofe_export.graph.typing.half import Half
from tofe_export.graph.typing.nodes import FLOAT32, float_outputs, is_float, works_on_floats
from tofe_export.graph.typing.weights import HalfWeights, is_external


class TypeGraphPass(Pass):
    """Type all nodes but those named in `float32`; needs the types of all tensors.

    `weights` has the copies of external weights.
    """

    def __init__(self, half: Half, float32: Collection[str], weights: HalfWeights | None = None) -> None:
        self.half, self.float32, self.weights = half, frozenset(float32), weights

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Insert Casts and half constants."""
        self._halves: dict[int, gs.Tensor] = {}
        self._casts: dict[int, gs.Variable] = {}
        self._graph = graph
        working = [node for node in graph.nodes if works_on_floats(node)]
        halved = [node for node in working if node.name not in self.float32]
        made = {id(tensor) for node in halved for tensor in float_outputs(node)}
        for node in working:
            half = node.name not in self.float32
            node.inputs = [self._read(t, half, made) if is_float(t) else t for t in node.inputs]
        for node in halved:
            for tensor in float_outputs(node):
                tensor.dtype = self.half.onnx_type
            if node.op == "Cast" and node.attrs["to"] == FLOAT32:
                node.attrs["to"] = self.half.onnx_type
        self._restore_outputs(graph, made)
        graph.toposort()
        return PassResult(graph, bool(halved))

    def _read(self, tensor: gs.Tensor, to_half: bool, made: Collection[int]) -> gs.Tensor:
        """The tensor as a node wants it; `made` are the tensors that are made in half precision."""
        if isinstance(tensor, gs.Constant):
            return self._half_constant(tensor) if to_half else tensor
        return tensor if to_half == (id(tensor) in made) else self._cast(tensor, to_half)

    def _cast(self, tensor: gs.Variable, to_half: bool) -> gs.Variable:
        if id(tensor) not in self._casts:
            kind, dtype = (self.half.onnx_type,) * 2 if to_half else (FLOAT32, np.float32)
            name = self.half.name if to_half else "float32"
            out = gs.Variable(f"{tensor.name}:{name}", dtype, tensor.shape)
            cast = gs.Node("Cast", f"{_maker(tensor)}/to_{name}", {"to": kind}, [tensor], [out])
            self._graph.nodes.append(cast)
            self._casts[id(tensor)] = out
        return self._casts[id(tensor)]

    def _half_constant(self, constant: gs.Constant) -> gs.Tensor:
        if id(constant) not in self._halves:
            name = f"{constant.name}:{self.half.name}"
            self._halves[id(constant)] = gs.Constant(name, LazyValues(self._half_tensor(constant, name)))
        return self._halves[id(constant)]

    def _half_tensor(self, constant: gs.Constant, name: str) -> onnx.TensorProto:
        lazy = constant._values  # the public attribute would load external data from the current directory
        if isinstance(lazy, LazyValues) and is_external(lazy.tensor):
            copy = self.weights.tensor(name, lazy.tensor) if self.weights else None
            if copy is None:
                raise BuildFailed(
                    f"{constant.name}: expected a {self.half.name} copy in the weights file, found none"
                )
            return copy
        values = np.asarray(constant.values)
        bits = self.half.encode(values)
        return onnx.TensorProto(
            name=name, data_type=self.half.onnx_type, dims=values.shape, raw_data=bits.tobytes()
        )

    def _restore_outputs(self, graph: gs.Graph, made: Collection[int]) -> None:
        """Graph outputs made in half precision are cast, and the casted tensor takes over the name."""
        for place, tensor in enumerate(graph.outputs):
            if id(tensor) in made:
                out = self._cast(tensor, to_half=False)
                tensor.name, out.name = f"{tensor.name}:{self.half.name}", tensor.name
                graph.outputs[place] = out


def _maker(tensor: gs.Variable) -> str:
    """What a Cast of `tensor` is called after: its node, and the place among that node's outputs."""
    if not tensor.inputs:
        return str(tensor.name)
    node = tensor.inputs[0]
    return f"{node.name}:{node.outputs.index(tensor)}" if len(node.outputs) > 1 else str(node.name)
