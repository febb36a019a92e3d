"""What `onnx` says before it writes: budgets that the selectors never saw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tofe_export.cli.onnx import command
from tofe_export.keep import Measured
from tofe_export.model.build import build_checkpoint

Export = Callable[..., str]
WARNING = "selectors were trained for 0.0180 to 0.0250 and are extrapolating"


@pytest.fixture
def dry_run(tmp_path: Path) -> Export:
    """`onnx --dry-run` of a model with a table of two budgets; returns what people see."""

    def run(budget: str, *, conditioned: bool) -> str:
        checkpoint = build_checkpoint(
            "deit_tiny_patch16_224",
            None,
            image_size=(64, 64),
            arguments={"depth": 4, "embed_dim": 192, "num_heads": 3, "num_classes": 10},
            conditioned=conditioned,
        )
        checkpoint.table = tuple(
            Measured(gmacs, keep, None, "training")
            for gmacs, keep in ((0.018, (4, 3, 2)), (0.025, (9, 8, 8)))
        )
        checkpoint.trained = True
        checkpoint.save(tmp_path / "tofe.pt")
        result = CliRunner().invoke(
            command, ["--ckpt", str(tmp_path / "tofe.pt"), "--budget", budget, "--dry-run"], obj={}
        )
        assert result.exit_code == 0, result.output
        return click.unstyle(result.output)

    return run


def test_a_budget_outside_the_trained_range_is_said(dry_run: Export) -> None:
    said = dry_run("0.017,0.02,0.03", conditioned=True)
    assert "budget 0.0170, 0.0300 GMACs" in said
    assert WARNING in said


@pytest.mark.parametrize(("budget", "conditioned"), [("0.018,0.02,0.025", True), ("0.017,0.03", False)])
def test_nothing_is_said_within_it_or_without_conditioning(
    budget: str, conditioned: bool, dry_run: Export
) -> None:
    assert "trained for" not in dry_run(budget, conditioned=conditioned)
