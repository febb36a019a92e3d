"""What was found, for people and for machines.

For people: a table of files against targets, then the findings. A fault is printed once, with the nodes that
have it and the targets it holds for, and of many faults of one rule only the first few: a list that nobody
reads hides the one that matters. Machines get everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tofe_export.lint.findings import SEVERITIES, Finding, has_errors
from tofe_export.lint.targets import Target

SHOWN = 5
"""Findings per file and rule that people see."""


@dataclass(frozen=True)
class Checked:
    """One graph, and what was found for each target it was checked for (none: for no target)."""

    name: str
    file: str
    findings: Mapping[Target, Sequence[Finding]]

    @property
    def clean(self) -> bool:
        """Whether no target has an error."""
        return not any(has_errors(found) for found in self.findings.values())

    def to_json(self) -> dict[str, Any]:
        """Every finding of every target."""
        targets = {
            target.name: {
                "clean": not has_errors(found),
                **{severity: _count(found, severity) for severity in SEVERITIES},
                "findings": [finding.to_json() for finding in found],
            }
            for target, found in self.findings.items()
        }
        return {"name": self.name, "file": self.file, "clean": self.clean, "targets": targets}


def to_json(checked: Sequence[Checked]) -> dict[str, Any]:
    """The whole report."""
    return {"clean": all(one.clean for one in checked), "graphs": [one.to_json() for one in checked]}


def rows(checked: Sequence[Checked]) -> tuple[list[str], list[list[str]]]:
    """Headers and cells of the table: a column per target that anything was checked for."""
    targets = sorted({target for one in checked for target in one.findings})
    cells = [
        [one.name, *(cell(one.findings[t]) if t in one.findings else "-" for t in targets)] for one in checked
    ]
    return ["graph", *(target.name for target in targets)], cells


def cell(findings: Sequence[Finding]) -> str:
    """ "ok", "2 errors", "ok, 1 warning"."""
    errors, warnings = _count(findings, "error"), _count(findings, "warning")
    parts = [
        _plural(errors, "error") if errors else "ok",
        *([_plural(warnings, "warning")] if warnings else []),
    ]
    return ", ".join(parts)


def details(one: Checked) -> str:
    """The findings of one graph, each with its nodes and targets; empty if there are none."""
    lines: list[str] = []
    for rule, faults in _by_rule(one).items():
        for fault in faults[:SHOWN]:
            lines += _lines(fault, everywhere=len(fault.targets) == len(one.findings) > 1)
        if len(faults) > SHOWN:
            lines.append(f"  {rule}: {len(faults) - SHOWN} more faults like these (all are in --json)")
    return "\n".join([one.name, *lines]) if lines else ""


@dataclass
class _Fault:
    """One sentence about some nodes, for some targets."""

    finding: Finding  # of the first node
    targets: tuple[Target, ...]
    sources: tuple[str, ...]
    nodes: list[str]


def _by_rule(one: Checked) -> dict[str, list[_Fault]]:
    """Rules in order of severity, with their faults in the order they were found."""
    rules: dict[str, list[_Fault]] = {}
    for severity in SEVERITIES:
        faults: dict[tuple[object, ...], _Fault] = {}
        for key, found in _places(one, severity).items():
            sources = dict.fromkeys(f"{f.source} [{f.evidence}]" for f in found.values())
            same = (key.rule, key.message, key.mend, tuple(found))
            fault = faults.setdefault(same, _Fault(key, tuple(found), tuple(sources), []))
            fault.nodes.append(_place(key))
        for fault in faults.values():
            rules.setdefault(fault.finding.rule, []).append(fault)
    return rules


def _places(one: Checked, severity: str) -> dict[Finding, dict[Target, Finding]]:
    """Equal findings of several targets, whoever says so, under one key without its source."""
    places: dict[Finding, dict[Target, Finding]] = {}
    for target, findings in one.findings.items():
        for finding in findings:
            if finding.severity == severity:
                key = replace(finding, source="", evidence="derived")
                places.setdefault(key, {}).setdefault(target, finding)
    return places


def _place(finding: Finding) -> str:
    if finding.operator in finding.node:
        return finding.node
    return f"{finding.node} ({finding.operator})".strip()


def _lines(fault: _Fault, everywhere: bool) -> list[str]:
    finding, nodes = fault.finding, fault.nodes
    more = f" and {len(nodes) - SHOWN} more" if len(nodes) > SHOWN else ""
    holds = "all targets" if everywhere else ", ".join(target.name for target in fault.targets)
    return [
        f"  {finding.severity:<8}{finding.rule}, {holds}: {', '.join(nodes[:SHOWN])}{more}",
        f"          {finding.message}",
        f"          mend: {finding.mend}",
        f"          source: {'; '.join(fault.sources)}",
    ]


def _count(findings: Sequence[Finding], severity: str) -> int:
    return sum(finding.severity == severity for finding in findings)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("s" if count != 1 else "")
