"""Training's promises: it learns, it repeats to the bit, it leaves its start alone."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.demo.data import BROAD, load_splits
from stockpot.demo.network import initialise, loss_and_gradient
from stockpot.demo.train import Schedule, train


@pytest.fixture(scope="module")
def tune():
    """The images that fine-tunes are trained on."""
    return load_splits(0).tune


def test_training_lowers_the_loss_and_keeps_the_start(tune):
    """Five epochs halve the loss at least; the weights passed in are not touched."""
    start = initialise(np.random.default_rng(0))
    before = {name: value.copy() for name, value in start.items()}
    theta = train(start, tune, Schedule(epochs=5, rate=0.02, seed=1))
    first, _ = loss_and_gradient(start, tune.images, tune.labels)
    last, _ = loss_and_gradient(theta, tune.images, tune.labels)
    assert last < first / 2
    assert all(np.array_equal(start[name], before[name]) for name in start)
    assert all(value.dtype == np.float32 for value in theta.values())


def test_the_seed_decides_the_run(tune):
    """The same seed gives the same bits, another seed other weights."""
    start = initialise(np.random.default_rng(0))
    runs = [train(start, tune, Schedule(epochs=1, rate=0.02, seed=seed, shift=BROAD)) for seed in (1, 1, 2)]
    assert all(np.array_equal(runs[0][name], runs[1][name]) for name in start)
    assert not all(np.array_equal(runs[0][name], runs[2][name]) for name in start)


def test_zero_rate_stays_at_the_start(tune):
    """With learning rate 0 the weights do not move."""
    start = initialise(np.random.default_rng(0))
    theta = train(start, tune, Schedule(epochs=1, rate=0.0, seed=0))
    assert all(np.array_equal(start[name], theta[name]) for name in start)


def test_a_diverging_run_stays_finite(tune):
    """Clipped gradients bound every step, so even an absurd rate gives weights that can be saved."""
    start = initialise(np.random.default_rng(0))
    theta = train(start, tune, Schedule(epochs=1, rate=1000.0, seed=0))
    assert all(np.isfinite(value).all() for value in theta.values())
    assert max(float(abs(value).max()) for value in theta.values()) > 100
