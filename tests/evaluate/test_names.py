"""Names in tables: short, different, and the same in every table of a run."""

from __future__ import annotations

import pytest

import stockpot as sp
from evaluating import digits_bench
from stockpot.evaluate import candidate, evaluate, load_suite
from stockpot.evaluate.candidates import named


def names(given):
    return [one.name for one in given]


def test_names_stay_once_they_are_given():
    """Whatever stands beside a model then: a part of the list, or all again, in any order."""
    given = named([candidate(path) for path in ("a/x", "b/x", "c/y", "c/y")])
    assert names(given) == ["a/x", "b/x", "c/y (3)", "c/y (4)"]
    assert names(named(given)) == names(given)
    assert names(named(given[1:3])) == ["b/x", "c/y (3)"]
    assert names(named([*given[::-1], candidate("d/x")])) == [*names(given)[::-1], "x"]


def test_names_that_were_chosen_stay():
    """Even with a stroke in them; what comes to be called so is called otherwise."""
    array = sp.open({"w": [1.0]}, name="w")
    given = [candidate(array, name="runs/x"), candidate("other/x"), candidate(array, name="runs/x")]
    assert names(named(given)) == ["runs/x", "other/x", "runs/x (3)"]
    assert names(named([candidate("a/x (2)"), candidate("b/y", name="n"), candidate("n")])) == ["x (2)", "n", "n (3)"]


def test_naming_keeps_the_plan(tmp_path):
    """One that was made is not made again."""
    one = candidate(sp.open({"w": [1.0]}, name="w"))
    plan = one.plan
    assert named([one])[0].plan is plan


def test_cells_by_name_or_as_written(tmp_path, monkeypatch):
    """A model is found as tables call it and as it was given; what is not there is told with what is."""
    digits_bench(tmp_path)
    monkeypatch.chdir(tmp_path)
    suite = load_suite(tmp_path / "suite.yml", allow_code=True)
    result = evaluate([candidate(tmp_path / "base"), candidate("low")], suite)
    assert result.cell(str(tmp_path / "base"), "clean") is result.cell("base", "clean")
    assert result.score(str(tmp_path / "base"), "clean") == result.score("base", "clean")
    with pytest.raises(KeyError, match="no model 'high' on a task 'clean'; models: base, low; tasks: clean"):
        result.cell("high", "clean")
