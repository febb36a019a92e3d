"""The three operators of a template: `tofe.Freeze`, `tofe.Thaw`, `tofe.Restore`.

A template is the traced graph before keep counts are known (decision 3). Freezing is left in it as one
operator whose output sizes are new symbols; binding gives the symbols their values and replaces the
operator by standard ones. In torch the operators have only shapes, no arithmetic: they exist to be traced.

    Freeze(x (B, P + N, D), scores (B, N)) -> kept (B, P + K, D), frozen (B, F, D), order (B, N)
    Thaw(kept (B, P + K, D), recovered (B, F or N, D), order) -> x (B, P + N, D)
    Restore(x (B, P + N, D)) -> x with patches in spatial order

Attributes: `stage` (from 0), `prefix` (P); Thaw also `every_row`: 1 if `recovered` holds all N patch tokens.
What `frozen` and `order` hold is the lowering's choice; only Freeze and Thaw of one stage use them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnx.defs import OpSchema, get_schema, onnx_opset_version, register_schema
from onnxscript.values import Opset
from torch import Tensor

from tofe_export.model.freezer import Freezer, Split

DOMAIN = "tofe"

torch.library.define(
    "tofe::freeze", "(Tensor x, Tensor scores, int stage, int prefix) -> (Tensor, Tensor, Tensor)"
)
torch.library.define(
    "tofe::thaw",
    "(Tensor kept, Tensor recovered, Tensor order, int stage, int prefix, bool every_row) -> Tensor",
)
torch.library.define("tofe::restore", "(Tensor x, int prefix) -> Tensor")


@torch.library.register_fake("tofe::freeze")  # type: ignore[untyped-decorator]  # torch leaves it untyped
def _freeze(x: Tensor, scores: Tensor, stage: int, prefix: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, width = x.shape
    context = torch.library.get_ctx()
    kept, frozen = context.new_dynamic_size(min=prefix + 1), context.new_dynamic_size()
    return (
        x.new_empty(batch, kept, width),
        x.new_empty(batch, frozen, width),
        torch.empty_like(scores, dtype=torch.int64),
    )


@torch.library.register_fake("tofe::thaw")  # type: ignore[untyped-decorator]  # as above
def _thaw(kept: Tensor, recovered: Tensor, order: Tensor, stage: int, prefix: int, every_row: bool) -> Tensor:
    return kept.new_empty(kept.shape[0], prefix + order.shape[1], kept.shape[2])


@torch.library.register_fake("tofe::restore")  # type: ignore[untyped-decorator]  # as above
def _restore(x: Tensor, prefix: int) -> Tensor:
    return torch.empty_like(x)


class TemplateFreezer(Freezer):
    """Freezes symbolically: every stage becomes one Freeze and, if tokens come back, one Thaw."""

    def __init__(self, prefix: int) -> None:
        self.prefix = prefix

    def freeze(self, x: Tensor, scores: Tensor, stage: int) -> Split:
        """Trace `tofe.Freeze`."""
        kept, frozen, order = torch.ops.tofe.freeze(x, scores, stage, self.prefix)
        return Split(kept, frozen, order, stage)

    def thaw(self, kept: Tensor, recovered: Tensor, split: Split, *, every_row: bool) -> Tensor:
        """Trace `tofe.Thaw`."""
        order, stage = split.order, split.stage
        thawed: Tensor = torch.ops.tofe.thaw(kept, recovered, order, stage, self.prefix, every_row)
        return thawed

    def restore(self, x: Tensor) -> Tensor:
        """Trace `tofe.Restore`."""
        restored: Tensor = torch.ops.tofe.restore(x, self.prefix)
        return restored


_ONNX = Opset(DOMAIN, 1)

# onnxscript reads these signatures: an annotated tensor would have to be one of its own types


def _to_freeze(x, scores, stage: int, prefix: int):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return _ONNX.Freeze(x, scores, stage=stage, prefix=prefix)


def _to_thaw(kept, recovered, order, stage: int, prefix: int, every_row: bool):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return _ONNX.Thaw(kept, recovered, order, stage=stage, prefix=prefix, every_row=int(every_row))


def _to_restore(x, prefix: int):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return _ONNX.Restore(x, prefix=prefix)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How `torch.onnx.export` writes the three operators."""
    _register_schemas()
    ops = torch.ops.tofe
    return {ops.freeze.default: _to_freeze, ops.thaw.default: _to_thaw, ops.restore.default: _to_restore}


def _register_schemas() -> None:
    """Tell onnx the signatures, once per process."""
    try:
        get_schema("Freeze", onnx_opset_version(), DOMAIN)
    except Exception as error:  # onnx raises a class of its C++ module that is not exported
        if "No schema" not in str(error):
            raise
    else:
        return
    formal, attribute, kind = OpSchema.FormalParameter, OpSchema.Attribute, OpSchema.AttrType
    types = [("T", ["tensor(float)"], ""), ("I", ["tensor(int64)"], "")]
    stage, prefix, every_row = (attribute(name, kind.INT) for name in ("stage", "prefix", "every_row"))
    kept, recovered, x = (formal(name, "T") for name in ("kept", "recovered", "x"))
    order = formal("order", "I")
    for name, inputs, outputs, attributes in (
        ("Freeze", [x, formal("scores", "T")], [kept, formal("frozen", "T"), order], [stage, prefix]),
        ("Thaw", [kept, recovered, order], [x], [stage, prefix, every_row]),
        ("Restore", [x], [formal("y", "T")], [prefix]),
    ):
        used = [t for t in types if any(t[0] == p.type_str for p in (*inputs, *outputs))]
        schema = OpSchema(
            name, DOMAIN, 1, inputs=inputs, outputs=outputs, type_constraints=used, attributes=attributes
        )
        register_schema(schema)
