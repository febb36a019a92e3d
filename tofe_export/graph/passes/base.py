"""What a pass is: a graph in, the graph and whether it changed out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import onnx_graphsurgeon as gs


class PassResult(NamedTuple):
    """The graph after a pass, and whether the pass changed anything."""

    graph: gs.Graph
    modified: bool


class Pass(ABC):
    """One transformation of an onnx-graphsurgeon graph, in place."""

    @abstractmethod
    def __call__(self, graph: gs.Graph) -> PassResult:
        """Transform `graph`."""


def run(passes: Sequence[Pass], graph: gs.Graph) -> gs.Graph:
    """Run passes in order."""
    for transform in passes:
        graph = transform(graph).graph
    return graph
