"""The form of a node: its opset, the inputs and attributes it may have, how many outputs are made.

Parsers only warn about an opset that they do not document, and most operators of a newer opset differ in
nothing but their type lists. What differs in form is not read, and not reading an input is silent: TensorRT
8.6 reduces over all axes when `axes` comes as an input. So the opset alone is a warning, and a node that uses
what its documented form does not have is an error. The standard's own schemas, from the onnx package, say
which is which.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tofe_export.lint.findings import Finding
from tofe_export.lint.matrix import Matrix, Row
from tofe_export.lint.rules.rule import says
from tofe_export.lint.targets import Target
from tofe_export.lint.view import View, attribute

if TYPE_CHECKING:
    from onnx import NodeProto

# Changes of meaning that no schema shows: operator -> opset, what changed
MEANINGS = {
    "GridSample": (20, "the names of its modes"),
    "GroupNormalization": (21, "scale and bias are per channel, no longer per group"),
}
_DYNAMIC_K = "the sizes of what follows then depend on the data: no CUDA graph, and K cannot be checked"


def opset(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Nodes in a form that the documented opset does not have; the model, if there are none."""
    row = matrix.newest_opset(target)
    newest = int(row.value["newest"])
    if view.opset <= newest:
        return
    mend = f"export at opset {newest} or older"
    found = False
    for node in view.of_onnx():
        if _unread(node, target, matrix):
            found = True  # `unread_input` knows what exactly happens
            continue
        read = [int(fact.value["input"]) for fact in matrix.rows("constant_inputs", target, node.op_type)]
        for change in _changes(node, newest, view.opset, read):
            message = f"{node.op_type} of opset {view.opset}, where the parser documents {newest}: {change}"
            yield says("opset", row).at(view, node, message, mend)
            found = True
    if not found and not view.path:
        message = (
            f"opset {view.opset} is newer than {newest}, the newest the parser documents; every node here "
            "has the form it had then"
        )
        yield says("opset", row, "warning").on("", "model", message, mend)


def _changes(node: NodeProto, newest: int, used: int, read: Sequence[int]) -> Iterator[str]:
    """What the node has that its form of opset `newest` lacks; inputs `read` are known to be looked at."""
    from onnx import defs, helper

    if not defs.has(node.op_type):
        return
    try:
        old, new = defs.get_schema(node.op_type, newest), defs.get_schema(node.op_type, used)
    except defs.SchemaError:
        return  # the operator itself is newer: `operators` says whether the parser knows it
    many = any(i.option == defs.OpSchema.FormalParameterOption.Variadic for i in old.inputs)
    added = [i for i, name in enumerate(node.input) if name and i >= len(old.inputs) and i not in read]
    if added and not many:
        yield f"input {added[0]} is new"
    for found in node.attribute:
        schema = new.attributes.get(found.name)
        is_default = (
            schema is not None
            and schema.default_value.type == found.type
            and (helper.get_attribute_value(schema.default_value) == helper.get_attribute_value(found))
        )
        if found.name not in old.attributes and not is_default:
            yield f"the attribute `{found.name}` is new"
    since, what = MEANINGS.get(node.op_type, (used + 1, ""))
    if newest < since <= used:
        yield what


def constant_input(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Inputs that must be weights, or at least known at build time. Unknown in local functions."""
    if view.is_function:
        return
    for node in view.of_onnx():
        for row in matrix.rows("constant_inputs", target, node.op_type):
            index, what = int(row.value["input"]), row.value["what"]
            name = node.input[index] if index < len(node.input) else ""
            if not name or view.is_initializer(name):
                continue
            if row.value["accepts"] != "initializer" and view.is_constant(name):
                continue
            message = f"`{what}` ({name}) is computed at run time"
            if node.op_type == "TopK":
                message += f"; {_DYNAMIC_K}"
            yield says("constant-input", row).at(view, node, message, f"make `{what}` an initializer")


def unread_input(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Inputs that the importer drops or stops at."""
    for node in view.of_onnx():
        for row in _unread(node, target, matrix):
            what = row.value["what"]
            message = f"`{what}` as an input is not read: {row.value['effect']}"
            mend = f"export at opset 17, where `{what}` is {_older_place(node.op_type)}"
            yield says("unread-input", row).at(view, node, message, mend)


def attribute_value(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Attribute values outside what the parser takes; absent attributes are left alone."""
    for node in view.of_onnx():
        for row in matrix.rows("attributes", target, node.op_type):
            name, allowed = row.value["attribute"], row.value["allowed"]
            value = attribute(node, name)
            if value is None or _allowed(value, allowed):
                continue
            expected = " or ".join(map(repr, allowed)) or "no such attribute"
            message = f"`{name}` is {_shown(value)}, expected {expected} ({row.value['effect']})"
            yield says("attribute", row).at(view, node, message, f"export with `{name}` as expected")


def outputs(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Outputs that the importer does not make; before 10.6 even unnamed ones stop the import."""
    for node in view.of_onnx():
        for row in matrix.rows("outputs", target, node.op_type):
            limit = int(row.value["outputs"])
            extra = [name for name in node.output[limit:] if name or target.within("8.6", "10.6")]
            if extra:
                message = f"{len(node.output)} outputs, the importer makes {limit}"
                yield says("outputs", row).at(view, node, message, "drop the outputs that nothing reads")


def _unread(node: NodeProto, target: Target, matrix: Matrix) -> list[Row]:
    """The rows of inputs that this node has and the importer does not read."""
    return [
        row
        for row in matrix.rows("unread_inputs", target, node.op_type)
        if any(node.input[int(row.value["input"]) :])
    ]


def _allowed(value: Any, allowed: list[Any]) -> bool:  # noqa: ANN401 - an attribute's value
    return all(item == 1 for item in value) if allowed == ["all 1"] else value in allowed


def _shown(value: Any) -> str:  # noqa: ANN401 - an attribute's value
    return repr(value) if isinstance(value, (str, int, float, list)) else "set"


def _older_place(operator: str) -> str:
    return "not used: pad every axis" if operator == "Pad" else "an attribute"
