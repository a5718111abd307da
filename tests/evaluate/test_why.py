"""Base, fine-tuned and merged model example by example."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.evaluate.protocol import EXAMPLE
from stockpot.evaluate.why import compare, compare_all

LABELS = np.zeros(8, np.int64)
RIGHT = {"base": "TTTTFFFF", "tuned": "TTFFTTFF", "merged": "TFTFTFTF"}


def predictions(right, **columns):
    predicted = np.array([0 if r == "T" else 1 + i % 2 for i, r in enumerate(right)])
    return {"labels": LABELS, "predicted": predicted, **columns}


def test_eight_cells_by_hand():
    """Letters are base, fine-tuned, merged; FFT: only the merged model is right."""
    rows = {"base": "TTTFFFFF", "tuned": "TTTFFFTT", "merged": "TTFTTFTF"}
    found = compare("t", ("b", "f", "m"), [predictions(r) for r in rows.values()])
    assert found.cells == {"TTT": 2, "TTF": 1, "TFT": 0, "TFF": 0, "FTT": 1, "FTF": 1, "FFT": 2, "FFF": 1}
    assert found.only_merged_right == 2 / 8
    assert found.only_merged_wrong == 1 / 8


def test_every_cell_once():
    """Eight examples, one in each cell."""
    found = compare("t", ("b", "f", "m"), [predictions(r) for r in RIGHT.values()])
    assert set(found.cells.values()) == {1}


def test_overlap_and_agreement_by_hand():
    """Of 6 examples that base or fine-tuned get wrong, both get 2 wrong; agreement counts equal predictions."""
    found = compare("t", ("b", "f", "m"), [predictions(r) for r in RIGHT.values()])
    assert found.pairs[0].error_overlap == pytest.approx(2 / 6)
    assert found.pairs[0].agreement == pytest.approx(4 / 8)  # two right, two wrong alike
    perfect = compare("t", ("b", "f", "m"), [predictions("T" * 8)] * 3)
    assert perfect.pairs[0].error_overlap is None
    assert perfect.pairs[0].agreement == 1


def test_calibration_of_each():
    """Of those that tell their confidence."""
    sure = predictions("TTTTTTTT", confidence=np.full(8, 0.75))
    found = compare("t", ("b", "f", "m"), [sure, predictions("T" * 8), sure])
    assert found.calibration == {"b": pytest.approx(0.25), "m": pytest.approx(0.25)}


def test_only_the_same_examples_are_compared():
    """Other labels, other examples, other numbers of them, or no classes: no comparison."""
    one = predictions("T" * 8, **{EXAMPLE: np.arange(8, dtype=np.uint64)})
    other = {**one, EXAMPLE: np.arange(1, 9, dtype=np.uint64)}
    assert compare("t", ("a", "b", "c"), [one, one, one]) is not None
    assert compare("t", ("a", "b", "c"), [one, other, one]) is None
    assert compare("t", ("a", "b", "c"), [one, {**one, "labels": LABELS + 1}, one]) is None
    assert compare("t", ("a", "b", "c"), [one, predictions("T" * 8), one]) is None
    assert compare("t", ("a", "b", "c"), [one, {"nll": np.ones(8)}, one]) is None


def test_first_is_base_and_last_is_merged():
    """Each model between them is a fine-tuned one; two models or a failed one make none."""
    known = {name: predictions(r) for name, r in RIGHT.items()}
    names = ["base", "tuned", "other", "merged"]
    found = compare_all("t", {**known, "other": predictions("T" * 8)}, names)
    assert [t.models for t in found] == [("base", "tuned", "merged"), ("base", "other", "merged")]
    assert len(compare_all("t", known, names)) == 1
    assert compare_all("t", known, ["base", "merged"]) == ()
