"""A small multilayer perceptron in NumPy: 64 pixels, two hidden layers, ten classes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from stockpot.demo.data import CLASSES, SIDE, FloatArray, IntArray

__all__ = ["WIDTHS", "Parameters", "initialise", "logits", "loss_and_gradient", "probabilities"]

Parameters: TypeAlias = Mapping[str, FloatArray]
"""``layers.i.weight`` is (out, in) and ``layers.i.bias`` is (out,), as PyTorch names them."""

WIDTHS = (SIDE * SIDE, 256, 128, CLASSES)


def initialise(rng: np.random.Generator, widths: tuple[int, ...] = WIDTHS) -> Parameters:
    """Draw He-normal weights and zero biases."""
    theta: dict[str, FloatArray] = {}
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        weight = rng.normal(0, np.sqrt(2 / fan_in), (fan_out, fan_in))
        theta[f"layers.{i}.weight"] = weight.astype(np.float32)
        theta[f"layers.{i}.bias"] = np.zeros(fan_out, np.float32)
    return theta


def logits(theta: Parameters, images: FloatArray) -> FloatArray:
    """Return the class scores ``(n, 10)`` of images ``(n, 8, 8)``."""
    return _activations(theta, images)[-1]


def probabilities(theta: Parameters, images: FloatArray) -> FloatArray:
    """Return the softmax of :func:`logits`: rows of ``(n, 10)`` sum to 1."""
    return _softmax(logits(theta, images))


def loss_and_gradient(
    theta: Parameters, images: FloatArray, labels: IntArray, smoothing: float = 0.0
) -> tuple[float, Parameters]:
    """Return the mean cross-entropy in nats and its gradient for every tensor.

    The target is ``1 - smoothing`` on the label plus ``smoothing / 10`` on every class.
    """
    hidden = _activations(theta, images)
    p = _softmax(hidden[-1])
    target = _targets(labels, p.shape[1], smoothing, p.dtype)
    loss = -float(np.mean(np.sum(target * np.log(p + np.finfo(p.dtype).tiny), axis=1)))
    error = np.asarray((p - target) / len(labels), dtype=p.dtype)  # (n, out), for the logits
    gradient: dict[str, FloatArray] = {}
    for i in reversed(range(len(theta) // 2)):
        gradient[f"layers.{i}.weight"] = error.T @ hidden[i]
        gradient[f"layers.{i}.bias"] = error.sum(axis=0)
        if i:
            error = (error @ theta[f"layers.{i}.weight"]) * (hidden[i] > 0)
    return loss, gradient


def _activations(theta: Parameters, images: FloatArray) -> list[FloatArray]:
    """Return the input of every layer, then the logits."""
    values = [images.reshape(len(images), -1)]
    depth = len(theta) // 2
    for i in range(depth):
        z = values[-1] @ theta[f"layers.{i}.weight"].T + theta[f"layers.{i}.bias"]
        values.append(z if i == depth - 1 else np.maximum(z, 0))
    return values


def _softmax(z: FloatArray) -> FloatArray:
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=z.dtype)


def _targets(labels: IntArray, classes: int, smoothing: float, dtype: np.dtype[np.float32]) -> FloatArray:
    target = np.full((len(labels), classes), smoothing / classes, dtype)
    target[np.arange(len(labels)), labels] += 1 - smoothing
    return target
