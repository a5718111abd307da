"""Why did it help? Base, fine-tuned and merged model compared on the same examples.

A cell of the table is three letters, T(rue) or F(alse), for base, fine-tuned and merged. FFT counts what only the
merged model gets right, TTF what only it gets wrong: the first alone would count wins without losses (after Lin et
al., "Spurious feature diversification improves out-of-distribution generalization", ICLR 2024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.evaluate.figures import calibration_error
from stockpot.evaluate.protocol import EXAMPLE, Predictions

__all__ = ["CELLS", "Pair", "Triple", "compare", "compare_all", "same_examples"]

CELLS = tuple("".join(letters) for letters in product("TF", repeat=3))
"""The eight cells, from TTT to FFF."""


@dataclass(frozen=True)
class Pair:
    """Two classifiers on the same examples.

    Args:
        agreement: Share of examples with the same prediction, right or wrong.
        error_overlap: Share of the examples that either gets wrong which both get wrong; None when both are perfect.
    """

    models: tuple[str, str]
    agreement: float
    error_overlap: float | None


@dataclass(frozen=True)
class Triple:
    """Base, fine-tuned and merged model on one task.

    Args:
        models: Their names, in this order.
        cells: TTT … FFF → number of examples.
        pairs: Base and fine-tuned, base and merged, fine-tuned and merged.
        calibration: Name → expected calibration error; absent where predictions have no confidence.
    """

    task: str
    models: tuple[str, str, str]
    examples: int
    cells: Mapping[str, int]
    pairs: tuple[Pair, ...]
    calibration: Mapping[str, float]

    @property
    def only_merged_right(self) -> float:
        """FFT as a share of all examples."""
        return self.cells["FFT"] / self.examples

    @property
    def only_merged_wrong(self) -> float:
        """TTF as a share of all examples."""
        return self.cells["TTF"] / self.examples


def same_examples(one: Predictions, other: Predictions) -> bool:
    """Whether rows of the two may be compared: the same examples in the same order, or, untold, as many."""
    lengths = {len(next(iter(p.values()))) for p in (one, other)}
    told = [p.get(EXAMPLE) for p in (one, other)]
    if len(lengths) > 1 or (told[0] is None) != (told[1] is None):
        return False
    return told[0] is None or bool(np.array_equal(told[0], told[1]))  # type: ignore[arg-type] # both are there


def compare(task: str, names: tuple[str, str, str], given: Sequence[Predictions]) -> Triple | None:
    """The comparison of three models; None where predictions are no classes or of other examples."""
    if not all({"labels", "predicted"} <= set(p) for p in given):
        return None
    if not all(same_examples(given[0], p) and np.array_equal(given[0]["labels"], p["labels"]) for p in given[1:]):
        return None
    right = [np.asarray(p["predicted"] == p["labels"]) for p in given]
    counts = {cell: _count(right, cell) for cell in CELLS}
    pairs = tuple(
        Pair((names[i], names[j]), *_pair(given[i]["predicted"], given[j]["predicted"], right[i], right[j]))
        for i, j in ((0, 1), (0, 2), (1, 2))
    )
    calibration = {
        name: calibration_error(np.stack([r.astype(np.float64), p["confidence"]], axis=1))
        for name, r, p in zip(names, right, given, strict=True)
        if "confidence" in p
    }
    return Triple(task, names, len(right[0]), counts, pairs, calibration)


def compare_all(task: str, known: Mapping[str, Predictions], models: Sequence[str]) -> tuple[Triple, ...]:
    """The first model as base and the last as merged, with each model between them as the fine-tuned one."""
    if len(models) < 3:
        return ()
    triples = [(models[0], middle, models[-1]) for middle in models[1:-1]]
    found = [compare(task, t, [known[m] for m in t]) for t in triples if all(m in known for m in t)]
    return tuple(triple for triple in found if triple is not None)


def _count(right: Sequence[npt.NDArray[np.bool_]], cell: str) -> int:
    matches = [r == (letter == "T") for r, letter in zip(right, cell, strict=True)]
    return int(np.logical_and.reduce(matches).sum())


def _pair(
    one: npt.NDArray[Any], other: npt.NDArray[Any], right: npt.NDArray[np.bool_], right_too: npt.NDArray[np.bool_]
) -> tuple[float, float | None]:
    either = int((~right | ~right_too).sum())
    return float((one == other).mean()), int((~right & ~right_too).sum()) / either if either else None
