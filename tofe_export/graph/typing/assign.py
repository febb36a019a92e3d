"""A float type for every node, with the fewest Casts that the required float32 nodes allow.

Operators that compute go by the list of what is required. Those that only copy, and cheap elementwise ones,
have no wish of their own. Fed with float32, such a node stays float32 if that reaches a float32 reader: a
Cast in front of it would only be undone. Else it is half, since half a tensor is moved in half the time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_graphsurgeon as gs

from tofe_export.graph.typing.nodes import ELEMENTWISE, MOVEMENT, activations, float_outputs, works_on_floats

BETWEEN = "between float32 nodes"


def float32_nodes(graph: gs.Graph, required: Mapping[str, str]) -> dict[str, str]:
    """All nodes that stay float32, with their reasons, in execution order."""
    chosen, before = _choose(graph, required, None), -1
    while len(chosen) != before:  # whoever counted on a neighbour that is half after all gives up, too
        before = len(chosen)
        chosen = _choose(graph, required, chosen)
    return chosen


def flexible(node: gs.Node) -> bool:
    """Whether the node may follow its neighbours."""
    return node.op in MOVEMENT or node.op in ELEMENTWISE


def _choose(
    graph: gs.Graph, required: Mapping[str, str], candidates: Collection[str] | None
) -> dict[str, str]:
    """What is required, and flexible nodes that float32 feeds and that lead to float32.

    Flexible nodes count as float32 on the way if they are among `candidates`; None: all of them may be.
    """
    wanting = _wanting(graph, required, candidates)
    chosen: dict[str, str] = {}
    for node in graph.nodes:
        if node.name in required:
            chosen[node.name] = required[node.name]
        elif works_on_floats(node) and node.name in wanting and _fed(node, chosen):
            chosen[node.name] = BETWEEN
    return chosen


def _wanting(graph: gs.Graph, required: Mapping[str, str], candidates: Collection[str] | None) -> set[str]:
    """Flexible nodes that lead to float32 through flexible nodes alone; the graph's outputs are float32."""
    wanting = set[str]()
    ends = {id(tensor) for tensor in graph.outputs}
    for node in reversed(graph.nodes):
        if not flexible(node) or node.name in required:
            continue
        if candidates is not None and node.name not in candidates:
            continue
        outputs = float_outputs(node)
        readers = [reader.name for tensor in outputs for reader in tensor.outputs]
        ended = any(id(tensor) in ends for tensor in outputs)
        if ended or any(name in required or name in wanting for name in readers):
            wanting.add(node.name)
    return wanting


def _fed(node: gs.Node, chosen: Mapping[str, str]) -> bool:
    """Whether all that the node reads is float32, as the graph's inputs are."""
    read = activations(node)
    return bool(read) and all(not t.inputs or t.inputs[0].name in chosen for t in read)
