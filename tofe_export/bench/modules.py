"""Which module of the model a node belongs to: its own, or its tensors' where a runtime renamed it.

Nodes are called after the module that made them (`blocks.3.attn.qkv/MatMul`), and a runtime that fuses some
makes a name of theirs or keeps the names of the tensors between them. So a node of a runtime's own graph is
found by its name, by the beginning of its name, by what it makes, by what it reads, and by its neighbours, in
this order; what none of these tells is OTHER. Arithmetic that no module made (the slice before a selector)
counts to what reads it where that is one module, else to what it reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tofe_export.bench.graph_file import Node

STEM, HEAD, OTHER = "stem", "head", "other"
_NUMBERED = re.compile(r"((?:blocks|selectors|approximators|stage|freeze|thaw)\.?\d+(?:\.(?:freeze|thaw))?)")
_SCOPED = re.compile(r"[\w.]+/\w+")


def module_of(scope: str) -> str | None:
    """`blocks.3` of `blocks.3.attn.qkv`; None for scopes that no numbered part of the model has."""
    found = _NUMBERED.match(scope)
    return found[1] if found else None


class Modules:
    """Modules of a graph's nodes; `nodes` are those of the exported graph, in execution order."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        own = [module_of(node.name.partition("/")[0]) for node in nodes]
        settled = _with_neighbours(nodes, _with_ends(own))
        self.order = [*dict.fromkeys(settled)]
        """All modules, in execution order."""
        self._by_name = {node.name: module for node, module in zip(nodes, settled, strict=True)}
        self._by_tensor = {
            tensor: module for node, module in zip(nodes, settled, strict=True) for tensor in node.outputs
        }
        scopes: dict[str, set[str]] = {}
        for node, module in zip(nodes, settled, strict=True):
            if "/" in node.name:
                scopes.setdefault(node.name.partition("/")[0], set()).add(module)
        self._by_scope = {scope: next(iter(found)) for scope, found in scopes.items() if len(found) == 1}
        self._operators = {node.name: node.operator for node in nodes}

    def place(self, nodes: Sequence[Node]) -> dict[str, str]:
        """The module of every node of the runtime's graph, by name."""
        settled = _with_neighbours(nodes, [self._of(node) for node in nodes])
        return {node.name: module for node, module in zip(nodes, settled, strict=True)}

    def named(self, text: str) -> tuple[str, str] | None:
        """Module and operators of a layer whose name lists nodes, as TensorRT's do; None if it lists none.

        A layer that spans several modules is called after the first and the last.
        """
        listed = _SCOPED.findall(text.replace("...", " "))  # "first...last", as of a ForeignNode
        names = [name for name in listed if name in self._by_name]
        if not names:
            return None
        found = {self._by_name[name] for name in names}
        ordered = [module for module in self.order if module in found]
        module = ordered[0] if len(ordered) == 1 else f"{ordered[0]} .. {ordered[-1]}"
        return module, "+".join(dict.fromkeys(self._operators[name] for name in names))

    def _of(self, node: Node) -> str | None:
        if node.name in self._by_name:
            return self._by_name[node.name]
        scope = node.name.partition("/")[0]
        if "/" in node.name and scope in self._by_scope:
            return self._by_scope[scope]
        return self._one(node.outputs) or self._one(node.inputs)

    def _one(self, tensors: Iterable[str]) -> str | None:
        found = {self._by_tensor[name] for name in tensors if name in self._by_tensor}
        return found.pop() if len(found) == 1 else None


def _with_ends(own: Sequence[str | None]) -> list[str | None]:
    """Everything before the first numbered module is the stem, everything behind the last the head."""
    numbered = [place for place, module in enumerate(own) if module is not None]
    if not numbered:
        return [OTHER] * len(own)
    first, last = numbered[0], numbered[-1]
    return [STEM if place < first else HEAD if place > last else module for place, module in enumerate(own)]


def _with_neighbours(nodes: Sequence[Node], own: Sequence[str | None]) -> list[str]:
    """Nodes without a module take that of all their readers, else of what they read."""
    settled = list(own)
    readers: dict[str, set[str | None]] = {}
    for place in reversed(range(len(nodes))):
        node = nodes[place]
        read = {module for tensor in node.outputs for module in readers.get(tensor, ())}
        if settled[place] is None and len(read) == 1:
            settled[place] = read.pop()
        for tensor in node.inputs:
            readers.setdefault(tensor, set()).add(settled[place])
    makers: dict[str, str] = {}
    for place, node in enumerate(nodes):
        module = settled[place] or next((makers[t] for t in node.inputs if t in makers), OTHER)
        settled[place] = module
        makers |= dict.fromkeys(node.outputs, module)
    return [module or OTHER for module in settled]
