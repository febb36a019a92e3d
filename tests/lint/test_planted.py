"""Faults planted into a clean graph, each found at the right node by the right rule, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tofe_export.lint.findings import Finding
from tofe_export.lint.targets import TARGETS

Lint = Callable[..., list[Finding]]
Plant = Callable[[ModelProto], None]
ALL = tuple(target.name for target in TARGETS)
NEW = ALL[1:]  # from 10.3 on


def node_of(model: ModelProto, name: str) -> NodeProto:
    found: NodeProto = next(node for node in model.graph.node if node.name == name)
    return found


def constant(model: ModelProto, name: str, value: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def append(
    operator: str,
    inputs: list[str],
    outputs: int = 1,
    domain: str = "",
    **attributes: Any,
) -> Plant:
    """Add a node called `planted`."""

    def plant(model: ModelProto) -> None:
        made = [f"planted_{i}" for i in range(outputs)]
        model.graph.node.append(
            helper.make_node(operator, inputs, made, "planted", domain=domain, **attributes)
        )

    return plant


def set_attribute(name: str, **values: Any) -> Plant:
    def plant(model: ModelProto) -> None:
        node = node_of(model, name)
        for key, value in values.items():
            node.attribute.append(helper.make_attribute(key, value))

    return plant


def large_k(model: ModelProto) -> None:
    constant(model, "many", np.zeros((1, 5000), np.float32))
    constant(model, "limit", [3840])
    append("TopK", ["many", "limit"], 2)(model)


def dynamic_k(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("count", TensorProto.INT64, [1]))
    node_of(model, "freeze/TopK").input[1] = "count"


def unnamed_outputs(model: ModelProto) -> None:
    constant(model, "ratio", np.float32(0.1))
    append("Dropout", ["cls", "ratio"], 2)(model)
    append("Dropout", ["cls", "ratio"], 2)(model)
    model.graph.node[-2].name, model.graph.node[-2].output[0] = "first", "other"
    model.graph.node[-2].output[1] = model.graph.node[-1].output[1] = ""


def same_name(model: ModelProto) -> None:
    append("Abs", ["cls"])(model)
    model.graph.node[-1].output[0] = "restored"


def quantized(zero: Any, scale: Any = 0.1) -> Plant:
    def plant(model: ModelProto) -> None:
        names = [constant(model, "scale_q", np.float32(scale))]
        names += [constant(model, "zero_q", zero)] if zero is not None else []
        append("QuantizeLinear", ["cls", *names])(model)

    return plant


def half_input(operator: str, constants: list[Any], **attributes: Any) -> Plant:
    def plant(model: ModelProto) -> None:
        model.graph.node.append(helper.make_node("Cast", ["cls"], ["half"], "cast", to=TensorProto.FLOAT16))
        names = [constant(model, f"half_{i}", value) for i, value in enumerate(constants)]
        append(operator, ["half", *names], **attributes)(model)

    return plant


def newer_opset(model: ModelProto) -> None:
    model.opset_import[0].version = 18
    for name in ("select/ReduceMean", "select/ReduceMax"):
        node = node_of(model, name)
        del node.attribute[:]
    node_of(model, "select/ReduceMean").input.append(constant(model, "axes", [1]))


def opset(version: int, *plants: Plant) -> Plant:
    """Declare another opset, without the reductions, whose form it changed, then plant."""

    def plant(model: ModelProto) -> None:
        model.opset_import[0].version = version
        for node in (node_of(model, "select/ReduceMean"), node_of(model, "select/ReduceMax")):
            node.op_type = "Identity"
            del node.attribute[:]
        for one in plants:
            one(model)

    return plant


def dynamic_batch(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def run_time_axes(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("axes", TensorProto.INT64, [1]))
    append("Unsqueeze", ["cls", "axes"])(model)


def branch(model: ModelProto) -> None:
    constant(model, "yes", True)
    bodies = {
        name: helper.make_graph(
            [helper.make_node("Unique", ["cls"], [f"{name}_out"], f"{name}_unique")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)],
        )
        for name in ("then_branch", "else_branch")
    }
    append("If", ["yes"], **bodies)(model)


def not_a_number(model: ModelProto) -> None:
    constant(model, "bad", np.array([1, np.nan], np.float32))
    append("Add", ["cls", "bad"])(model)


def double(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Cast", ["cls"], ["wide_out"], "cast", to=TensorProto.DOUBLE))
    model.graph.output.append(helper.make_tensor_value_info("wide_out", TensorProto.DOUBLE, [1, 8]))


@dataclass(frozen=True)
class Fault:
    """What is planted, where it must be found and for which targets; for the others it must not be."""

    name: str
    plant: Plant
    rule: str
    node: str = "planted"
    targets: tuple[str, ...] = ALL
    severity: str = "error"


SEVEN = numpy_helper.from_array(np.array([7], np.int64))
FAULTS = (
    Fault("unique", append("Unique", ["cls"]), "operator"),
    Fault("bitwise", append("BitwiseNot", ["ids"]), "operator"),
    Fault("gelu operator", append("Gelu", ["cls"]), "operator", targets=ALL[:1]),
    Fault("attention operator", append("Attention", ["q", "k", "v"]), "operator", targets=ALL[:3]),
    Fault("rms normalization", append("RMSNormalization", ["cls", "ln.w"]), "operator", targets=ALL[:3]),
    Fault("swish", append("Swish", ["cls"]), "operator", targets=ALL[:4]),
    Fault("contrib", append("FastGelu", ["cls"], domain="com.microsoft"), "domain"),
    Fault("plugin", append("EfficientNMS_TRT", ["cls"], domain="trt.plugins"), "domain", severity="warning"),
    Fault("equal on bool", append("Equal", ["yes", "yes"]), "type"),
    Fault("int8 gather", append("Gather", ["bytes", "first"]), "type", targets=NEW),
    Fault("integer reduction", append("ReduceMax", ["ids"]), "type", targets=ALL[:1]),
    Fault("integer constant of shape", append("ConstantOfShape", ["as_row"], value=SEVEN), "type",
          targets=ALL[:1], severity="warning"),
    Fault("pow of integers", append("Pow", ["ids", "four"]), "type", targets=ALL[:2]),
    Fault("axes as input", newer_opset, "unread-input", "select/ReduceMean", ALL[:1]),
    Fault("opset 21", opset(21), "opset", node="", targets=ALL[:2], severity="warning"),
    Fault("form of opset 18", opset(18, append("Split", ["cls"], 2, num_outputs=2)), "opset",
          targets=ALL[:1]),
    Fault("new attribute", append("Resize", ["map4", "", "sizes"], antialias=1), "attribute", targets=NEW),
    Fault("dynamic K", dynamic_k, "constant-input", "freeze/TopK", severity="warning"),
    Fault("dynamic axes", run_time_axes, "constant-input"),
    Fault("K of 3840", large_k, "topk"),
    Fault("unsorted", set_attribute("freeze/TopK", sorted=0), "attribute", "freeze/TopK", NEW),
    Fault("none", set_attribute("thaw/ScatterND", reduction="none"), "scatter-reduction",
          "thaw/ScatterND", ALL[1:2]),
    Fault("add", set_attribute("thaw/ScatterND", reduction="add"), "scatter-reduction", "thaw/ScatterND"),
    Fault("add elements", set_attribute("thaw/ScatterElements", reduction="add"), "scatter-reduction",
          "thaw/ScatterElements", ALL[:1]),
    Fault("plugin for elements", set_attribute("thaw/ScatterElements", reduction="max"), "scatter-reduction",
          "thaw/ScatterElements", NEW, "warning"),
    Fault("unnamed outputs", unnamed_outputs, "empty-output", targets=ALL[:2]),
    Fault("equal names", same_name, "duplicate-output"),
    Fault("extra outputs", append("LayerNormalization", ["cls", "ln.w"], 3), "outputs"),
    Fault("zero point of 3", quantized(np.int8(3)), "zero-point"),
    Fault("no zero point", quantized(None), "zero-point", targets=ALL[:1]),
    Fault("uint8 by default", quantized(None), "uint8-quantization"),
    Fault("uint8", quantized(np.uint8(0)), "uint8-quantization"),
    Fault("half scale", half_input("QuantizeLinear", [np.float16(0.1), np.int8(0)]), "half-scale"),
    Fault("scale per channel", quantized(np.zeros(8, np.int8), np.ones(8)), "per-channel-activation",
          severity="warning"),
    Fault("dynamic batch", dynamic_batch, "dynamic-shape", "images", ALL[1:2]),
    Fault("nonzero", append("NonZero", ["cls"]), "data-dependent", severity="warning"),
    Fault("if", branch, "control-flow", severity="warning"),
    Fault("unique in a branch", branch, "operator", "planted/then_branch/then_branch_unique"),
    Fault("cumsum", append("CumSum", ["cls", "one32"]), "control-flow", targets=ALL[:2], severity="advice"),
    Fault("nan", not_a_number, "not-finite", severity="warning"),
    Fault("double output", double, "narrowed", "wide_out", severity="advice"),
    Fault("int64 slice", append("Slice", ["cls", "first", "four", "first"]), "int64-slice", targets=NEW,
          severity="advice"),
)  # fmt: skip


@pytest.fixture
def ready(tofe: ModelProto) -> ModelProto:
    """The clean model with constants for some faults."""
    for name, value in {
        "yes": np.array([True]),
        "bytes": np.array([[1, 2]], np.int8),
        "map4": np.zeros((1, 1, 4, 4), np.float32),
        "sizes": np.array([1, 1, 2, 2], np.float32),
    }.items():
        constant(tofe, name, value)
    return tofe


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_found_where_it_is(fault: Fault, ready: ModelProto, lint: Lint) -> None:
    before = {target: lint(ready, target, fault.rule) for target in ALL}
    assert before == {target: [] for target in ALL}
    fault.plant(ready)
    for target in ALL:
        found = [
            finding
            for finding in lint(ready, target, fault.rule)
            if (finding.node, finding.severity) == (fault.node, fault.severity)
        ]
        assert len(found) == (target in fault.targets), (target, lint(ready, target))
        for finding in found:
            assert finding.message
            assert finding.mend
            assert finding.source


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_nothing_is_blamed_on_other_nodes(fault: Fault, ready: ModelProto, lint: Lint) -> None:
    fault.plant(ready)
    blameless = {node.name for node in ready.graph.node} - {"planted", "first", "cast", fault.node}
    for target in ALL:
        assert [f for f in lint(ready, target) if f.node in blameless and f.severity == "error"] == []


def test_there_are_enough_of_them() -> None:
    assert len(FAULTS) >= 15
    assert len({fault.rule for fault in FAULTS}) >= 15
