"""Sums are chosen by what they keep of each task; random vectors of the same norm stand beside task vectors."""

from __future__ import annotations

import json
import re
from itertools import combinations

import numpy as np
import pytest
from searching import Reader, fine_tunes, suite_in

import stockpot as sp
from evaluating import networks, save_arrays
from files import write_model
from stockpot.cli.main import main
from stockpot.errors import ExecutionError, PlanError, RecipeError
from stockpot.evaluate import candidate, evaluate
from stockpot.search import Line, cosines, sweep
from stockpot.search.sweeps import Normalised

VALUES = [0, 0.25, 0.5, 0.75]


def swept(bench, kind, *names, **how):
    return sweep(kind, [candidate(name) for name in names], suite_in(bench), **{"values": VALUES, **how})


def accuracies(bench, *names, split="select"):
    """Model → (clean, noisy) accuracy, each evaluated alone."""
    result = evaluate([candidate(name) for name in names], suite_in(bench), split=split)
    return {n: [result.cell(n, task).figures[0].value for task in ("clean", "noisy")] for n in names}


def points(found, result):
    return {n: [result.cell(n, task).figures[0].value for task in ("clean", "noisy")] for n in found.names}


def test_an_owner_may_be_called_as_the_base_is(bench):
    """Names are as long as they must be to differ, and the base is not among the fine-tuned models."""
    for folder, name in (("v1", "base"), ("v2", "m0")):
        (bench / folder).mkdir()
        (bench / name).rename(bench / folder / "model")
    tasks = ("clean", "noisy")
    found = swept(bench, "add", "v1/model", "v2/model", own=dict.fromkeys(tasks, "v2/model"))
    assert found.objective.owners == dict.fromkeys(tasks, "v2/model")
    assert found.normalised_report is not None


def test_add_chooses_by_the_mean_of_normalised_accuracies(bench):
    """Without a metric: each task's figure over that of the fine-tuned model that is best at it, their mean."""
    found = swept(bench, "add", "base", "m0", "m1")
    own = accuracies(bench, "m0", "m1")
    best = [max(own[name][i] for name in own) for i in (0, 1)]
    wanted = {
        n: np.mean([v / b for v, b in zip(vs, best, strict=True)]) for n, vs in points(found, found.curve).items()
    }
    told = {point["name"]: point["objective"] for point in found.as_data()["points"]}
    assert told == pytest.approx(wanted, rel=1e-12)
    assert wanted[found.chosen_name] == max(wanted.values())
    assert str(found.objective) == "mean normalised accuracy"
    assert found.objective.references == pytest.approx(best)


def test_normalised_figure_of_the_report(bench):
    """Of the chosen point, relative to the same owners' figures on report data."""
    found = swept(bench, "add", "base", "m0", "m1", own={"clean": "m0", "noisy": "m1"})
    assert dict(found.objective.owners) == {"clean": "m0", "noisy": "m1"}
    own = accuracies(bench, "m0", "m1", split="report")
    chosen = [found.report.cell(found.chosen_name, task).figures[0].value for task in ("clean", "noisy")]
    assert found.normalised_report == pytest.approx(np.mean([chosen[0] / own["m0"][0], chosen[1] / own["m1"][1]]))
    assert found.as_data()["normalised_report"] == found.normalised_report


def test_one_fine_tune_at_one_is_itself(bench):
    """Normalised 1 at lambda 1."""
    found = swept(bench, "add", "base", "m0", values=[0, 1])
    assert found.objective.value(found.curve, "lambda 1") == 1


def test_what_is_asked_for_chooses(bench):
    """A metric, or --no-normalised, takes the plain mean; a metric with --normalised is normalised."""
    plain = swept(bench, "add", "base", "m0", metrics=["clean.accuracy"])
    assert str(plain.objective) == "clean.accuracy"
    assert plain.tunes is None
    assert (
        str(swept(bench, "add", "base", "m0", normalised=False).objective) == "mean of clean.accuracy, noisy.accuracy"
    )
    both = swept(bench, "add", "base", "m0", metrics=["noisy.accuracy"], normalised=True)
    assert isinstance(both.objective, Normalised)
    assert both.objective.parts == (("noisy", "accuracy"),)


def test_lower_is_better_has_no_share(bench):
    """Then the plain mean chooses; asking for shares is an error that names the figure."""
    text = (bench / "suite.yml").read_text()
    (bench / "suite.yml").write_text(text.replace("    split:", "    metrics: [loss, accuracy]\n    split:"))
    assert str(swept(bench, "add", "base", "m0").objective) == "mean of clean.loss, noisy.loss"
    with pytest.raises(RecipeError, match=r"clean\.loss is better lower"):
        swept(bench, "add", "base", "m0", normalised=True)


@pytest.mark.parametrize(
    ("kind", "how", "told"),
    [
        ("interpolate", {"normalised": True}, "has no fine-tuned models"),
        ("negate", {"own": {"clean": "m0"}, "control": ["noisy.accuracy"]}, "has no fine-tuned models"),
        ("add", {"own": {"clean": "m0"}, "normalised": False}, "for normalised figures only"),
        ("add", {"own": {"clean": "m0"}, "metrics": ["clean.loss"]}, "no normalised figures choose"),
        ("add", {"own": {"clean": "m9"}}, "none of the fine-tuned"),
        ("add", {"own": {"clean": "base"}}, "none of the fine-tuned"),
        ("add", {"own": {"dirty": "m0"}}, "cannot own 'dirty'"),
        ("add", {"normalised": True, "metrics": ["clean.f1"]}, "there is no figure 'clean.f1'"),
        ("interpolate", {"random_control": True}, "has no random control"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_wrong_usage(bench, kind, how, told):
    """Is an error of the recipe, with its fix."""
    with pytest.raises(RecipeError, match=told) as caught:
        swept(bench, kind, "base", "m0", **how)
    assert caught.value.problems[0].fix


@pytest.mark.parametrize(
    ("bias", "told"),
    [(3, r"dead's clean\.accuracy is 0"), (1, "clean could not be measured: nets:logits is said to give logits")],
    ids=["zero", "failed"],
)
def test_nothing_is_relative_to_a_model_that_knows_nothing(bench, bias, told):
    """A figure of 0 is no unit, nor is none: an error that says whose, and why."""
    dead = {name: np.zeros_like(array) for name, array in networks()["base"].items()}
    dead["b.bias"][9] = bias
    write_model(bench / "dead", dead)
    labels = np.zeros(200, np.int64)
    for task in ("select", "select-noisy"):
        save_arrays(bench / f"{task}.npz", slice(800, 1000), labels=labels)
    with pytest.raises(ExecutionError, match=told):
        swept(bench, "add", "base", "dead")


def test_random_vector_has_the_norm_of_each_tensor(bench):
    """And another direction; the same for the same seed; integers and zero differences stay."""
    rng = np.random.default_rng(0)
    start = {"w": rng.normal(size=(300, 70)), "b": rng.normal(size=5), "same": np.ones(3), "n": np.arange(4)}
    end = start | {"w": start["w"] + rng.normal(0, 0.01, (300, 70)), "b": start["b"] + 1}
    line = Line(start, end)
    drawn = {s: line.randomised(s).candidate(1.0, "p").opened().tensors for s in (0, 0, 1)}
    for name in ("w", "b", "same"):
        for theta in drawn.values():
            norms = [np.linalg.norm(theta[name] - start[name]), np.linalg.norm(end[name] - start[name])]
            assert norms[0] == pytest.approx(norms[1], rel=1e-9)
    assert np.array_equal(drawn[0]["n"], start["n"])
    step = (drawn[0]["w"] - start["w"]).ravel(), (end["w"] - start["w"]).ravel()
    assert abs(np.dot(*step) / np.linalg.norm(step[0]) / np.linalg.norm(step[1])) < 0.03
    assert abs(step[0].mean()) < 3e-4
    assert np.array_equal(line.randomised(0).candidate(1.0, "p").opened().tensors["w"], drawn[0]["w"])
    assert not np.array_equal(drawn[0]["w"], drawn[1]["w"])
    other = Line({"v": start["w"]}, {"v": end["w"]}).randomised(0).candidate(1.0, "p").opened().tensors
    assert not np.array_equal(other["v"], drawn[0]["w"])


def test_negation_has_a_random_control(bench):
    """By default: at each value but 0, where both are the base; in the report at the choice alone."""
    found = swept(bench, "negate", "base", "m1", values=[0.1, 0.4], control=["noisy.accuracy"], keep=0.3)
    assert [row.name for row in found.random.models] == ["lambda 0", "random lambda 0.1", "random lambda 0.4"]
    assert found.chosen > 0
    assert [row.name for row in found.report.models if "random" in row.name] == [f"random {found.chosen_name}"]
    line = Line.of(candidate("base"), sp.open("m1"))
    point = line.randomised(0).candidate(-0.4, "point")
    wanted = evaluate([point], suite_in(bench), split="select").cell("point", "clean").figures[0].value
    assert found.random.cell("random lambda 0.4", "clean").figures[0].value == wanted
    data = found.as_data()["points"]
    assert [p["value"] for p in data] == [0, 0.1, 0.4]
    assert data[0]["random"] == data[0]["objective"]
    assert data[2]["random"] == found.random_value(0.4)
    without = swept(bench, "negate", "base", "m1", values=[0.1], control=["noisy.accuracy"], random_control=False)
    assert without.random is None
    assert "random" not in without.as_data()["points"][0]
    assert swept(bench, "add", "base", "m1").random is None


def test_cosines_are_those_of_whole_task_vectors(bench):
    """By NumPy on the flattened differences, for each pair."""
    names = ("m0", "m1", "m2")
    flat = {
        n: np.concatenate([fine_tunes()[n][t].astype(np.float64).ravel() for t in sorted(fine_tunes()[n])])
        for n in names
    }
    base = np.concatenate([networks()["base"][t].astype(np.float64).ravel() for t in sorted(networks()["base"])])
    found = swept(bench, "add", "base", *names, values=[0, 1])
    assert [one.models for one in found.cosines] == list(combinations(names, 2))
    for one in found.cosines:
        a, b = (flat[n] - base for n in one.models)
        assert one.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-10)
    assert swept(bench, "add", "base", "m0", values=[0, 1]).cosines == ()


def test_cosines_of_mixed_dtypes_and_zero_vectors():
    """Values count, not how they are stored; a model that is the base has no direction."""
    rng = np.random.default_rng(0)
    base = {"w": rng.normal(size=5000).astype(np.float16), "n": np.arange(3)}
    near = {"w": base["w"].astype(np.float32) + rng.normal(size=5000).astype(np.float32), "n": np.arange(3)}
    far = {"w": base["w"].astype(np.float64) - (near["w"] - base["w"].astype(np.float64)), "n": np.arange(3)}
    given = [candidate(sp.open(m, name=str(i)), name=str(i)) for i, m in enumerate((base, near, far, base))]
    found = cosines(given)
    assert found[0].cosine == pytest.approx(-1, abs=1e-12)
    assert [one.cosine is None for one in found] == [False, True, True]
    with pytest.raises(PlanError, match="do not fit"):
        cosines([*given[:2], candidate(sp.open({"w": np.ones(3), "n": np.arange(3)}, name="o"), name="o")])


def test_text_json_and_page_of_a_sum(bench, capsys):
    """Cosines, normalised means, owners and the random control in all of them; the page has a curve of each."""
    arguments = ["sweep", "add", "base", "m0", "m1", "--suite", "suite.yml", "--allow-code", "--values", "0:1:0.5"]
    more = ["--own", "m1=noisy", "--random-control", "--html", "a.html", "--json", "a.json", "--quiet"]
    assert main([*arguments, *more]) == 0
    shown = capsys.readouterr().out
    data = json.loads((bench / "a.json").read_text())
    assert data["objective"]["owners"]["noisy"] == "m1"
    (one,) = data["cosines"]
    assert f"m0 and m1: {one['cosine']:.4f}" in shown
    for point in data["points"]:
        assert f"{point['name']}: {point['objective']:.4f}" in shown
    assert f"on report data, mean normalised accuracy of lambda {data['chosen']:g}: " in shown
    if data["chosen"]:
        assert "random vector of the same norm there: mean normalised accuracy is" in shown
    page = Reader()
    text = (bench / "a.html").read_text()
    page.feed(text)
    assert (page.open, page.fetched) == ([], [])
    assert "mean normalised accuracy over lambda" in "".join(page.text)
    assert text.count("stroke-dasharray=") == 3  # the mean, and two tasks
    assert len(re.findall("noisy, random at", text)) == 3


@pytest.mark.parametrize("own", ["m0", "=clean", "m0="], ids=["no task", "no model", "no name"])
def test_owners_are_written_model_equals_task(bench, capsys, own):
    """Anything else is wrong usage."""
    arguments = ["sweep", "add", "base", "m0", "--suite", "suite.yml", "--allow-code", "--own", own]
    assert main(arguments) == 2
    assert "is not MODEL=TASK" in capsys.readouterr().err


def test_a_task_has_one_owner(bench, capsys):
    """Naming two is wrong usage."""
    arguments = [
        "sweep",
        "add",
        "base",
        "m0",
        "--suite",
        "suite.yml",
        "--allow-code",
        "--own",
        "m0=clean",
        "--own",
        "m1=clean",
    ]
    assert main(arguments) == 2
    assert "clean has one owner" in capsys.readouterr().err


def test_curves_of_the_figures_that_choose(bench):
    """What is to fall and what is to be kept are drawn, not only what ranks; at 0 the recipe says 0."""
    more = (bench / "suite.yml").read_text().replace("  noisy:", "    metrics: [accuracy, loss]\n  noisy:")
    (bench / "suite.yml").write_text(more)
    arguments = ["negate", "base", "m0", "--suite", "suite.yml", "--allow-code", "--quiet", "--values", "0,50"]
    chosen = ["--metric", "clean.accuracy", "--control", "clean.loss", "--html", "s.html", "--json", "s.json"]
    assert main(["sweep", *arguments, *chosen]) == 0
    page = (bench / "s.html").read_text()
    assert "<h2>accuracy over lambda</h2>" in page
    (drawn,) = re.findall(r"<h2>loss over lambda</h2>\n(<svg.*?</svg>)", page)
    data = json.loads((bench / "s.json").read_text())
    told = dict(re.findall(r"<title>clean at (\S+): (\S+)</title>", drawn))
    figures = {p["value"]: p["control"] for p in data["points"]}
    assert {float(at): float(value) for at, value in told.items()} == pytest.approx(figures, rel=1e-3)
    assert "noisy" not in drawn
    assert data["chosen"] == 0
    assert "{lambda: 0.0}" in data["recipe"]
