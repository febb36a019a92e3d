"""Run single ONNX nodes in float32, through ONNX Runtime: one session per kind of node, not per node.

A node's half types are replaced by float32, so that what an operator computes inside is not rounded; sizes
are left open, so that all nodes of a kind share one session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from tofe_export.errors import MissingExtra

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = npt.NDArray[Any]
HALF_TYPES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_HEAVY = ("MatMul", "Gemm", "Conv")
"""Worth threads; each session has its own."""


def emulated(elem_type: int) -> int:
    """The type in which a tensor of `elem_type` is held: float32 for both half types."""
    return int(TensorProto.FLOAT) if elem_type in HALF_TYPES else elem_type


def require_onnxruntime() -> None:
    """Raise MissingExtra unless ONNX Runtime is installed."""
    if find_spec("onnxruntime") is None:
        raise MissingExtra("onnxruntime", "ort")


@dataclass(frozen=True)
class Kernel:
    """One node ready to be computed; what does not change between runs is looked up once."""

    session: InferenceSession
    names: tuple[str, ...]
    """Of the session's inputs."""
    kind: bytes
    """Equal for nodes that compute the same of equal inputs."""

    def __call__(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs of the node on the arrays of its non-empty inputs."""
        feeds = dict(zip(self.names, inputs, strict=True))
        return [np.asarray(out) for out in self.session.run(None, feeds)]


class Kernels:
    """Sessions of single nodes. Raises MissingExtra where ONNX Runtime is not installed."""

    def __init__(self, opset: int) -> None:
        require_onnxruntime()
        self._opset = opset
        self._sessions: dict[bytes, InferenceSession] = {}

    def prepare(self, node: onnx.NodeProto, types: Mapping[str, int]) -> Kernel:
        """The kernel of a node; `types` are all tensors' element types."""
        kind = _anonymous(node)
        ins = [(new, emulated(types[old])) for new, old in zip(kind.input, node.input, strict=True) if old]
        outs = [(new, emulated(types[old])) for new, old in zip(kind.output, node.output, strict=True) if old]
        key = kind.SerializeToString(deterministic=True) + repr(ins).encode()
        if key not in self._sessions:
            self._sessions[key] = self._make(kind, ins, outs)
        session = self._sessions[key]
        return Kernel(session, tuple(value.name for value in session.get_inputs()), key)

    def _make(
        self, node: onnx.NodeProto, ins: Sequence[tuple[str, int]], outs: Sequence[tuple[str, int]]
    ) -> InferenceSession:
        import onnxruntime

        inputs = [onnx.helper.make_tensor_value_info(*item, None) for item in ins]
        outputs = [onnx.helper.make_tensor_value_info(*item, None) for item in outs]
        graph = onnx.helper.make_graph([node], "node", inputs, outputs)
        opsets = [onnx.helper.make_opsetid("", self._opset)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False
        options.intra_op_num_threads = 0 if node.op_type in _HEAVY else 1  # 0: as many as there are cores
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


def _anonymous(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node without what tells it from others of its kind; Casts to half become Casts to float32."""
    kind = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
    kind.input.extend(f"i{place}" if name else "" for place, name in enumerate(node.input))
    kind.output.extend(f"o{place}" if name else "" for place, name in enumerate(node.output))
    kind.attribute.extend(sorted(node.attribute, key=lambda attribute: attribute.name))
    if node.op_type == "Cast":
        for attribute in kind.attribute:
            if attribute.name == "to":
                attribute.i = emulated(attribute.i)
    return kind
