"""The network's promises: the gradient is the loss's derivative, outputs are probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.demo.network import initialise, loss_and_gradient, probabilities

WIDTHS = (64, 7, 5, 10)


def _case(seed: int):
    """Small float64 network (central differences need the digits) with images and labels."""
    rng = np.random.default_rng(seed)
    theta = {name: value.astype(np.float64) for name, value in initialise(rng, WIDTHS).items()}
    for value in theta.values():  # moves biases away from 0, so that no unit sits on its kink
        value[...] += rng.normal(0, 0.1, value.shape)
    return theta, rng.random((6, 8, 8)), rng.integers(0, 10, 6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_gradient_is_the_derivative_of_the_loss(seed, smoothing):
    """Every entry of the backward pass agrees with a central difference of the forward pass."""
    theta, images, labels = _case(seed)
    _, gradient = loss_and_gradient(theta, images, labels, smoothing)
    step = 1e-6
    for name, value in theta.items():
        expected = np.empty_like(value)
        for index in np.ndindex(value.shape):
            around = []
            for sign in (1, -1):
                moved = value.copy()
                moved[index] += sign * step
                loss, _ = loss_and_gradient({**theta, name: moved}, images, labels, smoothing)
                around.append(loss)
            expected[index] = (around[0] - around[1]) / (2 * step)
        np.testing.assert_allclose(gradient[name], expected, rtol=1e-5, atol=1e-8)


def test_loss_is_the_cross_entropy_of_the_label():
    """Without smoothing the loss is the mean of -log p(label)."""
    theta, images, labels = _case(0)
    loss, _ = loss_and_gradient(theta, images, labels)
    p = probabilities(theta, images)
    assert loss == pytest.approx(-np.mean(np.log(p[np.arange(len(labels)), labels])), rel=1e-12)


def test_outputs_are_probabilities_even_for_huge_weights():
    """Rows are non-negative and sum to 1, also where exp would overflow."""
    theta, images, _ = _case(1)
    for scale in (1.0, 1e4):
        p = probabilities({name: scale * value for name, value in theta.items()}, images)
        assert np.all(p >= 0)
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-9)


def test_weights_are_float32_and_named_as_in_pytorch():
    """Weights are (out, in), so that the files look like those of torch.nn.Linear."""
    theta = initialise(np.random.default_rng(0), WIDTHS)
    assert {name: value.shape for name, value in theta.items()} == {
        "layers.0.weight": (7, 64),
        "layers.0.bias": (7,),
        "layers.1.weight": (5, 7),
        "layers.1.bias": (5,),
        "layers.2.weight": (10, 5),
        "layers.2.bias": (10,),
    }
    assert all(value.dtype == np.float32 for value in theta.values())
