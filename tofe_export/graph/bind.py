"""Bind a template to keep counts and lower it: the literal list of passes, and what must hold afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
import onnx_graphsurgeon as gs

from tofe_export.errors import BuildFailed, UsageError
from tofe_export.graph.passes.base import Pass, run
from tofe_export.graph.passes.bind_budget import BindBudgetPass
from tofe_export.graph.passes.bind_sizes import BindSizesPass
from tofe_export.graph.passes.clean_up import CleanUpPass
from tofe_export.graph.passes.downgrade_opset import DowngradeOpsetPass
from tofe_export.graph.passes.gelu_form import GeluFormPass
from tofe_export.graph.passes.int32_slices import Int32SlicesPass
from tofe_export.graph.passes.lower_adaptive import LowerAdaptivePass
from tofe_export.graph.passes.lower_concat import LowerConcatPass
from tofe_export.graph.passes.lower_dense import LowerDensePass
from tofe_export.graph.passes.lower_scatter import LowerScatterPass
from tofe_export.graph.passes.probe import ProbePass
from tofe_export.graph.passes.split_heads import SplitHeadsPass
from tofe_export.graph.passes.static_shapes import StaticShapesPass
from tofe_export.graph.static_form import check_static

if TYPE_CHECKING:
    from tofe_export.graph.trace import Template  # which imports torch; binding needs none

IR_VERSION = 8
"""What ONNX 1.13 wrote, the first with opset 17's successors: every TensorRT from 8.6 reads it."""


@dataclass(frozen=True, kw_only=True)
class Binding:
    """What turns a template into one graph."""

    lowering: str
    """scatter, concat, adaptive or dense."""
    tokens: int
    """N."""
    prefix: int
    """P."""
    keep: tuple[int, ...] = ()
    """K_1 .. K_S for scatter and concat."""
    thresholds: tuple[float, ...] = ()
    """Score thresholds for adaptive."""
    batch: int | None = 1
    """Images per run; None for a dynamic batch."""
    reuse: bool = True
    stages: int = 3
    """S."""
    condition: float = 0.0
    """The scalar b of `model.tofe.condition_of`, for a conditioned model."""
    probe: bool = False


def passes_for(template: Template, binding: Binding) -> list[Pass]:
    """The passes that bind and lower, in order."""
    return [
        BindSizesPass(template.batch, binding.batch, _row_counts(binding)),
        BindBudgetPass(binding.condition),
        _lowering(binding),
        *([ProbePass()] if binding.probe else []),
        DowngradeOpsetPass(),
        StaticShapesPass(),
        GeluFormPass(),
        *([SplitHeadsPass()] if binding.batch == 1 else []),
        Int32SlicesPass(),
        CleanUpPass(),
    ]


def bind(
    template: Template,
    binding: Binding,
    metadata: Mapping[str, str],
    passes: Sequence[Pass] | None = None,
) -> onnx.ModelProto:
    """Make one graph from the template; its large weights stay in the template's weights file.

    Other `passes` than `passes_for` gives are for measuring what each brings.

    Raises:
        UsageError: the lowering cannot express this model, or the batch does not fit it.
        BuildFailed: the result is not a valid static graph: a bug here, never the user's fault.
    """
    if binding.lowering == "adaptive" and binding.batch != 1:
        raise UsageError(
            "`adaptive` decides per image and runs at batch 1: use --batch 1, or another lowering"
        )
    copy = onnx.ModelProto()
    copy.CopyFrom(template.model)
    graph = run(passes_for(template, binding) if passes is None else passes, gs.import_onnx(copy))
    model = gs.export_onnx(graph, do_type_check=False)
    model = finish(model, metadata)
    check_static(model, adaptive=binding.lowering == "adaptive", dynamic_batch=binding.batch is None)
    return model


def finish(model: onnx.ModelProto, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Infer all shapes strictly, say what the graph is, keep only the standard domain."""
    del model.graph.value_info[:]
    del model.functions[:]
    model.ir_version = IR_VERSION
    model.producer_name = "tofe-export"
    model.graph.name = metadata.get("tofe.variant", "tofe")
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise BuildFailed(f"the lowered graph does not type-check: {error}") from error
    for opset in [o for o in model.opset_import if o.domain not in ("", "ai.onnx")]:
        model.opset_import.remove(opset)
    onnx.helper.set_model_props(model, dict(metadata))
    return model


def _lowering(binding: Binding) -> Pass:
    if binding.lowering == "scatter":
        return LowerScatterPass(binding.keep, binding.batch)
    if binding.lowering == "concat":
        return LowerConcatPass(binding.keep, binding.batch)
    if binding.lowering == "adaptive":
        return LowerAdaptivePass(binding.thresholds)
    return LowerDensePass()


def _row_counts(binding: Binding) -> list[tuple[int | None, int | None]]:
    """Rows of Freeze's outputs `kept` and `frozen` in each stage."""
    tokens, prefix, keep = binding.tokens, binding.prefix, binding.keep
    if binding.lowering == "adaptive":
        return [(None, None if not binding.reuse and s else prefix + tokens) for s in range(binding.stages)]
    if binding.lowering == "dense":
        return [(prefix + tokens, prefix + tokens)] * binding.stages
    entry = [tokens] * len(keep) if binding.reuse else [tokens, *keep[:-1]]
    if binding.lowering == "scatter":
        return [(prefix + k, prefix + n) for k, n in zip(keep, entry, strict=True)]
    return [(prefix + k, n - k) for k, n in zip(keep, entry, strict=True)]
