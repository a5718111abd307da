"""Metrics of tasks of lm-eval: rows of what a task makes of each document, and how they become a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.errors import ExecutionError, Problem, RecipeError, UnsupportedError
from stockpot.evaluate.figures import ratio
from stockpot.evaluate.harness.rows import TEXTS, score_of_sums
from stockpot.evaluate.protocol import Metric, Predictions, mean
from stockpot.recipe.known import nearest

__all__ = ["FIGURES", "column", "measures", "registered", "width_of"]

Figure = Callable[[npt.NDArray[Any]], float]

_WIDTHS = {"weighted_perplexity": 2, "bits_per_byte": 2, "f1": 2, "matthews_corrcoef": 2, **TEXTS}
"""Aggregation → numbers of each document that it needs; one unless said here."""


def _median(values: npt.NDArray[Any]) -> float:
    """The upper one of the middle, as lm-eval takes it."""
    return float(np.sort(values)[len(values) // 2])


def _f1(values: npt.NDArray[Any]) -> float:
    """2 TP / (2 TP + FP + FN) of rows (right, predicted) of two classes, of which 1 is sought; 0 without any."""
    if not np.isin(values, (0, 1)).all():
        raise ExecutionError(Problem("f1 of labels other than 0 and 1, which lm-eval does not define"))
    both = float((values[:, 0] * values[:, 1]).sum())
    return 2 * both / float(values.sum()) if values.any() else 0.0


def _correlation(values: npt.NDArray[Any]) -> float:
    """Matthews' coefficient of rows (right, predicted), of any number of classes (Gorodkin, 2004); 0 of one class.

    With n examples, c of them right, t_k of class k and p_k predicted as k:
    (c n - Σ t_k p_k) / √((n² - Σ p_k²) (n² - Σ t_k²)).
    """
    _, numbers = np.unique(values, return_inverse=True)
    right, predicted = numbers.reshape(values.shape).T
    count, size = len(values), int(numbers.max()) + 1
    t, p = (np.bincount(column, minlength=size).astype(np.float64) for column in (right, predicted))
    below = float((count**2 - (p**2).sum()) * (count**2 - (t**2).sum()))
    return float(((right == predicted).sum() * count - (t * p).sum()) / np.sqrt(below)) if below else 0.0


FIGURES: Mapping[str, Figure] = {
    "mean": mean,
    "nanmean": lambda values: float(np.nanmean(values)),
    "median": _median,
    "perplexity": lambda values: float(np.exp(-values.mean())),
    "weighted_perplexity": lambda values: float(np.exp(-ratio(values))),
    "bits_per_byte": lambda values: -ratio(values) / float(np.log(2)),
    "f1": _f1,
    "matthews_corrcoef": _correlation,
    "brier_score": mean,
    **{name: partial(score_of_sums, name) for name in TEXTS},
}
"""Aggregation, by the name that lm-eval registers it under → the same of rows."""


def column(metric: str, filtered: str) -> str:
    """The column of what a task makes of each document, by metric and filter, as lm-eval names its results."""
    return f"{metric},{filtered}"


def measures(asked: Sequence[Metric | str], task: Any, filtered: str) -> tuple[Metric, ...]:
    """The metrics that are ``asked`` for, or else all of the task's that can be measured here, in its order.

    Args:
        task: One of lm-eval, built.
        filtered: The filter whose results are measured.

    Raises:
        RecipeError: for a metric that the task lacks.
        UnsupportedError: for one that is no figure of rows of numbers.
    """
    known = dict(task.aggregation())
    better = dict(task.higher_is_better())
    refused = {name: why for name, how in known.items() if (why := _refusal(how)) is not None}
    if not asked:
        asked = [name for name in known if name not in refused]
        if not asked:
            told = "; ".join(" is ".join(pair) for pair in refused.items())
            raise UnsupportedError(Problem(f"no metric of {task.config.task} can be measured here: {told}"))
    for one in asked:
        if isinstance(one, str) and one not in known:
            near = nearest(one, known)
            hint = f"did you mean {near}? " if near else ""
            fix = f"{hint}it has: {', '.join(known)}"
            raise RecipeError(Problem(f"{task.config.task} has no metric {one!r}", fix=fix))
        if isinstance(one, str) and one in refused:
            rest = ", ".join(name for name in known if name not in refused) or "another task"
            raise UnsupportedError(
                Problem(f"the metric {one} of {task.config.task} is {refused[one]}", fix=f"take {rest}")
            )
    return tuple(m if isinstance(m, Metric) else _measure(m, known[m], better[m], filtered) for m in asked)


def _measure(name: str, how: Any, higher: bool, filtered: str) -> Metric:
    own, known = column(name, filtered), registered(how)
    assert known is not None
    width = _WIDTHS.get(known, 1)

    def values(predictions: Predictions) -> npt.NDArray[Any]:
        rows = predictions[own]
        if rows.shape[1:] != (() if width == 1 else (width,)):
            message = f"{name} is aggregated as {known}, but its rows have the shape {rows.shape[1:]}"
            raise UnsupportedError(Problem(message))
        return rows

    return Metric(name, "higher" if higher else "lower", values, FIGURES[known])


def width_of(metric: str, task: Any) -> int:
    """How many numbers of each document a metric of ``task`` that is measured here needs."""
    return _WIDTHS.get(str(registered(task.aggregation()[metric])), 1)


def registered(how: Any) -> str | None:
    """The name of an aggregation that figures of rows are known of."""
    from lm_eval.api.registry import get_aggregation

    return next((name for name in FIGURES if get_aggregation(name) is how), None)


def _refusal(how: Any) -> str | None:
    """Why an aggregation is not measured; None where it is."""
    from lm_eval.api.registry import AGGREGATION_REGISTRY

    if registered(how) is not None:
        return None
    name = next((n for n in AGGREGATION_REGISTRY if AGGREGATION_REGISTRY[n] is how), None)
    told = name or f"the function {getattr(how, '__name__', how)}"
    return f"aggregated as {told} by code, not from a row of numbers for each document"
