"""The template's operators have shapes, no arithmetic, and can be registered twice."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from tofe_export.graph.template import DOMAIN, TemplateFreezer, translations


@pytest.mark.slow  # imports much of torch
def test_sizes_of_kept_and_frozen_are_new_symbols() -> None:
    freezer = TemplateFreezer(prefix=1)
    with FakeTensorMode(shape_env=ShapeEnv()):
        x, scores = torch.empty(2, 8, 4), torch.empty(2, 7)
        first, second = freezer.freeze(x, scores, 0), freezer.freeze(x, scores, 1)
        thawed = freezer.thaw(first.kept, first.frozen, first, every_row=False)
        assert freezer.restore(x).shape == (2, 8, 4)
    sizes = [str(t.shape[1]) for t in (first.kept, first.frozen, second.kept, second.frozen)]
    assert len(set(sizes)) == 4
    assert not [size for size in sizes if size.isdigit()]
    assert first.order.shape == (2, 7)
    assert first.order.dtype == torch.int64
    assert (first.stage, second.stage) == (0, 1)
    assert thawed.shape == (2, 8, 4)


def test_schemas_are_registered_once() -> None:
    assert len(translations()) == len(translations()) == 3
    for name, inputs in (("Freeze", 2), ("Thaw", 3), ("Restore", 1)):
        assert len(onnx.defs.get_schema(name, onnx.defs.onnx_opset_version(), DOMAIN).inputs) == inputs
