"""Figures and intervals, beside other computations of the same."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from stockpot.evaluate.figures import Bootstrap, calibration_error, ratio, spearman
from stockpot.evaluate.metrics import METRICS
from stockpot.evaluate.protocol import mean


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of 400 samples of 100 with a known mean, some 95 % have intervals that hold it (binomial sd 1.1 %)."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        values = (rng.random(100) < 0.7).astype(np.float64)
        boot = Bootstrap(0, 400)
        low, high = boot.interval(boot.figures(values, mean))
        held.append(low <= 0.7 <= high)
    assert 0.91 <= np.mean(held) <= 0.98


def test_interval_of_a_mean_is_that_of_the_normal_law():
    """With 2,000 examples the percentiles lie where mean ± 1.96 sd / √n lies."""
    values = np.random.default_rng(1).normal(3, 2, 2000)
    boot = Bootstrap(7, 4000)
    low, high = boot.interval(boot.figures(values, mean))
    half = 1.96 * values.std() / np.sqrt(2000)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_draws_are_a_function_of_seed_and_count():
    """The same seed draws the same examples for every model; a fast mean is the plain one; chunks change nothing."""
    values = np.random.default_rng(2).random(50)
    boot = Bootstrap(3, 200)
    found = boot.figures(values, mean)
    assert np.array_equal(found, boot.figures(values, mean))
    np.testing.assert_allclose(found, boot.figures(values, lambda v: float(sum(v)) / len(v)), rtol=1e-12)
    assert not np.array_equal(found, Bootstrap(4, 200).figures(values, mean))


def test_paired_differences_are_narrower_than_apart():
    """Two models that differ on few examples differ by less than their intervals tell."""
    rng = np.random.default_rng(5)
    one = (rng.random(300) < 0.6).astype(np.float64)
    other = one.copy()
    other[:10] = 1
    boot = Bootstrap(0, 1000)
    a, b = (boot.figures(v, mean) for v in (one, other))
    low, high = boot.interval(b - a)
    assert 0 <= low < other.mean() - one.mean() < high < 0.03
    assert np.ptp(boot.interval(a)) > 0.1


def test_calibration_by_hand():
    """Bins are (0, 1/15], …: 0.4 and 0.41 fall on two sides of 6/15; each bin counts by its examples."""
    rows = np.array([[1, 0.40], [0, 0.40], [1, 0.41], [1, 1.0], [1, 0.99], [0, 0.0]])
    by_hand = (abs(1 - 0.8) + abs(1 - 0.41) + abs(2 - 1.99) + 0) / 6
    assert calibration_error(rows) == pytest.approx(by_hand)


def test_perfectly_calibrated_has_no_error():
    """Four of five right at confidence 0.8 is no error; at 0.9 it is 0.1."""
    right = np.array([1, 1, 1, 1, 0.0])
    assert calibration_error(np.stack([right, np.full(5, 0.8)], axis=1)) == pytest.approx(0)
    assert calibration_error(np.stack([right, np.full(5, 0.9)], axis=1)) == pytest.approx(0.1)


@pytest.mark.parametrize("ties", [False, True], ids=["apart", "ties"])
def test_rank_correlation_is_scipys(ties):
    """Spearman's rho with and without ties; that of a constant is not a number."""
    rows = np.random.default_rng(6).normal(size=(40, 2))
    rows = np.round(rows) if ties else rows
    assert spearman(rows) == pytest.approx(spearmanr(rows[:, 0], rows[:, 1]).statistic)
    assert np.isnan(spearman(np.ones((4, 2))))


def test_perplexity_weighs_by_tokens():
    """exp(Σ nll / Σ tokens), not the mean over windows; bits per byte likewise, in bits."""
    columns = {"nll": np.array([2.0, 12.0]), "tokens": np.array([1, 9]), "bytes": np.array([4, 36])}
    perplexity, bits = METRICS["perplexity"], METRICS["bits_per_byte"]
    assert perplexity.figure(perplexity.values(columns)) == pytest.approx(np.exp(1.4))
    assert bits.figure(bits.values(columns)) == pytest.approx(14 / 40 / np.log(2))
    assert ratio(np.array([[1.0, 2.0], [3.0, 2.0]])) == 1


def test_resamples_of_one_example_are_left_out():
    """Rank correlation of few examples has intervals, though some resamples have none."""
    rows = np.array([[1, 1], [2, 3], [3, 2.0]])
    boot = Bootstrap(0, 200)
    figures = boot.figures(rows, spearman)
    assert np.isnan(figures).any()
    assert np.isfinite(boot.interval(figures)).all()


@pytest.mark.parametrize("count", [50, 30_000])
def test_draws_that_are_kept_are_those_that_are_not(count):
    """The examples of a resample do not depend on whether draws are held for the next model, or made in pieces."""
    values = np.random.default_rng(4).random(count)
    rows = np.random.default_rng((5, count)).integers(0, count, (200, count))
    for _ in range(2):
        np.testing.assert_array_equal(Bootstrap(5, 200).figures(values, mean), values[rows].mean(axis=1))
