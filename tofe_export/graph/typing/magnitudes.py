"""How large the numbers of a graph get: constants by reading them, activations by running images.

The check is made on one graph of a budget and holds for its siblings of other batch sizes, whose few nodes of
other names only copy: what a copy holds is at most as large as what it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from tofe_export.graph.typing.nodes import MOVEMENT, activations

HEADROOM = 8.0
"""Activations of other images may be this many times larger than the reference images'. NVIDIA's AutoCast
uses 128 (512 of 65504), which keeps most of a large transformer's residual stream float32."""


@dataclass(frozen=True)
class Magnitudes:
    """Largest absolute value of tensors, by name; a tensor that was not measured and copies nothing has 0."""

    activations: Mapping[str, float]
    constants: Mapping[str, float]
    headroom: float = HEADROOM
    _copied: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    def of(self, tensor: gs.Tensor) -> float:
        """Of a tensor; a copy that was not measured is as large as what it copies."""
        if isinstance(tensor, gs.Constant):
            return self.constants.get(tensor.name, 0.0)
        if tensor.name in self.activations:
            return self.activations[tensor.name]
        if tensor.name not in self._copied:
            producer = tensor.inputs[0] if tensor.inputs else None
            read = activations(producer) if producer is not None and producer.op in MOVEMENT else []
            self._copied[tensor.name] = max((self.of(t) for t in read), default=0.0)
        return self._copied[tensor.name]


UNMEASURED = Magnitudes({}, {})
"""Nothing known: typing by the graph alone."""
