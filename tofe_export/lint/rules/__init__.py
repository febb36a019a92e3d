"""The rules, as a literal list in the order in which findings are reported.

A rule is a function of one graph, one target and the matrix; it knows no other rule. What is a table of facts
lies in matrix.json, what needs code to see lies in the module named after its subject.
"""

from __future__ import annotations

from tofe_export.lint.rules import dynamic, forms, names, operators, quantization, scatter, topk, values
from tofe_export.lint.rules.rule import Rule

RULES: tuple[Rule, ...] = (
    Rule("operator", "an operator that the parser does not know or refuses", operators.operator),
    Rule("domain", "an operator outside ONNX's own domain", operators.domain),
    Rule("type", "an element type that the parser does not list for the operator", operators.element_type),
    Rule("opset", "an opset newer than the parser documents, and operators whose form changed", forms.opset),
    Rule("constant-input", "an input that must be known when the engine is built", forms.constant_input),
    Rule("unread-input", "an input that the importer drops or stops at", forms.unread_input),
    Rule("attribute", "an attribute value that the parser refuses", forms.attribute_value),
    Rule("outputs", "more outputs than the importer makes", forms.outputs),
    Rule("topk", "TopK with K of 3840 or more, or along an axis before the last four", topk.limits),
    Rule("scatter-reduction", "ScatterND or ScatterElements with `reduction`", scatter.reduction),
    Rule("empty-output", "several outputs named ''", names.empty_output),
    Rule("duplicate-output", "two tensors of one name", names.duplicate_output),
    Rule("zero-point", "a zero point that is not 0, or is missing", quantization.zero_point),
    Rule("uint8-quantization", "QuantizeLinear or DequantizeLinear with UINT8", quantization.uint8),
    Rule(
        "half-scale", "half-precision scales below opset 19, or on a parser without them", quantization.scales
    ),
    Rule("per-channel-activation", "activations quantised per channel", quantization.per_channel),
    Rule("dynamic-shape", "dynamic input sizes where they give wrong results", dynamic.dynamic_shape),
    Rule("data-dependent", "sizes that depend on the data", dynamic.data_dependent),
    Rule("control-flow", "If, Loop, Scan, and what becomes a loop", dynamic.control_flow),
    Rule("not-finite", "NaN or infinity in a constant", values.not_finite),
    Rule("narrowed", "DOUBLE, and INT64 where the parser has none", values.narrowed),
    Rule("half-layernorm", "a decomposed LayerNormalization in half precision", values.half_layernorm),
    Rule("int64-slice", "Slice with INT64 parameters", values.int64_slice),
    Rule("unknown-shape", "a tensor of unknown type or shape: other rules see less", values.unknown_shape),
)
