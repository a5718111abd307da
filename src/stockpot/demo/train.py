"""Train the network by stochastic gradient descent with momentum and a cosine schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from stockpot.demo.data import FloatArray, IntArray, Shift, Split
from stockpot.demo.network import Parameters, loss_and_gradient

__all__ = ["Gradient", "Schedule", "train"]

Gradient: TypeAlias = Callable[[Parameters, FloatArray, IntArray, float], tuple[float, Parameters]]
"""Weights, images, labels, label smoothing → mean loss, and its gradient for every tensor."""


@dataclass(frozen=True)
class Schedule:
    """How one run trains.

    ``rate`` is the peak learning rate, which falls to zero along half a cosine; ``shift`` is
    drawn anew for every image in every epoch. Gradients longer than ``clip`` (2-norm) are shortened
    to it, which keeps even a diverging run finite. ``decay`` is the L2 penalty's factor; tensors
    whose names begin with one of ``fixed`` stay as they are.
    """

    epochs: int
    rate: float
    seed: int
    batch: int = 32
    momentum: float = 0.9
    smoothing: float = 0.0
    clip: float = 5.0
    shift: Shift | None = None
    decay: float = 0.0
    fixed: tuple[str, ...] = ()


def train(start: Parameters, split: Split, schedule: Schedule, gradient_of: Gradient = loss_and_gradient) -> Parameters:
    """Return the weights reached from ``start``; the same arguments give the same bits.

    ``gradient_of`` is that of the network, by default the demo's own.
    """
    rng = np.random.default_rng(schedule.seed)
    theta = {name: value.copy() for name, value in start.items()}
    speed = {name: np.zeros_like(value) for name, value in start.items()}
    steps_an_epoch = -(-len(split.labels) // schedule.batch)
    total = schedule.epochs * steps_an_epoch
    for step in range(total):
        if step % steps_an_epoch == 0:
            seen = split if schedule.shift is None else split.changed(schedule.shift, rng)
            order = rng.permutation(len(seen.labels))
        first = step % steps_an_epoch * schedule.batch
        rows = order[first : first + schedule.batch]
        _, found = gradient_of(theta, seen.images[rows], seen.labels[rows], schedule.smoothing)
        gradient = _decayed(found, theta, schedule)
        rate = schedule.rate * (1 + np.cos(np.pi * step / total)) / 2
        _move(theta, speed, _clipped(gradient, schedule.clip), rate, schedule.momentum)
    return theta


def _decayed(gradient: Parameters, theta: Parameters, schedule: Schedule) -> Parameters:
    """Return ``gradient`` with the penalty's, of the tensors that move."""
    moving = {name: g for name, g in gradient.items() if not name.startswith(schedule.fixed)}
    if not schedule.decay:
        return moving
    return {name: g + np.float32(schedule.decay) * theta[name] for name, g in moving.items()}


def _clipped(gradient: Parameters, limit: float) -> Parameters:
    """Return ``gradient``, shortened to the 2-norm ``limit`` over all tensors if it is longer."""
    norm = float(np.sqrt(sum(float(np.vdot(g, g)) for g in gradient.values())))
    if norm <= limit:
        return gradient
    return {name: g * np.float32(limit / norm) for name, g in gradient.items()}


def _move(
    theta: dict[str, FloatArray],
    speed: dict[str, FloatArray],
    gradient: Parameters,
    rate: float,
    momentum: float,
) -> None:
    """Update in place: speed = momentum speed + gradient; theta = theta - rate speed."""
    for name, g in gradient.items():
        speed[name] *= np.float32(momentum)
        speed[name] += g
        theta[name] -= np.float32(rate) * speed[name]
