"""Parameters that several elementwise methods share."""

from __future__ import annotations

from dataclasses import replace

from stockpot.methods.declare import SCOPE, Parameter

__all__ = ["DENSITY", "INT8_MASK", "MODEL_SCOPE", "NORMALIZE", "PROBABILITY", "TASK", "WEIGHT", "chosen"]

WEIGHT = Parameter("weight", "factor of each task vector", default=1.0, per_model=True)
DENSITY = Parameter("density", "share of entries kept", default=1.0, per_model=True, low=0.0, high=1.0)
PROBABILITY = Parameter("density", "probability that an entry is kept", default=1.0, per_model=True, low=0.0, high=1.0)
NORMALIZE = Parameter("normalize", "divide by the sum of the weights", default=False, kind="bool")
INT8_MASK = Parameter("int8_mask", "accepted from other tools; memory is bounded anyway", default=False, kind="ignored")
TASK = Parameter("task", "which of the models, counted from 1", kind="int", low=1.0)
MODEL_SCOPE = replace(SCOPE, default="model")
"""For methods whose source takes its statistics over the whole model."""


def chosen(task: float, models: int) -> tuple[float, ...]:
    """1 for model number ``task``, 0 for the others.

    Raises:
        ValueError: when there is no such model.
    """
    if not 1 <= task <= models:
        raise ValueError(f"task {task:g} is not one of the {models} models, which count from 1")
    return tuple(1.0 if k + 1 == int(task) else 0.0 for k in range(models))
