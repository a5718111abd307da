"""Embeddings of sentences: similarity of pairs, and a linear probe for classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stockpot.errors import ExecutionError, Problem
from stockpot.evaluate.examples import Row, content_of, digest, keys_of, read_rows
from stockpot.evaluate.metrics import classified
from stockpot.evaluate.neural import need
from stockpot.evaluate.opened import Opened
from stockpot.evaluate.protocol import EXAMPLE, Files, Metric, Predictions
from stockpot.evaluate.sentences import embedded
from stockpot.execute.versions import versions_of

__all__ = ["Probe", "Similarity"]

_USED = ("torch", "transformers", "tokenizers")


@dataclass(frozen=True)
class Similarity:
    """Lines of ``{"a": …, "b": …, "score": 0.7}``: the cosine of embeddings beside a human's score.

    Embeddings are made as the model's own files say: see :mod:`stockpot.evaluate.sentences`.

    Args:
        max_tokens: Of a sentence, special tokens included; the rest is left out. None takes what the model is
            made for, at most 2048.
        batch_tokens: Tokens that are computed at a time; no figure depends on it.
    """

    metrics: tuple[Metric, ...]
    max_tokens: int | None = None
    batch_tokens: int = 8192
    facts: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "facts",
            {"kind": "similarity", "embeddings": "modules", "most": self.max_tokens, **versions_of(*_USED)},
        )

    def examples(self, files: Files) -> list[bytes]:
        """Of pairs of sentences."""
        return _pairs(read_rows(files, _wrong_pair))

    def predict(self, model: Opened, files: Files) -> Predictions:
        """cosine, score."""
        rows = read_rows(files, _wrong_pair)
        texts = list(dict.fromkeys(text for row in rows for text in (row["a"], row["b"])))
        found = embedded(model, texts, self.max_tokens, self.batch_tokens)
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        units = dict(zip(texts, found / np.maximum(lengths, np.finfo(np.float64).tiny), strict=True))
        cosine = np.array([float(units[row["a"]] @ units[row["b"]]) for row in rows])
        return {EXAMPLE: keys_of(_pairs(rows)), "cosine": cosine, "score": np.array([float(r["score"]) for r in rows])}


@dataclass(frozen=True)
class Probe:
    """Lines of ``{"text": …, "label": …}``: logistic regression on frozen embeddings.

    It is fitted on the files of ``train``, whose mean and deviation also standardise every dimension.

    Args:
        train: Files of the probe's own; they are no split of the suite.
        strength: Inverse of the L2 penalty (scikit-learn's C).
        max_tokens, batch_tokens: As for similarity.
    """

    metrics: tuple[Metric, ...]
    train: Files
    strength: float = 1.0
    max_tokens: int | None = None
    batch_tokens: int = 8192
    facts: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        settings = [content_of(self.train), self.strength, self.max_tokens]
        told = {"kind": "probe", "embeddings": "modules", "settings": settings, **versions_of(*_USED, "scikit-learn")}
        object.__setattr__(self, "facts", told)

    def examples(self, files: Files) -> list[bytes]:
        """Of texts, whatever their labels."""
        return [digest(row["text"]) for row in read_rows(files, _wrong_text)]

    def predict(self, model: Opened, files: Files) -> Predictions:
        """The columns of a classifier; classes are the labels of ``train`` in order."""
        need("sklearn")
        from sklearn.linear_model import LogisticRegression

        train, rows = read_rows(self.train, _wrong_text), read_rows(files, _wrong_text)
        names = sorted({str(row["label"]) for row in train})
        strange = sorted({str(row["label"]) for row in rows} - set(names))
        if len(names) < 2 or strange:
            told = f"a label that train does not have: {strange[0]!r}" if strange else "train has only one label"
            raise ExecutionError(Problem(told, fix="train needs examples of every label"))
        texts = [row["text"] for row in (*train, *rows)]
        found = embedded(model, texts, self.max_tokens, self.batch_tokens)
        centre, spread = found[: len(train)].mean(axis=0), found[: len(train)].std(axis=0)
        found = (found - centre) / np.where(spread > 0, spread, 1)
        classes = np.array([names.index(str(row["label"])) for row in (*train, *rows)])
        fitted = LogisticRegression(C=self.strength, max_iter=1000).fit(found[: len(train)], classes[: len(train)])
        probabilities = fitted.predict_proba(found[len(train) :])
        keys = keys_of(digest(row["text"]) for row in rows)
        return {EXAMPLE: keys, **classified(probabilities, classes[len(train) :])}


def _wrong_pair(row: Row) -> str | None:
    if not all(isinstance(row.get(key), str) for key in ("a", "b")):
        return 'needs "a" and "b", two texts'
    score = row.get("score")
    good = isinstance(score, int | float) and not isinstance(score, bool) and np.isfinite(score)
    return None if good else 'needs "score", a number'


def _wrong_text(row: Row) -> str | None:
    if not isinstance(row.get("text"), str):
        return 'needs "text", a text'
    return None if isinstance(row.get("label"), str | int) else 'needs "label", a text or a whole number'


def _pairs(rows: Sequence[Row]) -> list[bytes]:
    return [digest(row["a"], row["b"]) for row in rows]
