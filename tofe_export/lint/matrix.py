"""The operator matrix: what each parser supports, as data.

`matrix.json` holds facts in six tables, one row per line, and each row says for which targets it holds, which
sources say so, and whether that is exact, derived or measured for them (`findings`). An operator without a
row is unknown to that parser; one with no types is known and refused. The tables:

    opsets           the newest opset the parser documents
    operators        the types of each operator, in the words of NVIDIA's table (FP32, INT64, ...)
    constant_inputs  inputs that must be known when the engine is built
    unread_inputs    inputs that the importer drops or stops at
    attributes       attributes whose other values are refused ("all 1": a list of ones)
    outputs          how many outputs the importer makes
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from tofe_export.lint.findings import Evidence, Severity
from tofe_export.lint.targets import Target


@dataclass(frozen=True)
class Row:
    """One fact. `value` holds the columns of its table besides those every row has."""

    operator: str
    targets: frozenset[str]
    source: str  # for people
    evidence: Evidence
    severity: Severity
    value: Mapping[str, Any]

    @property
    def types(self) -> tuple[str, ...]:
        """Of a row of `operators`."""
        return tuple(self.value["types"].split())


class Matrix:
    """The facts of all targets; `data` is the content of matrix.json."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._sources = {key: source["short"] for key, source in data["sources"].items()}
        self._tables = {
            table: [self._row(row) for row in rows]
            for table, rows in data.items()
            if table not in ("schema", "sources")
        }
        self._operators = {
            (target, row.operator): row for row in self._tables["operators"] for target in row.targets
        }

    def newest_opset(self, target: Target) -> Row:
        """The row whose value["newest"] is the newest opset that the target's parser documents."""
        return next(row for row in self._tables["opsets"] if target.version in row.targets)

    def operator(self, target: Target, operator: str) -> Row | None:
        """What the parser says of an operator of ONNX's own domain; None if it does not know it."""
        return self._operators.get((target.version, operator))

    def rows(self, table: str, target: Target, operator: str) -> Iterator[Row]:
        """The rows of one of the other tables that hold for an operator on a target."""
        for row in self._tables[table]:
            if row.operator == operator and target.version in row.targets:
                yield row

    def _row(self, row: Mapping[str, Any]) -> Row:
        return Row(
            operator=row.get("operator", ""),
            targets=frozenset(row["targets"].split()),
            source="; ".join(self._sources[key] for key in row["source"].split()),
            evidence=row["evidence"],
            severity=row.get("severity", "error"),
            value=row,
        )


@cache
def load_matrix() -> Matrix:
    """The matrix of the package, read once."""
    return Matrix(json.loads(matrix_text()))


def matrix_text() -> str:
    """The file as it is."""
    return resources.files("tofe_export.lint").joinpath("matrix.json").read_text(encoding="utf-8")
