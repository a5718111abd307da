"""What trains the models of beds in torch: one thread, AdamW, one shape of the learning rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Schedule", "descend", "torch_with"]

_RISE = 20
"""Steps until the rate is at its highest."""


@dataclass(frozen=True)
class Schedule:
    """How a model is trained, by AdamW whose rate rises over 20 steps and then falls to 0.

    Args:
        batch: Examples of a step.
        rate: Highest learning rate.
        decay: Of weights.
        smoothing: Of labels.
        dropped: Share of words that are hidden.
    """

    steps: int
    rate: float
    batch: int = 32
    decay: float = 0.0
    smoothing: float = 0.0
    dropped: float = 0.1


def torch_with(*packages: str) -> Any:
    """Torch, on one thread: these networks are too small for more, and sums are the same on every machine.

    Raises:
        UnsupportedError: when it, or one of ``packages``, is missing.
    """
    from stockpot.evaluate.neural import need

    need("torch", *packages)
    import torch

    torch.set_num_threads(1)
    return torch


def descend(tensors: Sequence[Any], loss: Callable[[int], Any], schedule: Schedule) -> None:
    """Change ``tensors`` in place by the steps of ``schedule``; ``loss`` is given the number of the step."""
    optimiser = torch_with().optim.AdamW(tensors, lr=schedule.rate, weight_decay=schedule.decay)
    for step in range(schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate * min(1.0, (step + 1) / _RISE) * (1 - step / schedule.steps)
        optimiser.zero_grad()
        loss(step).backward()
        optimiser.step()
