"""Where INT8 may go: products of activations with weights, and which of them belong together.

A *site* is a MatMul, Gemm or Conv whose second input is a constant. Found by the form of the graph, not by
names, so it does not matter which module made a node or how a rewriting spelt it. Left out, whatever the
numbers say:

    selector        what reaches the answer only as a choice stays float32 (`typing.islands`)
    convolution     the stem reads three channels; TensorRT pads them to 32. An option.
    head            what the graph's answer is made of directly: a thousandth of the work
    attention       in half precision, the projections around Q K^T and its product with V (see below)

*Units* are quantised together or not at all: sites with nothing but copies and elementwise operators between
them, such as the two halves of an MLP, and all projections of one attention. TensorRT 10.16 and 11.3 return
NaN where an INT8 product feeds a GELU whose reader is half precision; and around half-precision attention
they unfuse the projections, while TensorRT 11 returns wrong values for an INT8 output projection behind it
(measured by Roboflow on RF-DETR, its issue 1024). With float32 around, neither was seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from tofe_export.graph.typing.islands import selector_nodes
from tofe_export.graph.typing.nodes import ELEMENTWISE, MOVEMENT, activations

SELECTOR, CONVOLUTION, HEAD, ATTENTION = "selector", "convolution", "head", "half-precision attention"
_POOLS = ("ReduceMax", "ReduceMean")


@dataclass(frozen=True)
class Site:
    """A product that may be computed in INT8."""

    node: str
    unit: str
    """What it is quantised with: the name of the unit's first node."""
    activation: str
    """The tensor that it reads."""


@dataclass(frozen=True)
class Placement:
    """What may be quantised in a graph, in execution order, and what may not, by node with the reason."""

    sites: tuple[Site, ...]
    excluded: dict[str, str]

    @property
    def units(self) -> tuple[str, ...]:
        """The names of all units."""
        return tuple(dict.fromkeys(site.unit for site in self.sites))

    def without(self, units: Sequence[str]) -> tuple[Site, ...]:
        """The sites of all other units."""
        return tuple(site for site in self.sites if site.unit not in units)


def place(graph: gs.Graph, *, stem: bool = False, half: bool = False) -> Placement:
    """Find the sites of a bound float32 graph; `stem` admits convolutions, `half` means to type it."""
    weighted = [node for node in graph.nodes if is_weighted(node)]
    units = _units(graph, weighted)
    reasons = _reasons(graph, weighted, stem)
    for members in _by_unit(weighted, units).values():  # a unit goes as a whole
        if HEAD in (found := {reasons.get(node.name) for node in members}):
            reasons |= {node.name: HEAD for node in members}
        if half and found == {None} and units[members[0].name][1]:
            reasons |= {node.name: ATTENTION for node in members}
    sites = tuple(
        Site(node.name, units[node.name][0], node.inputs[0].name)
        for node in weighted
        if node.name not in reasons
    )
    return Placement(sites, {node.name: reasons[node.name] for node in weighted if node.name in reasons})


def is_weighted(node: gs.Node) -> bool:
    """Whether the node multiplies activations with a weight, in a form that is understood here."""
    if node.op not in ("MatMul", "Gemm", "Conv") or not isinstance(node.inputs[1], gs.Constant):
        return False
    if isinstance(node.inputs[0], gs.Constant) or node.inputs[1].dtype not in (np.float32, np.float16):
        return False
    attrs = node.attrs
    if attrs.get("transA", 0) or attrs.get("alpha", 1.0) != 1.0 or attrs.get("beta", 1.0) != 1.0:
        return False
    return len(node.inputs[1].shape) == 2 or node.op == "Conv"


def is_product(node: gs.Node) -> bool:
    """Whether the node multiplies activations with one another, as attention does."""
    return node.op == "MatMul" and not any(isinstance(tensor, gs.Constant) for tensor in node.inputs)


def _reasons(graph: gs.Graph, weighted: Sequence[gs.Node], stem: bool) -> dict[str, str]:
    choosing, ends = set(selector_nodes(graph)), _ends(graph)
    reasons = {}
    for node in weighted:
        if node.name in choosing:
            reasons[node.name] = SELECTOR
        elif node.op == "Conv" and (not stem or node.attrs.get("group", 1) != 1):
            reasons[node.name] = CONVOLUTION
        elif node.name in ends:
            reasons[node.name] = HEAD
    return reasons


def _ends(graph: gs.Graph) -> set[str]:
    """Weighted nodes that the answer is made of by copies, pooling and at most one sum.

    Where the answer is the residual stream itself, more sums would lead through all blocks.
    """
    found, queue = set[str](), [(tensor, False) for tensor in graph.outputs[:1]]
    seen = set[tuple[int, bool]]()
    while queue:
        tensor, summed = queue.pop()
        if (id(tensor), summed) in seen or not tensor.inputs:
            continue
        seen.add((id(tensor), summed))
        node = tensor.inputs[0]
        sums = node.op in ("Add", "Sub") and len(activations(node)) > 1
        if is_weighted(node):
            found.add(node.name)
        elif (node.op in MOVEMENT or node.op in ELEMENTWISE or node.op in _POOLS) and not (sums and summed):
            queue += [(before, summed or sums) for before in activations(node)]
    return found


def _units(graph: gs.Graph, weighted: Sequence[gs.Node]) -> dict[str, tuple[str, bool]]:
    """Per weighted node the first node of its unit, and whether the unit is an attention."""
    products = [node for node in graph.nodes if is_product(node)]
    anchors = {node.name: node for node in graph.nodes if is_weighted(node) or is_product(node)}
    parent = {name: name for name in anchors}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for node in anchors.values():
        for before in _anchors_before(node, anchors):
            parent[root(node.name)] = root(before)
    attention = {root(node.name) for node in products}
    first: dict[str, str] = {}
    for node in weighted:
        first.setdefault(root(node.name), node.name)
    return {node.name: (first[root(node.name)], root(node.name) in attention) for node in weighted}


def _anchors_before(node: gs.Node, anchors: dict[str, gs.Node]) -> Iterator[str]:
    """Anchors that feed the node through copies and elementwise operators."""
    queue, seen = list(activations(node)), set[int]()
    while queue:
        tensor = queue.pop()
        if id(tensor) in seen or not tensor.inputs:
            continue
        seen.add(id(tensor))
        before = tensor.inputs[0]
        if before.name in anchors:
            yield before.name
        elif _transparent(before):
            queue += activations(before)


def _transparent(node: gs.Node) -> bool:
    """Copies, Softmax, and elementwise operators but sums of two activations: the residual stream."""
    if node.op in ("Add", "Sub") and len(activations(node)) > 1:
        return False
    return node.op in MOVEMENT or node.op in ELEMENTWISE or node.op == "Softmax"


def _by_unit(weighted: Sequence[gs.Node], units: dict[str, tuple[str, bool]]) -> dict[str, list[gs.Node]]:
    members: dict[str, list[gs.Node]] = {}
    for node in weighted:
        members.setdefault(units[node.name][0], []).append(node)
    return members
