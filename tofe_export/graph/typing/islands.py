"""Which nodes of a float32 graph must stay float32 in half precision, each with its reason.

Three reasons come from the graph alone. The *selector* is everything whose numbers reach the answer only as
a choice: seen from the end, a node all of whose readers choose, down to TopK (or a comparison). That needs no
names, and constants that modules share cannot mislead it. *Normalisations* square and sum what they read. And
some operators do not take the type at all, as Conv does not take bfloat16 before opset 22; nor does TensorRT
turn uint8 frames into it (NvInfer.h, DataType::kUINT8).

One comes from numbers: what exceeds the range of the type, by a head-room, on the reference images.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from tofe_export.errors import UsageError
from tofe_export.graph.typing.half import Half
from tofe_export.graph.typing.magnitudes import Magnitudes
from tofe_export.graph.typing.nodes import (
    BFLOAT16,
    MOVEMENT,
    NORMS,
    activations,
    float_inputs,
    float_outputs,
    is_float,
    reads_bytes,
    takes,
    works_on_floats,
)

SELECTOR, LAYER_NORM, SOFTMAX, STREAM = "selector", "layer norm", "softmax", "residual stream"
VANISHING = 8.0
"""A constant that is this many times below the type's normal numbers has lost three of its bits."""
KINDS = ("softmax", "stream")
"""What `--float32` takes besides the beginning of node names."""


def selector_nodes(graph: gs.Graph) -> list[str]:
    """Names of the nodes whose floats only choose, in execution order, TopK included.

    The first output is the model's; others (a probe's) only report.
    """
    answer, chosen = graph.outputs[0], set[str]()
    for node in reversed(graph.nodes):
        if not works_on_floats(node):
            continue
        read = [reader.name for tensor in float_outputs(node) for reader in tensor.outputs]
        if all(name in chosen for name in read) and not any(tensor is answer for tensor in node.outputs):
            chosen.add(node.name)
    return [node.name for node in graph.nodes if node.name in chosen]


def norm_nodes(graph: gs.Graph) -> list[str]:
    """Names of the normalisations."""
    return [node.name for node in graph.nodes if node.op in NORMS]


def hold_float32(graph: gs.Graph) -> list[str]:
    """What a weakly typed build must hold in float32 by name: selectors and normalisations."""
    held = {*selector_nodes(graph), *norm_nodes(graph)}
    return [node.name for node in graph.nodes if node.name in held]


def required(
    graph: gs.Graph, half: Half, magnitudes: Magnitudes, asked: Sequence[str] = ()
) -> dict[str, str]:
    """Node names that must stay float32, and why; `asked` are the values of `--float32`.

    Raises:
        UsageError: `asked` names nodes that do not exist.
    """
    selectors, wanted = set(selector_nodes(graph)), _asked(graph, asked)
    reasons = {}
    for node in graph.nodes:
        if not works_on_floats(node):
            continue
        reason = wanted.get(node.name)
        if node.name in selectors and node.op not in MOVEMENT:
            reason = SELECTOR
        elif node.op in NORMS:
            reason = LAYER_NORM
        elif half.onnx_type == BFLOAT16 and reads_bytes(node):
            reason = f"TensorRT casts uint8 to float32 and float16, not to {half.name}"
        elif not takes(node, half, graph.opset):
            reason = f"{node.op} takes no {half.name} in opset {graph.opset}"
        elif too_large := _too_large(node, half, magnitudes):
            reason = too_large
        if reason:
            reasons[node.name] = reason
    return reasons


def stream_nodes(graph: gs.Graph) -> list[str]:
    """The residual stream: sums of two activations, and their copies."""
    found = set[str]()
    for node in graph.nodes:
        sums = node.op == "Add" and len(activations(node)) == 2
        copies = node.op in MOVEMENT and any(p.name in found for t in activations(node) for p in t.inputs)
        if sums or copies:
            found.add(node.name)
    return [node.name for node in graph.nodes if node.name in found]


def _asked(graph: gs.Graph, asked: Sequence[str]) -> dict[str, str]:
    wanted: dict[str, str] = {}
    for name in asked:
        if name == "softmax":
            wanted |= {node.name: SOFTMAX for node in graph.nodes if node.op == "Softmax"}
        elif name == "stream":
            wanted |= dict.fromkeys(stream_nodes(graph), STREAM)
        else:
            found = [node.name for node in graph.nodes if node.name.startswith(name)]
            if not found:
                raise UsageError(
                    f"--float32 {name}: expected {' or '.join(KINDS)}, or how the names of some nodes begin "
                    "(blocks.3.mlp), found no such node"
                )
            wanted |= dict.fromkeys(found, "asked for")
    return wanted


def _too_large(node: gs.Node, half: Half, magnitudes: Magnitudes) -> str | None:
    """Why the numbers of a node do not fit, or None."""
    limit = half.largest / magnitudes.headroom
    for tensor in (*float_inputs(node), *float_outputs(node)):
        size = magnitudes.of(tensor)
        if isinstance(tensor, gs.Constant):
            if size > half.largest:
                return f"constant of magnitude {size:.1e}"
            if 0 < size < half.smallest_normal / VANISHING:
                return f"constant of {size:.1e} nearly vanishes in {half.name}"
        elif is_float(tensor) and size > limit:
            return f"magnitude {size:.1e} on the reference images (limit {limit:.1e})"
    return None
