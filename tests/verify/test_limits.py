"""Limits: fixed for well-conditioned models, wider with a model's own rounding, and never without end."""

from __future__ import annotations

import pytest

from tofe_export.errors import UsageError
from tofe_export.verify.limits import ALLOWANCES, LIMITS, limits_for


@pytest.mark.parametrize("rounding", [0.0, 3e-7, 1e-6])
def test_usual_rounding_changes_nothing(rounding: float) -> None:
    assert limits_for("fp32", rounding) == LIMITS["fp32"]


def test_a_badly_conditioned_model_gets_ten_times_its_own_rounding() -> None:
    assert limits_for("fp32", 2e-6).output == pytest.approx(2e-5)
    assert limits_for("fp32", 2e-6).scores == LIMITS["fp32"].scores


def test_rounding_excuses_only_so_much() -> None:
    assert limits_for("fp32", 0.1).output == ALLOWANCES["fp32"].ceiling


def test_a_precision_without_limits() -> None:
    with pytest.raises(UsageError, match="fp32"):
        limits_for("int3")


@pytest.mark.parametrize("precision", ["int8", "int8fp16"])
def test_int8_is_coarser_than_halves_and_not_without_end(precision: str) -> None:
    limits = LIMITS[precision]
    assert limits_for(precision, 5e-7) == limits
    assert limits.output > LIMITS["bf16"].output
    assert limits.scores > LIMITS["bf16"].scores
    assert limits_for(precision, 1.0).output == ALLOWANCES[precision].ceiling < 0.5


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_coarser_but_not_without_end(precision: str) -> None:
    limits = LIMITS[precision]
    assert limits_for(precision, 5e-7) == limits
    steps = {"fp16": 2.0**13, "bf16": 2.0**16}[precision]
    assert limits_for(precision, 2e-6).output == pytest.approx(2e-6 * steps)
    assert limits_for(precision, 1.0).output == ALLOWANCES[precision].ceiling > limits.output
    assert limits_for(precision, 1.0).scores == limits.scores > LIMITS["fp32"].scores
