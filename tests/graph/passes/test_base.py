"""Passes run in the order of their list."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from tofe_export.graph.passes.base import Pass, PassResult, run


class Rename(Pass):
    """Append to the graph's name."""

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix

    def __call__(self, graph: gs.Graph) -> PassResult:
        graph.name += self.suffix
        return PassResult(graph, True)


def test_in_order() -> None:
    assert run([Rename("a"), Rename("b")], gs.Graph(name="")).name == "ab"


def test_an_empty_list_changes_nothing() -> None:
    graph = gs.Graph(name="same")
    assert run([], graph) is graph
    assert graph.name == "same"
