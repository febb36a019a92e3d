"""Put INT8 around products with weights: QuantizeLinear and DequantizeLinear in front, never behind.

The result of a quantised product stays a float, so residual sums, norms, attention and everything that
selects tokens read what they always read; other readers of a quantised activation go on reading the float.
All products that read one activation share its pair.

The form is the one that ONNX Runtime turns into integer kernels and every TensorRT takes. ONNX Runtime melts
a MatMul and the Add of a bias (N) or (1, N) into a Gemm before it looks for quantisation, and a Gemm with a
float bias then stays float: slower than float32 alone. So a bias of three-dimensional rows becomes (1, 1, N),
and two-dimensional rows are multiplied by a Gemm without bias, with the Add behind it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from tofe_export.graph.passes.base import Pass, PassResult
from tofe_export.graph.quantizing.scales import scales_for
from tofe_export.graph.quantizing.weights import Int8Weights
from tofe_export.graph.typing.weights import is_external


class QuantizePass(Pass):
    """Quantise the products named in `ranges` (largest absolute activation) with the weights of `digests`."""

    def __init__(self, ranges: Mapping[str, float], digests: Mapping[str, str], weights: Int8Weights) -> None:
        self.ranges, self.digests, self.weights = ranges, digests, weights

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Insert the pairs; needs the types and shapes of all tensors."""
        self._graph = graph
        self._quantized: dict[int, tuple[gs.Variable, gs.Constant]] = {}
        self._biases: dict[tuple[int, int], gs.Constant] = {}
        self._zero = gs.Constant("int8/zero", np.zeros((), np.int8))
        chosen = [node for node in graph.nodes if node.name in self.ranges]
        largest: dict[int, float] = {}
        for node in chosen:
            key = id(node.inputs[0])
            largest[key] = max(largest.get(key, 0.0), self.ranges[node.name])
        for node in chosen:
            half = node.inputs[0].dtype == np.float16
            pair = self._pair(node, largest[id(node.inputs[0])], half)
            weight = self._weight(node, half)
            node.inputs = [pair, weight, *node.inputs[2:]]
            if node.op != "Conv":
                self._separate_bias(node)
        graph.cleanup(remove_unused_graph_inputs=False).toposort()
        return PassResult(graph, bool(chosen))

    def _pair(self, node: gs.Node, largest: float, half: bool) -> gs.Variable:
        """The activation of a node after both operators; readers of one activation share the first."""
        tensor, dtype = node.inputs[0], np.float16 if half else np.float32
        if id(tensor) not in self._quantized:
            scale = gs.Constant(f"{node.name}/scale", scales_for(largest).astype(dtype))
            integers = gs.Variable(f"{node.name}/int8", np.int8, tensor.shape)
            self._emit("QuantizeLinear", node, [tensor, scale, self._zero], integers)
            self._quantized[id(tensor)] = integers, scale
        integers, scale = self._quantized[id(tensor)]
        back = gs.Variable(f"{node.name}/dequantized", dtype, tensor.shape)
        self._emit("DequantizeLinear", node, [integers, scale, self._zero], back)
        return back

    def _weight(self, node: gs.Node, half: bool) -> gs.Variable:
        """The weight of a node, read as integers.

        Nodes with equal weights name the same bytes of the file, each by a name of its own: ONNX Runtime
        cannot load a constant that two of them read where it rewrites the integers (x86 without VNNI).
        """
        digest = self.digests[node.name]
        entry = self.weights.entries[digest]
        inputs = [
            gs.Constant(tensor.name, LazyValues(tensor))
            for tensor in self.weights.tensors(digest, f"{node.name}/weight", half=half)
        ]
        out = gs.Variable(f"{node.name}/weight", np.float16 if half else np.float32, list(entry.dims))
        attrs = {"axis": entry.axis}
        self._graph.nodes.append(
            gs.Node("DequantizeLinear", f"{node.name}/weight/DequantizeLinear", attrs, inputs, [out])
        )
        return out

    def _separate_bias(self, node: gs.Node) -> None:
        out = node.outputs[0]
        node.attrs.clear()  # transB: the integers are stored the other way round
        if node.op == "Gemm" and len(node.inputs) > 2:
            bias = node.inputs.pop(2)
            product = gs.Variable(f"{node.name}/product", out.dtype, out.shape)
            node.outputs = [product]
            self._graph.nodes.append(gs.Node("Add", f"{node.name}/bias", {}, [product, bias], [out]))
        elif node.op == "MatMul" and len(out.shape) == 2:
            node.op = "Gemm"
        elif node.op == "MatMul" and len(out.outputs) == 1 and out.outputs[0].op == "Add":
            add = out.outputs[0]
            add.inputs = [self._raise(tensor, len(out.shape)) for tensor in add.inputs]

    def _raise(self, tensor: gs.Tensor, rank: int) -> gs.Tensor:
        """A bias (N) as (1, .., N); anything else as it is."""
        if not isinstance(tensor, gs.Constant) or len(tensor.shape) > 2:
            return tensor
        if (id(tensor), rank) not in self._biases:
            dims = [*[1] * (rank - len(tensor.shape)), *tensor.shape]
            name = f"{tensor.name}:{rank}d"
            self._biases[id(tensor), rank] = gs.Constant(name, _with_dims(tensor, name, dims))
        return self._biases[id(tensor), rank]

    def _emit(self, op: str, node: gs.Node, inputs: list[gs.Tensor], out: gs.Variable) -> None:
        self._graph.nodes.append(gs.Node(op, f"{node.name}/{op}", {}, inputs, [out]))


def _with_dims(constant: gs.Constant, name: str, dims: list[int]) -> object:
    """The same numbers in another shape; external ones stay where they are."""
    lazy = constant._values  # the public attribute would load external data from the current directory
    if isinstance(lazy, LazyValues) and is_external(lazy.tensor):
        copy = onnx.TensorProto()
        copy.CopyFrom(lazy.tensor)
        copy.name = name
        del copy.dims[:]
        copy.dims.extend(dims)
        return LazyValues(copy)
    return np.asarray(constant.values).reshape(dims)
