"""A transformer-like graph in miniature: stem, attention, MLP, a selector, an approximator, a head.

Written by hand, as the exporter and its rewritings may write it: `flat` gives rows as two-dimensional tensors
and Gemm, `transposed` the weights of Gemm the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from tofe_export.files import sha256_file
from tofe_export.manifest import Variant

Array = npt.NDArray[Any]
Build = Callable[..., onnx.ModelProto]
SIDE, WIDTH, TOKENS, KEPT = 8, 16, 16, 6


class _Writer:
    """Collects nodes and constants."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self._random = np.random.RandomState(0)

    def weight(self, name: str, *shape: int) -> str:
        scale = {1: 0.1, 2: shape[0] ** -0.5, 4: np.prod(shape[1:]) ** -0.5}[len(shape)]
        self.constants[name] = (scale * self._random.standard_normal(shape)).astype(np.float32)
        return name

    def constant(self, name: str, values: Any) -> str:
        self.constants[name] = np.asarray(values)
        return name

    def __call__(self, op: str, name: str, *inputs: str, count: int = 1, **attrs: Any) -> str:
        outputs = [f"{name}:{i}" for i in range(count)] if count > 1 else [f"{name}:out"]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=name, **attrs))
        return outputs[0]

    def linear(self, module: str, x: str, width: int, to: int) -> str:
        product = self("MatMul", f"{module}/MatMul", x, self.weight(f"{module}.weight", width, to))
        return self("Add", f"{module}/Add", product, self.weight(f"{module}.bias", to))

    def gemm(self, module: str, x: str, width: int, to: int, transposed: bool) -> str:
        shape = (to, width) if transposed else (width, to)
        names = (self.weight(f"{module}.weight", *shape), self.weight(f"{module}.bias", to))
        return self("Gemm", f"{module}/Gemm", x, *names, transB=int(transposed))

    def norm(self, module: str, x: str) -> str:
        return self("LayerNormalization", f"{module}/norm", x, "gain", axis=-1)

    def gelu(self, module: str, x: str) -> str:
        half = self("Div", f"{module}/Div", x, "root2")
        one = self("Add", f"{module}/one", self("Erf", f"{module}/Erf", half), "one")
        return self("Mul", f"{module}/Mul", x, one)


def small_transformer(*, batch: int = 1, flat: bool = False, transposed: bool = False) -> onnx.ModelProto:
    """images (batch, 3, 8, 8) -> logits (batch, 5), with a selection of 6 of 16 tokens in the middle."""
    write = _Writer()
    for name, value in (("gain", np.ones(WIDTH, np.float32)), ("root2", np.float32(1.4142135))):
        write.constant(name, value)
    write.constant("one", np.float32(1))
    write.constant("heads", np.float32(0.25))
    x = write("Conv", "stem/Conv", "images", write.weight("stem.weight", WIDTH, 3, 2, 2), strides=[2, 2])
    x = write("Reshape", "stem/rows", x, write.constant("rows", np.array([batch, WIDTH, TOKENS])))
    x = write("Transpose", "stem/Transpose", x, perm=[0, 2, 1])
    n = write.norm("attn", x)
    q, k, v = (write.linear(f"attn.{name}", n, WIDTH, WIDTH) for name in "qkv")
    scores = write("MatMul", "attn/scores", write("Mul", "attn/scale", q, "heads"),
                   write("Transpose", "attn/turn", k, perm=[0, 2, 1]))  # fmt: skip
    mixed = write("MatMul", "attn/mix", write("Softmax", "attn/Softmax", scores, axis=-1), v)
    x = write("Add", "attn/residual", x, write.linear("attn.proj", mixed, WIDTH, WIDTH))
    column = write.linear("selectors.0", write.norm("selectors", x), WIDTH, 1)
    flat_scores = write("Squeeze", "selectors/squeeze", column, write.constant("last", np.array([2])))
    k_kept = write.constant("k", np.array([KEPT]))
    ids = write("TopK", "select/TopK", flat_scores, k_kept, count=2, axis=1).replace(":0", ":1")
    index = write("Unsqueeze", "select/column", ids, "last")
    kept = write("GatherND", "select/gather", x, index, batch_dims=1)
    approximated = write.gelu("approximators.0", write.linear("approximators.0.fc1", x, WIDTH, 8))
    approximated = write.linear("approximators.0.fc2", approximated, 8, WIDTH)
    n = write.norm("mlp", kept)
    if flat:
        n = write("Reshape", "mlp/flat", n, write.constant("flat", np.array([batch * KEPT, WIDTH])))
        hidden = write.gelu("mlp", write.gemm("mlp.fc1", n, WIDTH, 32, transposed))
        made = write.linear("mlp.fc2", hidden, 32, WIDTH)
        made = write("Reshape", "mlp/back", made, write.constant("back", np.array([batch, KEPT, WIDTH])))
    else:
        made = write.linear("mlp.fc2", write.gelu("mlp", write.linear("mlp.fc1", n, WIDTH, 32)), 32, WIDTH)
    kept = write("Add", "mlp/residual", kept, made)
    mean = write("ReduceMean", "head/pool", write("Concat", "thaw/Concat", kept, approximated, axis=1),
                 axes=[1], keepdims=0)  # fmt: skip
    logits = write.gemm("head", write.norm("head", mean), WIDTH, 5, transposed)
    write.nodes[-1].output[0] = "logits"
    assert logits == "head/Gemm:out"
    image = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [batch, 3, SIDE, SIDE])
    end = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [batch, 5])
    values = [numpy_helper.from_array(value, name) for name, value in write.constants.items()]
    graph = helper.make_graph(write.nodes, "small", [image], [end], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


@pytest.fixture(scope="session")
def small() -> Build:
    """Make the graph."""
    return small_transformer


@pytest.fixture
def images() -> Array:
    """12 images."""
    return np.random.RandomState(1).standard_normal((12, 3, SIDE, SIDE)).astype(np.float32)


@pytest.fixture
def twin(tmp_path: Path) -> Callable[..., Variant]:
    """Write the graph as a float32 variant of a bundle in the making at `tmp_path`."""

    def write(batch: int = 1, reference: str = "keep-6", **form: bool) -> Variant:
        name = f"2.00g-scatter-fp32-b{batch}"
        file = f"variants/{name}.onnx"
        (tmp_path / "variants").mkdir(exist_ok=True)
        onnx.save(small_transformer(batch=batch, **form), tmp_path / file)
        return Variant(
            name=name,
            file=file,
            sha256=sha256_file(tmp_path / file),
            probe=None,
            budget_gmacs=2.0,
            gmacs=2.0,
            gmacs_executed=1.9,
            keep=(KEPT,),
            thresholds=None,
            source="training",
            lowering="scatter",
            precision="fp32",
            batch=batch,
            opset=17,
            targets=("8.6",),
            reference=reference,
            extra={"hold_float32": ["attn/norm"], "calibration": {"kept": True}},
        )

    return write
