"""Accuracy of a model, or of an ensemble, on clean and shifted images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stockpot.demo.data import TEST_SHIFTS, Split
from stockpot.demo.network import Parameters, probabilities
from stockpot.demo.results import CLEAN, Scores

__all__ = ["Benchmark", "make_benchmark"]


@dataclass(frozen=True)
class Benchmark:
    """The same images clean and under every shift, by column name."""

    columns: Mapping[str, Split]

    def score(self, *models: Parameters) -> Scores:
        """Score one model, or the ensemble of several: the mean of their probabilities."""
        return Scores({name: _accuracy(models, split) for name, split in self.columns.items()})


def make_benchmark(split: Split, seed: int, draws: int) -> Benchmark:
    """Shift every image ``draws`` times with random numbers fixed by ``seed``."""
    columns = {CLEAN: split}
    for i, (name, shift) in enumerate(TEST_SHIFTS.items()):
        rng = np.random.default_rng((seed, i))
        parts = [split.changed(shift, rng) for _ in range(draws)]
        columns[name] = Split(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )
    return Benchmark(columns)


def _accuracy(models: Sequence[Parameters], split: Split) -> float:
    total = sum(probabilities(theta, split.images) for theta in models)
    return float(np.mean(np.argmax(total, axis=1) == split.labels))
