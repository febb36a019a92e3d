"""The rounding evaluator as a Session, so that `verify` judges it like any runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from tofe_export.graph.typing.common import Common
from tofe_export.graph.typing.evaluator import Evaluator
from tofe_export.graph.typing.kernels import Kernels
from tofe_export.runtime.session import Array, Session, TensorInfo


class RoundingSession(Session):
    """A graph under the evaluator; `folder` holds its weights, `measure` notes how large tensors get.

    `decoded` and `common`: see `Evaluator`.
    """

    provider = "rounding evaluator"

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path,
        kernels: Kernels,
        *,
        measure: bool = False,
        decoded: dict[str, Array] | None = None,
        common: Common | None = None,
    ) -> None:
        self._measure = measure
        self.evaluator = Evaluator(model, folder, kernels, decoded, common)
        self.inputs = {value.name: _info(value) for value in model.graph.input}
        self.outputs = {value.name: _info(value) for value in model.graph.output}

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        return self.evaluator.run(feeds, measure=self._measure)

    def close(self) -> None:
        """Nothing to give back."""


def _info(value: onnx.ValueInfoProto) -> TensorInfo:
    kind = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    sizes = (size.dim_value if size.HasField("dim_value") else size.dim_param for size in kind.shape.dim)
    return TensorInfo(value.name, dtype, tuple(sizes))
