"""Soups: what is chosen, that it is what is written, and what is told of it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import yaml
from searching import MODELS, Reader, fine_tunes, suite_in

import stockpot as sp
from evaluating import networks
from files import read_model, write_model
from stockpot.cli.main import main
from stockpot.errors import ExecutionError, RecipeError
from stockpot.evaluate import Cache, candidate, evaluate, load_suite
from stockpot.search import RunningAverage, objective_of, soup
from stockpot.search.recipes import written


def made(bench, *names, **how):
    return soup([candidate(name) for name in names or (*MODELS, "diverged")], suite_in(bench), **how)


def run(*more):
    return main(["soup", *MODELS, "diverged", "--suite", "suite.yml", "--allow-code", *more])


def value(result, model, task="clean", metric="accuracy"):
    return next(f.value for f in result.cell(model, task).figures if f.metric == metric)


@pytest.mark.parametrize("metric", ["clean.accuracy", "clean.loss", "noisy.loss"])
def test_greedy_is_at_least_the_best_single_and_rejects_the_diverged(bench, metric):
    """On the data that chooses, by construction, by any metric, better higher or lower."""
    found = made(bench, metrics=[metric])
    single = max(found.objective.score(found.select, name) for name in MODELS)
    assert found.objective.score(found.select, found.name) >= single
    assert "diverged" not in found.members
    assert "m" in found.members[0]
    assert found.members[0] == found.models[0]
    uniform = found.objective.score(found.select, "uniform soup")
    assert uniform < single


def test_every_step_is_a_figure_of_a_merge(bench):
    """What the running averages scored is what merges score that are made anew, kept or not; models go best first."""
    found = made(bench, metrics=["clean.loss"])
    suite = suite_in(bench)
    kept = []
    for step in found.steps:
        merge = candidate(sp.linear(*map(sp.open, [*kept, step.name])), name="merge")
        result = evaluate([merge], suite, split="select")
        assert step.score == -value(result, "merge", metric="loss")
        kept += [step.name] if step.kept else []
    assert tuple(kept) == found.members
    own = [value(found.select, step.name, metric="loss") for step in found.steps]
    assert own == sorted(own)


def test_a_candidate_costs_one_addition(bench, monkeypatch):
    """Each model is read once to be tried, whatever came before; no average is merged anew."""
    tried = []

    class Counting(RunningAverage):
        def tried(self, other):
            tried.append(other.name)
            return super().tried(other)

    monkeypatch.setattr("stockpot.search.soups.RunningAverage", Counting)
    found = made(bench, metrics=["clean.loss"])
    assert tried == [step.name for step in found.steps[1:]]
    seen = {row.reference for row in found.select.models}
    assert seen >= {*MODELS, "greedy soup", "uniform soup"}


def test_equal_models_are_taken_by_name_and_kept_unless_strict(bench):
    """Copies of one model tie in everything."""
    for name in ("z", "a", "k"):
        write_model(bench / name, fine_tunes()["m1"])
    assert made(bench, "z", "a", "k", metrics=["clean.accuracy"]).members == ("a", "k", "z")
    assert made(bench, "z", "a", "k", metrics=["clean.accuracy"], strict=True).members == ("a",)


def test_kinds(bench):
    """DiWA's restricted selection is the greedy rule; uniform and ratatouille average all, in the order given."""
    kinds = {
        kind: made(bench, metrics=["clean.loss"], kind=kind) for kind in ("greedy", "diwa", "uniform", "ratatouille")
    }
    assert kinds["diwa"].members == kinds["greedy"].members
    for kind in ("uniform", "ratatouille"):
        assert kinds[kind].members == (*MODELS, "diverged")
        assert kinds[kind].steps == ()
    assert [row.name for row in kinds["ratatouille"].select.models][-2:] == ["ratatouille soup", "ensemble of 5"]


def test_the_soup_is_written_as_any_merge(bench, capsys):
    """With the same bytes as its recipe gives in another folder; verified; the same figures as in the table."""
    assert run("--out", "out", "--json", "soup.json", "--metric", "clean.loss") == 0
    shown = capsys.readouterr().out
    data = json.loads((bench / "soup.json").read_text())
    assert data["out"] == "out"
    assert main(["verify", "out"]) == 0
    (bench / "again.yml").write_text(data["recipe"])
    assert main(["merge", "again.yml", "again", "--quiet"]) == 0
    wanted = np.mean([fine_tunes()[m]["a.weight"].astype(float) for m in data["members"]], axis=0)
    assert np.array_equal(read_model("out")["a.weight"], wanted.astype(np.float32))
    assert (bench / "out/model.safetensors").read_bytes() == (bench / "again/model.safetensors").read_bytes()
    cells = {(c["model"], c["task"]): c for c in data["report"]["cells"]}
    result = evaluate([candidate("out")], suite_in(bench))
    assert cells["greedy soup", "noisy"]["figures"][0]["value"] == value(result, "out", "noisy")
    assert f"greedy soup: {len(data['members'])} of 5 models" in shown
    assert "- diverged: " in shown
    assert all(f"  {line}" in shown for line in data["recipe"].splitlines())
    assert main(["reproduce-merge", "out", "repeated"]) == 0


def test_choices_never_see_report_data(bench):
    """Nothing is predicted on it but for rows that are chosen already, and select figures are marked as such."""
    seen = []
    found = made(bench, metrics=["clean.loss"], tell=lambda cell: seen.append((cell.model, cell.task, cell.examples)))
    report = [model for model, _, count in seen if count == 300]
    assert set(report) == {row.name for row in found.report.models}
    assert seen.index((found.models[0], "clean", 300)) > max(
        i for i, (model, _, _) in enumerate(seen) if model.startswith("average of")
    )
    assert set(found.select.marks) == {"clean", "noisy"}
    assert found.report.marks == {}


def test_data_that_chose_is_marked_later(bench):
    """The cache remembers that the select data chose a soup."""
    with Cache(bench / "kept") as cache:
        made(bench, metrics=["clean.loss"], cache=cache)
        text = (bench / "suite.yml").read_text().replace("select: select.npz, report: report.npz", "report: select.npz")
        (bench / "other.yml").write_text(text)
        later = evaluate([candidate("m0")], load_suite(bench / "other.yml", allow_code=True), cache=cache)
    assert later.marks == {"clean": "this data was used to choose: greedy soup"}


def test_known_predictions_are_not_made_again(bench, capsys):
    """The second run of a soup predicts nothing, averages included."""
    run("--metric", "clean.loss")
    capsys.readouterr()
    run("--metric", "clean.loss")
    told = [line for line in capsys.readouterr().err.splitlines() if "ensemble" not in line]
    assert told
    assert all("known from before" in line for line in told)


def test_models_that_cannot_be_measured_or_do_not_fit(bench, capsys):
    """Are failed rows and steps; the soup is made of the others and written, the exit code is 1."""
    write_model(bench / "odd", networks()["base"] | {"more": np.zeros(3, np.float32)})
    spoilt = fine_tunes()["m3"] | {"a.bias": np.full(32, np.nan, np.float32)}
    write_model(bench / "spoilt", spoilt)
    arguments = ["soup", "m0", "gone", "odd", "m1", "spoilt", "--suite", "suite.yml", "--allow-code", "--out", "out"]
    assert main([*arguments, "--metric", "clean.loss", "--json", "soup.json", "--html", "soup.html"]) == 1
    shown = capsys.readouterr().out
    data = json.loads((bench / "soup.json").read_text())
    assert set(data["members"]) <= {"m0", "m1"}
    assert set(read_model("out")) == set(fine_tunes()["m0"])
    assert "gone: FAILED: no such file" in shown
    errors = {step["name"]: step["error"] for step in data["steps"] if step["error"]}
    assert list(errors) == ["odd"]
    assert "more" in errors["odd"]
    assert "Infinity" not in (bench / "soup.json").read_text()
    assert "spoilt failed" in (bench / "soup.html").read_text()


def test_layouts_that_only_a_merge_can_average(bench):
    """Where a plain mean of arrays would not be the merge, here of dtypes that differ, it is merged anew."""
    write_model(bench / "wide", {n: a.astype(np.float64) for n, a in fine_tunes()["m2"].items()})
    found = made(bench, "m0", "m1", "wide", metrics=["clean.loss"])
    written = sp.compute(found.recipe)
    assert len(found.members) > 1
    assert found.steps[-1].error is None
    assert found.objective.score(found.select, found.name) == max(s.score for s in found.steps if s.kept)
    assert {a.dtype for a in written.values()} == {sp.compute(sp.open(found.members[0]))["a.bias"].dtype}


def test_models_in_memory(bench):
    """Are averaged as any others; there is no text of a recipe that could name them."""
    given = [candidate(sp.open(fine_tunes()[name], name=name), name=name) for name in MODELS]
    found = soup(given, suite_in(bench), metrics=["clean.loss"])
    assert found.members == made(bench, *MODELS, metrics=["clean.loss"]).members
    assert found.recipe.text == ""
    assert json.dumps(found.as_data())


def test_a_suite_without_report_data(bench):
    """Has one table."""
    text = (
        (bench / "suite.yml").read_text().replace(", report: report.npz", "").replace(", report: report-noisy.npz", "")
    )
    (bench / "suite.yml").write_text(text)
    found = made(bench, metrics=["clean.loss"])
    assert found.report is None
    assert found.as_data()["report"] is None


def test_names_of_soups_do_not_hide_models(bench):
    """A model that is called as the soup is keeps its name."""
    write_model(bench / "greedy soup", fine_tunes()["m0"])
    write_model(bench / "ensemble of 2", fine_tunes()["m1"])
    found = made(bench, "greedy soup", "ensemble of 2", "m2", metrics=["clean.loss"])
    names = [row.name for row in found.select.models]
    assert len(set(names)) == len(names)
    assert found.name == "greedy soup'"


def test_page_and_json(bench, capsys):
    """One file that fetches nothing and has the steps, both tables and the recipe; - prints the document alone."""
    assert run("--metric", "clean.loss", "--html", "soup.html", "--json", "-", "--quiet", "--out", "out") == 0
    printed = capsys.readouterr()
    data = json.loads(printed.out)
    assert printed.err == ""
    page = Reader()
    page.feed((bench / "soup.html").read_text())
    assert (page.open, page.fetched) == ([], [])
    text = "".join(page.text)
    for told in ("left out", "select data", "report data", "merge_method: linear", "predict: nets:logits"):
        assert told in text
    assert f"{data['steps'][1]['score']:.4g} with it" in text
    assert data["steps"][0]["score"] == data["select"]["cells"][0]["figures"][1]["value"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--metric", "clean.f1"], 3, "there is no figure 'clean.f1'"),
        (["--metric", "clean.loss", "--metric", "clean.accuracy"], 3, "have no mean"),
        (["--metric", "clean.loss", "--kind", "uniform", "--strict"], 3, "strict has no meaning"),
        (["merge.yml"], 3, "merge.yml is a recipe, not a model"),
        (["--out", "m0"], 5, "the output exists"),
        (["--html", "nowhere/a.html"], 2, "there is no folder nowhere"),
        (["--kind", "mixed"], 2, "'mixed' is not one of"),
    ],
    ids=["metric", "directions", "strict", "recipe", "out", "folder", "kind"],
)
def test_wrong_usage(bench, capsys, arguments, code, told):
    """Refused before anything is measured."""
    assert run(*arguments) == code
    printed = capsys.readouterr()
    assert told in printed.err
    assert printed.out == ""
    assert "examples in" not in printed.err


def test_nothing_to_choose_from(bench):
    """No model that could be measured, no model at all, no such kind."""
    with pytest.raises(ExecutionError, match="no model could be measured"):
        made(bench, "gone", metrics=["clean.loss"])
    with pytest.raises(RecipeError, match="a soup needs models"):
        soup([], suite_in(bench))
    with pytest.raises(RecipeError, match="unknown kind of soup"):
        made(bench, kind="cold")


def test_a_soup_that_fails_is_not_written(bench, capsys):
    """A uniform soup with a model that is gone: the exit code is 1, the table is shown, and there is no OUT."""
    arguments = ["soup", "m0", "gone", "--suite", "suite.yml", "--allow-code", "--kind", "uniform", "--out", "out"]
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert "out was not written" in printed.err
    assert "uniform soup: FAILED" in printed.out
    assert not (bench / "out").exists()


def test_objectives(bench):
    """The ranking metric of all tasks where it is one, else it must be named; the mean of several."""
    suite = suite_in(bench)
    result = evaluate([candidate("m0"), candidate("gone")], suite, split="select")
    both = objective_of(suite)
    assert str(both) == "mean of clean.accuracy, noisy.accuracy"
    assert both.value(result, "m0") == pytest.approx((value(result, "m0") + value(result, "m0", "noisy")) / 2)
    assert both.score(result, "gone") == -math.inf
    loss = objective_of(suite, ["noisy.loss"])
    assert loss.score(result, "m0") == -value(result, "m0", "noisy", "loss")
    assert [t.name for t in loss.within(suite).tasks] == ["noisy"]
    assert "report" not in loss.within(suite).tasks[0].data
    (bench / "suite.yml").write_text((bench / "suite.yml").read_text() + "    metrics: [loss]\n")
    with pytest.raises(RecipeError, match="rank by several: clean by accuracy, noisy by loss"):
        objective_of(suite_in(bench))


def test_a_task_that_fails_on_one_average(bench, capsys):
    """Is a step that FAILED, with the message; the next models are tried, and the exit code is 1."""
    theta = fine_tunes()["m3"]
    write_model(bench / "far", theta | {"b.bias": theta["b.bias"] + np.float32(1000)})  # which softmax ignores
    head = "def logits(tensors, inputs):"
    check = f"{head}\n    assert not 200 < tensors['b.bias'].mean() < 900, 'in between'"
    (bench / "nets.py").write_text((bench / "nets.py").read_text().replace(head, check))
    arguments = ["soup", "m1", "far", "m2", "--suite", "suite.yml", "--allow-code", "--metric", "clean.accuracy"]
    code = main([*arguments, "--json", "soup.json"])
    data = json.loads((bench / "soup.json").read_text())
    steps = {step["name"]: step for step in data["steps"]}
    assert code == 1
    assert steps["far"]["error"] == "AssertionError: in between (nets.py, line 5)"
    assert steps["far"]["score"] is None
    assert "far: FAILED: AssertionError: in between" in capsys.readouterr().out
    assert "far" not in data["members"]


def test_a_recipe_has_numbers_and_words_for_any_reader_of_yaml():
    """Small shares too: 1e-05 is a word there, and so recipes written here are read alike by mergekit."""
    models = [(candidate("a b"), 1e-05), (candidate("on"), {"w.weight": 1e-07, "yes": 0.5})]
    told = yaml.safe_load(written("linear", models, base=candidate("c\x85d"), **{"lambda": 1e-05}))
    assert told["parameters"] == {"lambda": 1e-05}
    assert told["base_model"] == "c\x85d"
    assert told["models"] == [
        {"model": "a b", "parameters": {"weight": 1e-05}},
        {
            "model": "on",
            "parameters": {"weight": [{"filter": "w.weight", "value": 1e-07}, {"filter": "yes", "value": 0.5}]},
        },
    ]


def test_a_model_stands_in_a_soup_once(bench):
    """However its path is written: such a soup would have given it two shares without saying so."""
    (bench / "link").symlink_to(bench / "m1")
    for twice in ("m1", "./m1", str(bench / "m1"), "link"):
        with pytest.raises(RecipeError, match="is given twice"):
            made(bench, "m0", "m1", twice)
