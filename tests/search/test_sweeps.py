"""Sweeps: points are the merges that they stand for, choices follow their rule, and what is told of them."""

from __future__ import annotations

import json
import re

import ml_dtypes
import numpy as np
import pytest
from searching import Reader, fine_tunes, suite_in

import stockpot as sp
from evaluating import networks
from files import read_model, write_model
from stockpot.cli.main import main
from stockpot.errors import RecipeError, StockpotError
from stockpot.evaluate import Blend, Ensemble, candidate, evaluate
from stockpot.search import SWEEPS, Line, sweep
from stockpot.search.plots import Curve, curves, scatter
from stockpot.search.sweeps import negatable

CLEAN = ["clean.loss"]


def swept(bench, kind, *names, **how):
    how = {"metrics": CLEAN, **how}
    return sweep(kind, [candidate(name) for name in names], suite_in(bench), **how)


def figures(result, model):
    return [f.value for task in result.tasks for f in result.cell(model, task).figures]


def written(bench, text, out):
    """The tensors and the figures on select data of a recipe, merged to a folder."""
    (bench / f"{out}.yml").write_text(text)
    assert main(["merge", f"{out}.yml", out, "--quiet"]) == 0
    result = evaluate([candidate(out)], suite_in(bench), split="select")
    return read_model(out), figures(result, out)


def test_ends_of_the_curve_are_the_models(bench):
    """Alpha 0 is the one and 1 the other, in every figure; and the line along a difference begins at the base."""
    result = evaluate([candidate("base"), candidate("m2")], suite_in(bench), split="select")
    for kind in ("interpolate", "add"):
        found = swept(bench, kind, "base", "m2", values=[0, 1])
        assert [figures(found.curve, name) for name in found.names] == [figures(result, n) for n in ("base", "m2")]


@pytest.mark.parametrize(
    ("kind", "models", "recipe"),
    [
        ("interpolate", ("base", "m2"), "{merge_method: wise_ft, base_model: base, models: [{model: m2}], "
            "parameters: {alpha: %s}}"),
        ("add", ("base", "m0", "m1", "m2"), "{merge_method: task_arithmetic, base_model: base, models: [{model: m0}, "
            "{model: m1}, {model: m2}], parameters: {lambda: %s}}"),
        ("negate", ("base", "m2"), "{merge_method: task_arithmetic, base_model: base, models: [{model: m2}], "
            "parameters: {lambda: -%s}}"),
    ],
    ids=["interpolate", "add", "negate"],
)  # fmt: skip
def test_points_are_the_merges_that_recipes_write(bench, kind, models, recipe):
    """Bit for bit, within [0, 1] and beyond; so the figures are those of evaluating what was written."""
    how = {"control": ["noisy.accuracy"]} if kind == "negate" else {}
    found = swept(bench, kind, *models, values=[0.3, 0.7, 1.3], **how)
    make = SWEEPS[kind].make([candidate(name) for name in models])
    for at in (0.3, 0.7, 1.3):
        tensors, told = written(bench, recipe % at, f"at{at}")
        point = make(at, "point").opened().tensors
        assert all(np.array_equal(tensors[name], point[name]) for name in tensors)
        assert figures(found.curve, f"{found.parameter} {at:g}") == told


@pytest.mark.parametrize("kind", list(SWEEPS))
def test_the_recipe_of_the_choice(bench, kind):
    """Gives the chosen point: the same figures, and the same values to the last rounding."""
    models = {"add": ("base", "m0", "m2"), "analogy": ("base", "m1", "m2")}.get(kind, ("base", "m2"))
    how = {"control": ["noisy.accuracy"], "keep": 0.5} if kind == "negate" else {}
    found = swept(bench, kind, *models, values=[0, 0.35, 0.6], **how)
    assert found.chosen is not None
    tensors, told = written(bench, found.recipe, "chosen")
    point = SWEEPS[kind].make([candidate(name) for name in models])(found.chosen, "point").opened().tensors
    for name in tensors:
        np.testing.assert_allclose(tensors[name], point[name], rtol=3e-7, atol=1e-9)
    name = found.names[found.values.index(found.chosen)]
    assert figures(found.curve, name) == pytest.approx(told, rel=1e-5)


def test_analogies_are_c_plus_lambda_b_minus_a(bench):
    """In this order of models."""
    a, b, c = (fine_tunes()[name] for name in ("m0", "m1", "m2"))
    make = SWEEPS["analogy"].make([candidate(name) for name in ("m0", "m1", "m2")])
    for at in (-0.5, 0.0, 0.3, 1.0):
        point = make(at, "point").opened().tensors
        for name, array in point.items():
            wide = [theta[name].astype(np.float64) for theta in (a, b, c)]
            assert np.array_equal(array, (wide[2] + at * (wide[1] - wide[0])).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=lambda d: d.__name__)
def test_a_line_rounds_as_the_sum_of_deltas(dtype):
    """Also where (1 - t) start + t end, the same number, is rounded to the other side of a tie."""
    rng = np.random.default_rng(0)
    base, *others = (
        sp.open({"w": rng.normal(size=5000).astype(dtype), "n": np.arange(i)}, name=str(i)) for i in range(4)
    )
    deltas = sp.task_arithmetic(*(other - base for other in others))
    line = Line.of(candidate(base), base + deltas)
    blend = Blend.of(candidate(base), candidate(base + deltas))
    apart = 0
    for at in (0.1, 0.3, 0.7, -0.4, 1.0, 1.5):
        wanted = sp.compute(base + at * deltas)
        point = line.candidate(at, "point").opened().tensors
        assert point["w"].dtype == wanted["w"].dtype
        assert np.array_equal(point["w"], wanted["w"])
        assert np.array_equal(point["n"], wanted["n"])
        apart += int((blend.at(at)["w"] != wanted["w"]).sum())
    assert apart > 0


def test_the_best_is_chosen_and_reported(bench):
    """On select data, by the figure that is named; start, end and choice are then measured on report data."""
    found = swept(bench, "interpolate", "base", "m2", values=[0, 0.5, 1, 1.5, -0.5])
    assert found.values == (-0.5, 0, 0.5, 1, 1.5)
    scores = {v: found.objective.score(found.curve, n) for v, n in zip(found.values, found.names, strict=True)}
    assert scores[found.chosen] == max(scores.values())
    assert found.curve.split == "select"
    assert found.curve.models[0].name == "alpha 0"
    assert [row.name for row in found.report.models] == list(
        dict.fromkeys(("alpha 0", "alpha 1", f"alpha {found.chosen:g}", "ensemble of 2"))
    )
    both = [candidate(name) for name in ("base", "m2")]
    beside = evaluate(both, suite_in(bench), ensembles=[Ensemble("both", ("base", "m2"))])
    assert figures(found.report, "ensemble of 2") == figures(beside, "both")
    assert found.report.marks == {}


def test_models_that_are_no_points_stand_in_the_report(bench):
    """Fine-tunes of a sum, A and B of an analogy, with the figures that they have alone."""
    alone = evaluate([candidate(name) for name in ("m0", "m1")], suite_in(bench))
    for kind, models in (("add", ("base", "m0", "m1")), ("analogy", ("m0", "m1", "base"))):
        found = swept(bench, kind, *models, values=[0, 1])
        names = [row.name for row in found.report.models]
        assert names == ["lambda 0", "m0", "m1", "lambda 1", *(["ensemble of 2"] if kind == "add" else [])]
        assert [figures(found.report, name) for name in ("m0", "m1")] == [figures(alone, n) for n in ("m0", "m1")]


def test_numbers_that_are_close_are_told_apart(bench):
    """Each has its own row and figures."""
    found = swept(bench, "interpolate", "base", "m2", values=[0.5, 0.5000001, 0.50000011, 1])
    assert len(set(found.names)) == 4
    assert found.names[-1] == "alpha 1"
    assert len({p["objective"] for p in found.as_data()["points"]}) == 4


def test_of_equal_points_the_nearest_to_zero(bench):
    """Not the first, nor the last; of one on either side, the positive."""
    write_model(bench / "copy", networks()["base"])
    assert swept(bench, "interpolate", "base", "copy", values=[-1, -0.25, 0.25, 1]).chosen == 0.25
    assert swept(bench, "interpolate", "base", "copy", values=[-1, -0.25, 0.5, 1]).chosen == -0.25


def test_negation_keeps_the_control(bench):
    """The largest lambda with 95 % of the base's control; the base is always there to be compared with."""
    found = swept(bench, "negate", "m0", "m1", values=[0.1, 0.4, 2, 8], control=["noisy.accuracy"])
    control = {v: found.control[0].value(found.curve, n) for v, n in zip(found.values, found.names, strict=True)}
    assert 0 in control
    assert found.chosen == max(v for v, c in control.items() if c >= 0.95 * control[0])
    assert found.chosen < 8
    assert "lambda: -" in found.recipe or found.chosen == 0


@pytest.mark.parametrize(
    ("values", "better", "wanted"),
    [
        ([(0, 1.0), (1, 0.95), (2, 0.94)], "higher", 1),
        ([(0, 1.0), (1, 0.9), (2, 0.96)], "higher", 2),
        ([(0, 0.95), (1, 1.0), (2, 1.1)], "lower", 1),
        ([(0, 1.0), (1, None)], "higher", 0),
        ([(0, None), (1, 1.0)], "higher", None),
        ([(1, 1.0)], "higher", None),
    ],
    ids=["edge", "again", "lower", "failed", "base", "none"],
)
def test_what_counts_as_kept(values, better, wanted):
    """Exactly the share is kept; a point that failed is not; without the base nobody can tell."""
    assert negatable(values, better, 0.95) == wanted


def test_a_point_that_fails_is_a_row(bench, capsys):
    """Overflowing alone: the others are measured, the exit code is 1, and JSON holds null for its figures."""
    arguments = ["sweep", "interpolate", "base", "m2", "--suite", "suite.yml", "--allow-code", "--values", "0,1,1e39"]
    assert main([*arguments, "--metric", "clean.loss", "--json", "sweep.json", "--html", "sweep.html"]) == 1
    data = json.loads((bench / "sweep.json").read_text())
    assert [p["value"] for p in data["points"]] == [0, 1, 1e39]
    assert data["points"][2]["objective"] is None
    assert data["chosen"] == 1
    assert "alpha 1e+39: FAILED: " in capsys.readouterr().out
    assert "alpha 1e+39 failed" in (bench / "sweep.html").read_text()


def test_nothing_that_can_be_chosen(bench, capsys):
    """Is said, beside the rows that failed."""
    arguments = ["sweep", "interpolate", "base", "m2", "--suite", "suite.yml", "--allow-code", "--values", "1e39,2e39"]
    assert main([*arguments, "--metric", "clean.loss"]) == 1
    assert "no alpha was chosen: no point could be measured" in capsys.readouterr().out


def test_a_curve_on_report_data_chooses_nothing(bench, capsys):
    """So it is no choice that the cache remembers, and needs no control."""
    arguments = [
        "--suite",
        "suite.yml",
        "--allow-code",
        "--split",
        "report",
        "--metric",
        "clean.loss",
        "--values",
        "0,1",
    ]
    for kind in ("negate", "interpolate"):
        assert main(["sweep", kind, "base", "m2", *arguments]) == 0
        shown = capsys.readouterr().out
        assert "was chosen" in shown
        assert "*" not in shown
        assert "recipe" not in shown


def test_page_json_and_text(bench, capsys):
    """Curves of all tasks and the scatter in one file that fetches nothing; the same figures in JSON."""
    arguments = ["sweep", "interpolate", "base", "m2", "--suite", "suite.yml", "--allow-code", "--values", "0:1:0.25"]
    assert main([*arguments, "--metric", "clean.accuracy", "--html", "a.html", "--json", "-", "--quiet"]) == 0
    printed = capsys.readouterr()
    data = json.loads(printed.out)
    assert printed.err == ""
    assert [p["value"] for p in data["points"]] == [0, 0.25, 0.5, 0.75, 1]
    cells = {(c["model"], c["task"]): c["figures"][0]["value"] for c in data["curve"]["cells"]}
    for point in data["points"]:
        assert point["objective"] == point["x"] == cells[point["name"], "clean"]
        assert point["y"] == cells[point["name"], "noisy"]
    page = Reader()
    text = (bench / "a.html").read_text()
    page.feed(text)
    assert (page.open, page.fetched) == ([], [])
    assert text.count("<polygon") == 2
    assert text.count("<polyline") == 3
    assert "clean at 0.25" in text
    assert data["recipe"].splitlines()[0] in text
    assert len(data["report"]["triples"]) == (2 if data["chosen"] not in (0, 1) else 0)
    assert data["curve"]["triples"] == []


def test_axes_of_the_scatter(bench):
    """Any figures; none with one task; one axis alone is an error."""
    found = swept(bench, "interpolate", "base", "m2", values=[0, 1], axes=(["noisy.loss"], ["clean.accuracy"]))
    assert [str(axis) for axis in found.axes] == ["noisy.loss", "clean.accuracy"]
    with pytest.raises(RecipeError, match="two axes"):
        swept(bench, "interpolate", "base", "m2", axes=(["noisy.loss"], []))
    (bench / "suite.yml").write_text(re.sub("  noisy:.*", "", (bench / "suite.yml").read_text(), flags=re.DOTALL))
    alone = swept(bench, "interpolate", "base", "m2", values=[0, 1])
    assert alone.axes is None
    assert "x" not in alone.as_data()["points"][0]


def test_plots_of_little():
    """One point, equal values, none: no division by zero; names of strangers stay text; labels do not overlap."""
    assert curves([Curve("a", ())], "x", "y") == ""
    assert scatter([], "x", "y") == ""
    one = curves([Curve("<b>", ((0, 1, 1, 1),)), Curve("c", ((0, 1, 1, 1),))], "x", "y", 0)
    assert "<b>" not in one
    assert "nan" not in one + scatter([("p", 0, 0)], "x", "y")
    places = [float(y) for y in re.findall(r'y="([\d.]+)" style=', one)]
    assert abs(places[0] - places[1]) >= 12


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["interpolate", "base"], 3, "interpolate takes 2 models, not 1"),
        (["add", "base"], 3, "add takes at least 2 models"),
        (["analogy", "base", "m0"], 3, "analogy takes 3 models"),
        (["interpolate", "base", "merge.yml"], 3, "is a recipe, not a model"),
        (["interpolate", "base", "gone"], 4, "no such file"),
        (["negate", "base", "m0"], 3, "needs a control"),
        (["add", "base", "m0", "--control", "clean.loss"], 3, "has no control"),
        (["negate", "base", "m0", "--control", "clean.loss", "--keep", "1.5"], 3, "no share"),
        (["interpolate", "base", "m0", "--metric", "clean"], 3, "there is no figure"),
        (["interpolate", "base", "m0", "--values", "a"], 2, "is no list of numbers"),
        (["interpolate", "base", "m0", "--values", "0:1:0"], 2, "has no values"),
        (["interpolate", "base", "m0", "--values", "0:1:1e-9"], 2, "too many"),
        (["interpolate", "base", "m0", "--values", "0:inf:1"], 2, "is no list of numbers"),
        (["interpolate", "base", "m0", "--values", "nan"], 3, "finite"),
        (["melt", "base", "m0"], 2, "'melt' is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(bench, capsys, arguments, code, told):
    """Refused before anything is measured."""
    assert main(["sweep", *arguments, "--suite", "suite.yml", "--allow-code"]) == code
    printed = capsys.readouterr()
    assert told in printed.err
    assert printed.out == ""
    assert "examples in" not in printed.err


def test_unknown_kind_from_python(bench):
    """Is refused with those that there are."""
    with pytest.raises(RecipeError, match="unknown kind of sweep 'melt'"):
        swept(bench, "melt", "base", "m0")


def test_models_that_do_not_fit(bench):
    """Are an error that names the tensor."""
    write_model(bench / "odd", networks()["base"] | {"a.bias": np.zeros(5, np.float32)})
    for kind in ("interpolate", "add"):
        with pytest.raises(StockpotError) as caught:
            swept(bench, kind, "base", "odd")
        assert "a.bias" in str(caught.value)
