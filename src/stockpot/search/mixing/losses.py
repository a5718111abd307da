"""The loss of a model on a task, whatever the suite measures there, from predictions that are made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.errors import ExecutionError, Problem, RecipeError
from stockpot.evaluate.figures import ratio
from stockpot.evaluate.opened import Opened
from stockpot.evaluate.protocol import Files, Metric, Predictions, Task
from stockpot.evaluate.suite import Suite
from stockpot.search.objective import Objective

__all__ = ["LOSS", "fitting", "with_loss"]


def _rows(predictions: Predictions) -> npt.NDArray[Any]:
    """(loss, how much it counts) of each example."""
    if {"nll", "tokens"} <= predictions.keys():
        pair = (predictions["nll"], predictions["tokens"])
    elif "loss" in predictions:
        pair = (predictions["loss"], np.ones(len(predictions["loss"])))
    else:
        fix = "a task that gives probabilities or a column loss, or nll and tokens"
        raise ExecutionError(Problem(f"there is no loss among {', '.join(predictions)}", fix=fix))
    return np.stack([part.astype(np.float64) for part in pair], axis=1)


LOSS = Metric("loss", "lower", _rows, ratio)
"""Nats a token of texts, else nats an example."""


@dataclass(frozen=True)
class _Lossy:
    """A task of which only the loss is measured; predictions are the same."""

    task: Task
    metrics: tuple[Metric, ...] = (LOSS,)

    @property
    def facts(self) -> Mapping[str, Any]:
        """Those of the task."""
        return self.task.facts

    def examples(self, files: Files) -> list[bytes]:
        """Those of the task."""
        return self.task.examples(files)

    def predict(self, model: Opened, files: Files) -> Predictions:
        """What the task predicts."""
        return self.task.predict(model, files)


def fitting(suite: Suite, objective: Objective, fit: str) -> Suite:
    """The tasks of ``objective`` with their data, all of which must have data for ``fit``.

    Raises:
        RecipeError: names those that have none.
    """
    own = objective.within(suite)
    lacking = [task.name for task in own.tasks if fit not in task.data]
    if lacking:
        fix = f"split: {{{fit}: FILE, …}}" + (
            "" if fit == "select" else "; or fit on the data that chooses: --fit select"
        )
        raise RecipeError(Problem(f"there is no data to {fit} with in the task {', '.join(lacking)}", fix=fix))
    return own


def with_loss(suite: Suite) -> tuple[Suite, Objective]:
    """``suite`` with nothing but losses to measure, and their mean over tasks."""
    tasks = tuple(replace(task, task=_Lossy(task.task)) for task in suite.tasks)
    return replace(suite, tasks=tasks), Objective(_parts([task.name for task in tasks]), "lower")


def _parts(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, LOSS.name) for name in names)
