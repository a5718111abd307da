"""Ensembles of outputs as rows: what they average, and where there is nothing to average."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from searching import MODELS, fine_tunes

from evaluating import digits
from stockpot.errors import ExecutionError, RecipeError
from stockpot.evaluate import Ensemble, candidate, evaluate, load_suite
from stockpot.evaluate.ensemble import ensembled
from stockpot.evaluate.page import page
from stockpot.evaluate.table import table


def outputs(theta, x):
    z = np.maximum(x @ theta["a.weight"].T + theta["a.bias"], 0) @ theta["b.weight"].T + theta["b.bias"]
    return z.astype(np.float64)


def softmax(z):
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("of", ["probabilities", "logits"])
def test_figures_are_those_of_mean_outputs(bench, of):
    """Accuracy and loss of the mean of probabilities, or of softmax of mean logits, from the networks themselves."""
    suite = load_suite(bench / "suite.yml", allow_code=True)
    given = [candidate(name) for name in MODELS]
    result = evaluate(given, suite, ensembles=[Ensemble("all", MODELS, of), Ensemble("two", ("m2", "m0"), of)])
    x, y = (part[1000:1300] for part in digits())
    for name, members in (("all", MODELS), ("two", ("m0", "m2"))):
        z = [outputs(fine_tunes()[member], x) for member in members]
        p = np.mean([softmax(one) for one in z], axis=0) if of == "probabilities" else softmax(np.mean(z, axis=0))
        figures = {f.metric: f for f in result.cell(name, "clean").figures}
        assert figures["accuracy"].value == pytest.approx((p.argmax(axis=1) == y).mean(), abs=1e-12)
        assert figures["loss"].value == pytest.approx(-np.log(p[np.arange(300), y]).mean(), rel=1e-5)
        assert figures["accuracy"].difference is not None
    assert [row.name for row in result.models] == [*MODELS, "all", "two"]


def test_without_probabilities_there_is_nothing(bench):
    """On tasks of labels alone the cell is empty, not failed; tables and pages leave it out."""
    text = (bench / "suite.yml").read_text()
    (bench / "suite.yml").write_text(
        text.replace("nets:logits", "nets:labels\n    outputs: labels\n    metrics: [accuracy]", 1)
    )
    suite = load_suite(bench / "suite.yml", allow_code=True)
    result = evaluate([candidate("m0"), candidate("m1")], suite, ensembles=[Ensemble("both", ("m0", "m1"))])
    assert result.cell("both", "clean").figures == ()
    assert result.cell("both", "noisy").figures != ()
    assert result.failed == ()
    assert result.models[-1].retention is None
    assert sum("both" in line for line in table(result)) == 2  # noisy, and over all tasks
    assert "failed" not in page(result)


def test_a_member_that_failed(bench):
    """Fails the ensemble, by name, and nothing else."""
    suite = load_suite(bench / "suite.yml", allow_code=True)
    result = evaluate([candidate("m0"), candidate("gone")], suite, ensembles=[Ensemble("both", ("m0", "gone"))])
    assert result.cell("both", "clean").error == "a member failed: gone"
    assert result.cell("m0", "clean").error is None


def test_members_with_other_examples_or_classes():
    """Have no mean."""
    one = {"labels": np.array([0, 1]), "probabilities": np.full((2, 2), 0.5)}
    for changed in (
        {"labels": np.array([1, 1])},
        {"probabilities": np.full((2, 4), 0.25)},
        {"example": np.array([1, 2], np.uint64)},
    ):
        with pytest.raises(ExecutionError, match="other examples or classes"):
            ensembled("probabilities", [one, {**one, **changed}])


def test_a_class_that_a_model_excludes():
    """ln 0 counts as that of the least number of float32, so that the mean of logits stays finite."""
    one = {"labels": np.array([0]), "probabilities": np.array([[1.0, 0.0]], np.float32)}
    made = ensembled("logits", [one, {**one, "probabilities": np.array([[0.5, 0.5]], np.float32)}])
    assert np.isfinite(made["probabilities"]).all()
    assert made["predicted"][0] == 0


@pytest.mark.parametrize(
    ("ensemble", "told"),
    [
        (Ensemble("e", ("m0", "m9")), "no model m9"),
        (Ensemble("e", ()), "needs members"),
        (Ensemble("m0", ("m0",)), "a name of its own"),
    ],
    ids=["unknown", "none", "name"],
)
def test_ensembles_of_nothing(bench, ensemble, told):
    """Are refused before anything is predicted."""
    suite = load_suite(bench / "suite.yml", allow_code=True)
    with pytest.raises(RecipeError, match=told):
        evaluate([candidate("m0")], suite, ensembles=[ensemble])


def test_a_metric_that_fails_on_an_ensemble(bench):
    """Is a failed cell with its message."""
    suite = load_suite(bench / "suite.yml", allow_code=True)
    given = [candidate("m0"), candidate("m1")]

    def fails(columns):
        if columns["loss"].mean() == worst:
            raise ValueError("no such mean")
        return columns["loss"]

    both = Ensemble("both", ("m0", "m1"))
    worst = {f.metric: f.value for f in evaluate(given, suite, ensembles=[both]).cell("both", "clean").figures}["loss"]
    task = suite.tasks[0]
    metric = replace(task.task.metrics[1], values=fails)
    changed = replace(task, task=replace(task.task, metrics=(metric,)))
    result = evaluate(given, replace(suite, tasks=(changed,)), ensembles=[both])
    assert result.cell("both", "clean").error.startswith("ValueError: no such mean (test_ensembles.py, line ")
    assert result.cell("m1", "clean").error is None
