"""Limits: fixed for well-conditioned models, wider with a model's own rounding, and never without end."""

from __future__ import annotations

import pytest

from tofe_export.errors import UsageError
from tofe_export.verify.limits import CEILING, LIMITS, limits_for


@pytest.mark.parametrize("rounding", [0.0, 3e-7, 1e-6])
def test_usual_rounding_changes_nothing(rounding: float) -> None:
    assert limits_for("fp32", rounding) == LIMITS["fp32"]


def test_a_badly_conditioned_model_gets_ten_times_its_own_rounding() -> None:
    assert limits_for("fp32", 2e-6).output == pytest.approx(2e-5)
    assert limits_for("fp32", 2e-6).scores == LIMITS["fp32"].scores


def test_rounding_excuses_only_so_much() -> None:
    assert limits_for("fp32", 0.1).output == CEILING


def test_a_precision_without_limits() -> None:
    with pytest.raises(UsageError, match="fp32"):
        limits_for("int3")
