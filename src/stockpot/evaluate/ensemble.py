"""Ensembles of outputs: what averaging weights is measured against. They cost as many passes as they have members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from stockpot.errors import ExecutionError, Problem
from stockpot.evaluate.metrics import classified
from stockpot.evaluate.protocol import EXAMPLE, Predictions
from stockpot.evaluate.why import same_examples

__all__ = ["Average", "Ensemble", "ensembled"]

Average: TypeAlias = Literal["probabilities", "logits"]
"""What is averaged."""

_COLUMNS = {"labels", "probabilities"}


@dataclass(frozen=True)
class Ensemble:
    """A row of a table that is made of the predictions of others.

    Args:
        name: How tables call it.
        members: Names of models in the same evaluation, at least one.
        of: What is averaged: ``probabilities``, or ``logits`` (the normalised geometric mean of probabilities).
    """

    name: str
    members: tuple[str, ...]
    of: Average = "probabilities"


def ensembled(of: Average, given: Sequence[Predictions]) -> Predictions | None:
    """The columns of the ensemble of ``given``; None where predictions hold no probabilities.

    The mean of logits needs no logits: ln p differs from them by one number for each example, which softmax ignores.

    >>> p = {"labels": np.array([0]), "probabilities": np.array([[0.8, 0.2]])}
    >>> q = {"labels": np.array([0]), "probabilities": np.array([[0.5, 0.5]])}
    >>> [ensembled(of, [p, q])["probabilities"].astype(float).round(3).tolist() for of in ("probabilities", "logits")]
    [[[0.65, 0.35]], [[0.667, 0.333]]]

    Raises:
        ExecutionError: when the members were given other examples or know other classes.
    """
    if not all(set(p) >= _COLUMNS for p in given):
        return None
    first = given[0]
    for other in given[1:]:
        same = same_examples(first, other) and np.array_equal(first["labels"], other["labels"])
        if not same or first["probabilities"].shape != other["probabilities"].shape:
            raise ExecutionError(Problem("the members of the ensemble have other examples or classes"))
    probabilities = _mean(of, [p["probabilities"].astype(np.float64) for p in given])
    told = {EXAMPLE: first[EXAMPLE]} if EXAMPLE in first else {}
    return {**told, **classified(probabilities, first["labels"])}


def _mean(of: Average, given: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Means of the rows, which sum to 1 as those of ``given`` do."""
    if of == "logits":
        logs = sum(np.log(np.maximum(p, np.finfo(np.float32).tiny)) for p in given) / len(given)
        powers = np.exp(logs - np.max(logs, axis=1, keepdims=True))
    else:
        powers = np.sum(given, axis=0)
    return np.asarray(powers / np.sum(powers, axis=1, keepdims=True))
