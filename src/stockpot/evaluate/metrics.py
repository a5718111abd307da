"""The built-in metrics, by name; each says which columns it needs by using them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.errors import ExecutionError, Problem
from stockpot.evaluate.figures import calibration_error, ratio, spearman
from stockpot.evaluate.protocol import Metric, Predictions

__all__ = ["METRICS", "classified", "figure_of", "values_of"]

_NATS_PER_BIT = float(np.log(2))


def _agrees(column: str) -> Callable[[Predictions], npt.NDArray[Any]]:
    return lambda p: (p[column] == p["labels"]).astype(np.float64)


def _columns(*names: str) -> Callable[[Predictions], npt.NDArray[Any]]:
    return lambda p: np.stack([p[name].astype(np.float64) for name in names], axis=1)


def _confident(p: Predictions) -> npt.NDArray[Any]:
    return np.stack([(p["predicted"] == p["labels"]).astype(np.float64), p["confidence"].astype(np.float64)], axis=1)


def _perplexity(values: npt.NDArray[Any]) -> float:
    return float(np.exp(ratio(values)))


def _bits(values: npt.NDArray[Any]) -> float:
    return ratio(values) / _NATS_PER_BIT


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("accuracy", "higher", _agrees("predicted")),
            Metric("accuracy_bytes", "higher", _agrees("predicted_bytes")),
            Metric("accuracy_tokens", "higher", _agrees("predicted_tokens")),
            Metric("loss", "lower", lambda p: p["loss"].astype(np.float64)),
            Metric("calibration_error", "lower", _confident, calibration_error),
            Metric("perplexity", "lower", _columns("nll", "tokens"), _perplexity),
            Metric("bits_per_byte", "lower", _columns("nll", "bytes"), _bits),
            Metric("spearman", "higher", _columns("cosine", "score"), spearman),
        )
    }
)
"""Name → metric."""


def values_of(metric: Metric, predictions: Predictions) -> npt.NDArray[Any]:
    """The rows of ``metric``, checked.

    Raises:
        ExecutionError: when a column is missing, or the rows are not numbers or not as many as examples.
    """
    try:
        values = np.asarray(metric.values(_to_read(predictions)))
    except KeyError as error:
        given = ", ".join(predictions)
        message = f"{metric.name} needs a column {error.args[0]!r}, which the predictions do not have"
        raise ExecutionError(Problem(message, fix=f"they have: {given}")) from error
    count = len(next(iter(predictions.values()), ()))
    if values.ndim not in (1, 2) or len(values) != count or values.dtype.kind not in "fiub":
        message = (
            f"{metric.name} gives {values.dtype} of shape {values.shape}, not a row of numbers for each of {count}"
        )
        raise ExecutionError(Problem(message))
    if not count:
        raise ExecutionError(Problem(f"{metric.name} of no examples"))
    return values.astype(np.float64)


def _to_read(predictions: Predictions) -> Predictions:
    """``predictions`` that a metric cannot change for those after it."""
    views = {name: column.view() for name, column in predictions.items()}
    for view in views.values():
        view.flags.writeable = False
    return MappingProxyType(views)


def figure_of(metric: Metric, values: npt.NDArray[Any]) -> float:
    """The figure of all rows.

    Raises:
        ExecutionError: when it is not finite.
    """
    found = float(metric.figure(values.copy()))  # it may sort them, and resamples are of the rows in order
    if not math.isfinite(found):
        raise ExecutionError(Problem(f"{metric.name} is {found}, not a finite number"))
    return found


def classified(probabilities: npt.NDArray[Any], labels: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """The columns of a classifier: labels, predicted, confidence, loss (nats), probabilities (as float32).

    Args:
        probabilities: ``(n, classes)``, rows that sum to 1.
        labels: ``(n,)`` whole numbers in 0 … classes - 1.
    """
    predicted = np.argmax(probabilities, axis=1)
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return {
        "labels": labels.astype(np.int64),
        "predicted": predicted.astype(np.int64),
        "confidence": probabilities.max(axis=1).astype(np.float64),
        "probabilities": probabilities.astype(np.float32),
        "loss": -np.log(np.maximum(own, np.finfo(np.float64).tiny)),
    }
