"""What a rule is, and how it says what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tofe_export.lint.findings import Evidence, Finding, Severity
from tofe_export.lint.matrix import Matrix, Row
from tofe_export.lint.targets import Target
from tofe_export.lint.view import View

if TYPE_CHECKING:
    from onnx import NodeProto

Check = Callable[[View, Target, Matrix], Iterator[Finding]]


@dataclass(frozen=True)
class Rule:
    """One rule: its id in findings, what it looks for, and the function that looks."""

    id: str
    looks_for: str
    check: Check


@dataclass(frozen=True)
class Says:
    """Who says it, how far that carries, and how bad it is: what the findings of a rule share."""

    rule: str
    source: str
    evidence: Evidence
    severity: Severity = "error"

    def at(self, view: View, node: NodeProto, message: str, mend: str) -> Finding:
        """A finding at a node."""
        return self.on(view.name(node), node.op_type, message, mend)

    def on(self, name: str, operator: str, message: str, mend: str) -> Finding:
        """A finding at something that is no node: a graph input, or the model (with an empty name)."""
        return Finding(self.severity, name, operator, self.rule, message, self.source, self.evidence, mend)


def says(rule: str, row: Row, severity: Severity | None = None) -> Says:
    """The same from a row of the matrix."""
    return Says(rule, row.source, row.evidence, severity or row.severity)
