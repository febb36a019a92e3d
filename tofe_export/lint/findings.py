"""What a check reports.

    error     the parser refuses it, computes something else, or documents that it must not be
    warning   accepted, but with a cost or a doubt that somebody must judge
    advice    right as it is; could be faster, or safer in half precision

Evidence says how far the claim carries for the target: "exact" (that release's own table or sources),
"derived" (a neighbouring release, a change log, a third party), "measured" (the importers of a release of the
same line were run on such graphs).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["error", "warning", "advice"]
Evidence = Literal["exact", "derived", "measured"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "advice")
EVIDENCE: tuple[Evidence, ...] = ("exact", "derived", "measured")


@dataclass(frozen=True)
class Finding:
    """One fault of one node for one target; the message never names the target, so that equal ones group."""

    severity: Severity
    node: str  # its name with the path of subgraphs before it; "" for the model as a whole
    operator: str
    rule: str  # the id of a rule in `rules.RULES`
    message: str
    source: str  # who says so
    evidence: Evidence
    mend: str

    def to_json(self) -> dict[str, str]:
        """All fields, by name."""
        return asdict(self)


def has_errors(findings: Iterable[Finding]) -> bool:
    """Whether any of them is an error: the verdict of lint."""
    return any(finding.severity == "error" for finding in findings)


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then advice; in the order they were found otherwise."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
