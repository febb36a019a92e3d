"""The histogram: bounded, exact about maxima, and its cuts where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from tofe_export.calibration.histogram import BINS, Histogram


def of(values: np.ndarray, parts: int = 1) -> Histogram:
    histogram = Histogram()
    for part in np.array_split(values.astype(np.float32), parts):
        histogram.add(part)
    return histogram


def test_counts_everything_in_a_fixed_number_of_bins() -> None:
    values = np.random.RandomState(0).standard_normal(10_000) * np.logspace(-3, 3, 10_000)
    histogram = of(values, parts=17)
    assert histogram.counts.shape == (BINS,)
    assert histogram.counts.sum() == 10_000
    assert histogram.largest == pytest.approx(np.abs(values).max(), rel=1e-6)
    assert histogram.limit >= histogram.largest


def test_growing_keeps_what_was_counted() -> None:
    histogram = of(np.append(np.full(100, 0.9), 1.0))
    histogram.add(np.full(1, 1000.0, np.float32))
    width = histogram.limit / BINS
    assert histogram.counts[int(0.9 / width)] == 101
    assert histogram.counts[int(1000.0 / width)] == 1


def test_order_matters_little() -> None:
    values = np.random.RandomState(1).standard_exponential(50_000)
    rising, falling = of(np.sort(values), 20), of(np.sort(values)[::-1], 20)
    assert rising.percentile(99.9) == pytest.approx(falling.percentile(99.9), rel=0.01)


@pytest.mark.parametrize("percent", [50.0, 99.0, 99.9])
def test_percentiles_are_numpys(percent: float) -> None:
    values = np.random.RandomState(2).standard_normal(100_000)
    expected = np.percentile(np.abs(values), percent)
    assert of(values, 7).percentile(percent) == pytest.approx(expected, abs=3 * np.abs(values).max() / BINS)


def test_entropy_ignores_a_lonely_outlier() -> None:
    values = np.random.RandomState(3).standard_normal(100_000)
    cut = of(np.append(values, 100.0), 3).entropy()
    assert 3.0 < cut < 30.0


def test_entropy_keeps_an_even_distribution_whole() -> None:
    values = np.random.RandomState(4).uniform(-1, 1, 100_000)
    assert of(values).entropy() > 0.9


def test_entropy_is_near_onnxruntimes(capsys: pytest.CaptureFixture[str]) -> None:
    from onnxruntime.quantization.calibrate import HistogramCollector

    values = np.random.RandomState(5).standard_t(3, 100_000).astype(np.float32)
    theirs = HistogramCollector("entropy", True, 2 * BINS, 255, None, None)
    theirs.collect({"x": values})
    low, high, *_ = theirs.compute_collection_result()["x"]
    capsys.readouterr()
    assert max(-float(low), float(high)) == pytest.approx(of(values).entropy(), rel=0.35)


def test_zeros_and_nothing() -> None:
    histogram = of(np.zeros(10))
    assert (histogram.limit, histogram.percentile(99.9), histogram.entropy()) == (0.0, 0.0, 0.0)
    assert histogram.counts.sum() == 10
    assert Histogram().largest == 0.0


@pytest.mark.parametrize("tiny", [1e-38, 1e-42])
def test_numbers_that_nearly_vanish_are_counted(tiny: float) -> None:
    histogram = of(np.array([0.0, tiny, -tiny]))
    assert histogram.counts.sum() == 3
    assert histogram.percentile(99.9) == histogram.largest == pytest.approx(tiny, rel=1e-2)
    histogram.add(np.full(7, 3.0, np.float32))
    assert histogram.counts.sum() == 10
    assert histogram.percentile(99.9) == 3.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Histogram().add(np.array([1.0, bad], np.float32))
