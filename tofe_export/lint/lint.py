"""The entry: a model or a path, targets, and every rule on every graph of the model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tofe_export.lint.findings import Finding, ordered
from tofe_export.lint.matrix import load_matrix
from tofe_export.lint.read import prepared, read_model
from tofe_export.lint.rules import RULES
from tofe_export.lint.targets import Target, parse_target
from tofe_export.lint.view import views

if TYPE_CHECKING:
    from onnx import ModelProto


def lint_model(model: ModelProto | Path | str, target: Target | str) -> list[Finding]:
    """Check one model for one target, such as "trt-10.3" or "jetpack-6.2"; errors come first.

    Raises:
        UsageError: the target is not known, with the reason.
        InputError: the path is no ONNX file.
    """
    wanted = target if isinstance(target, Target) else parse_target(target)
    return lint_targets(model, [wanted])[wanted]


def lint_targets(model: ModelProto | Path | str, targets: Iterable[Target]) -> dict[Target, list[Finding]]:
    """The same for several targets; the model is read and its shapes are inferred once.

    Raises InputError when the path is no ONNX file.
    """
    found = read_model(Path(model)) if isinstance(model, (str, Path)) else model
    graphs = list(views(prepared(found)))
    matrix = load_matrix()
    return {
        target: ordered(
            finding for rule in RULES for view in graphs for finding in rule.check(view, target, matrix)
        )
        for target in targets
    }
