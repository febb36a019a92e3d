"""Draws depend on their key alone, have the right distribution, and leave the global generators alone."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from tofe_export.training.seeding import AUGMENT, NOISE, logistic, permutation, seeded, words


def test_words_depend_on_the_whole_key() -> None:
    first = words(4, NOISE, 0, 1, 2)
    assert np.array_equal(first, words(4, NOISE, 0, 1, 2))
    keys = [
        (AUGMENT, 0, 1, 2),
        (NOISE, 1, 1, 2),
        (NOISE, 0, 2, 2),
        (NOISE, 0, 1, 3),
        (NOISE, 0, 1),
        (NOISE, -1, 1, 2),
    ]
    for key in keys:
        assert not np.array_equal(first, words(4, *key)), key


def test_words_are_the_same_on_every_machine() -> None:
    assert words(2, 1, 2, 3).tolist() == [13279728891206244966, 234311473967787377]


def test_permutation_holds_every_number_once() -> None:
    order = permutation(1000, 0, 7)
    assert sorted(order.tolist()) == list(range(1000))
    assert order.tolist() != list(range(1000))


def test_logistic_noise_has_its_distribution_and_is_finite() -> None:
    noise = logistic((3, 100_000), NOISE, 0)
    assert noise.shape == (3, 100_000)
    assert noise.dtype == torch.float32
    assert bool(noise.isfinite().all())
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(math.pi / math.sqrt(3), rel=0.01)
    below = [float((noise < cut).float().mean()) for cut in (-2.0, 0.0, 1.5)]
    assert below == pytest.approx([1 / (1 + math.exp(-cut)) for cut in (-2.0, 0.0, 1.5)], abs=0.005)


def test_logistic_noise_is_finite_at_the_ends_of_its_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = np.array([0, 2**64 - 1], np.uint64)
    monkeypatch.setattr("tofe_export.training.seeding.words", lambda count, *key: ends)
    low, high = logistic((2,), NOISE).tolist()
    assert -37 < low < -36
    assert 36 < high < 37


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_seeded_repeats_and_puts_the_global_generators_back() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = [draws(), draws()]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    found = [draws()]
    with seeded(AUGMENT, 0, 0, 5):
        inside = draws()
    found.append(draws())
    assert found == expected
    with seeded(AUGMENT, 0, 0, 5):
        assert draws() == inside
    with seeded(AUGMENT, 0, 0, 6):
        assert all(a != b for a, b in zip(draws(), inside, strict=True))


def test_seeded_puts_back_after_an_error() -> None:
    torch.manual_seed(3)
    expected = float(torch.rand(()))
    torch.manual_seed(3)
    with pytest.raises(ValueError, match="stop"), seeded(1):
        raise ValueError("stop")
    assert float(torch.rand(())) == expected
