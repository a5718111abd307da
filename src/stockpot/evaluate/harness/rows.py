"""What a task of lm-eval makes of documents, as a row of numbers for each of them.

Figures of whole texts (BLEU, chrF, TER) are functions of sums over documents: of matching and possible n-grams, of
lengths and edits. These are the rows, as sacrebleu counts them, so that a figure of any documents costs one sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.errors import ExecutionError, Problem

__all__ = ["TEXTS", "numbers_of", "score_of_sums"]

TEXTS = {"bleu": 10, "chrf": 18, "chrf++": 24, "ter": 2}
"""Aggregation of whole texts → numbers of each document that it is a function of the sums of."""


def numbers_of(aggregation: str | None, values: Sequence[Any], what: str) -> npt.NDArray[np.float64] | None:
    """The rows, ``(n,)`` or ``(n, k)``; None where they are no numbers.

    Args:
        aggregation: How they are aggregated, by the name that lm-eval registers it under; None for a function.
        values: What ``process_results`` gives for each document.
        what: Metric and task, for errors.

    Raises:
        ExecutionError: when texts or probabilities are not those that ``aggregation`` is of.
    """
    if aggregation in TEXTS:
        return _counts(str(aggregation), values, what)
    return _distances(values, what) if aggregation == "brier_score" else _numbers(values)


def score_of_sums(aggregation: str, values: npt.NDArray[Any]) -> float:
    """The figure of documents, from 0 to 100 (TER: from 0), with sacrebleu's defaults, as lm-eval takes them."""
    sums = values.sum(axis=0).tolist()
    return float(_scorer(aggregation)._compute_score_from_stats(sums).score)  # noqa: SLF001 - the public way is of texts


@cache
def _scorer(aggregation: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

    if aggregation == "chrf++":
        return CHRF(word_order=2)
    return {"bleu": BLEU, "chrf": CHRF, "ter": TER}[aggregation]()


def _counts(aggregation: str, values: Sequence[Any], what: str) -> npt.NDArray[np.float64]:
    """Of pairs (reference or references, text); all have as many references as the one with fewest, as in lm-eval."""
    try:
        references = [[one] if isinstance(one, str) else list(one) for one, _ in values]
        texts = [text if isinstance(text, str) else _only(text) for _, text in values]
        sound = all(isinstance(one, str) for own in references for one in own) and all(references)
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise ExecutionError(Problem(f"{what} needs a text and its reference, or a list of these, of each document"))
    streams = list(zip(*references, strict=False))
    counts = _scorer(aggregation)._extract_corpus_statistics(texts, streams)  # noqa: SLF001 - the public way is of sums
    return np.asarray(counts, dtype=np.float64)


def _only(texts: Any) -> str:
    """The text of a list of one, as filters may leave it."""
    (text,) = texts
    if not isinstance(text, str):
        raise TypeError
    return text


def _distances(values: Sequence[Any], what: str) -> npt.NDArray[np.float64]:
    """Σ (p_c - [c is right])² over the choices c of each document, given (number of the right one, probabilities)."""
    found = []
    for right, probabilities in values:
        p = np.array(probabilities, dtype=np.float64)
        if not (isinstance(right, int | np.integer) and 0 <= right < len(p)):
            raise ExecutionError(Problem(f"{what} needs one right choice of each document, but one has {right!r}"))
        p[right] -= 1
        found.append(float((p**2).sum()))
    return np.array(found)


def _numbers(values: Sequence[Any]) -> npt.NDArray[np.float64] | None:
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        return None
    return array.astype(np.float64) if array.dtype.kind in "fiub" and array.ndim in (1, 2) else None
