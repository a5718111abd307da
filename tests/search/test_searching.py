"""Searches over recipes: what is chosen on which data, what is told, and that it is what is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from searching import RECIPE, SIX, SUITE, Reader, suite_in, tuning_bench

import stockpot as sp
from files import read_model
from stockpot.cli.main import main
from stockpot.errors import PlanError, RecipeError
from stockpot.evaluate import Cache, candidate, evaluate, load_suite
from stockpot.evaluate.table import number
from stockpot.evaluate.tasks.classification import Classification
from stockpot.search import Space, load_space, objective_of, search
from stockpot.search.tuning.page import search_page
from stockpot.search.tuning.trials import dominated, scores

CACHE = os.environ.get("STOCKPOT_CACHE_DIR")


@pytest.fixture
def kernels(bench, monkeypatch):
    """Other processes find the kernels of this one: they need not be compiled again."""
    if CACHE is None:
        monkeypatch.delenv("STOCKPOT_CACHE_DIR")
    else:
        monkeypatch.setenv("STOCKPOT_CACHE_DIR", CACHE)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOCKPOT_CACHE_DIR", str(tmp_path / "cache"))
    return tuning_bench(tmp_path)


def found_in(bench, **how):
    return search(
        load_space(bench / "recipe.yml"),
        suite_in(bench),
        **{"metrics": ["clean.loss"], "trials": 20, "random": 10, "lambda_points": 5, **how},
    )


def run(*more):
    """The verb, within this process."""
    suite = ("--suite", "suite.yml", "--allow-code", "--metric", "clean.loss", "--jobs", "0")
    return main(["search", "recipe.yml", *suite, "--trials", "12", "--random", "5", "--lambda-points", "3", *more])


def figure(result, model, task="clean", metric="loss"):
    return next(f.value for f in result.cell(model, task).figures if f.metric == metric)


def alone(bench, recipe, split, metric="clean.loss"):
    """The objective of a recipe's text, measured by itself."""
    (bench / "alone.yml").write_text(recipe)
    result = evaluate([candidate("alone.yml")], suite_in(bench), split=split)
    return objective_of(suite_in(bench), [metric]).value(result, "alone")


def test_a_search_beats_its_baselines_where_it_chooses(bench):
    """On the data of the trials and on select data; every trial's figure is that of the merge its recipe writes."""
    found = found_in(bench, trials=40)
    kinds = {row.kind: row for row in found.rows}
    assert list(kinds) == ["single", "shared", "random", "search"]
    tune = {kind: row.figures["tune"][0] for kind, row in kinds.items()}
    assert tune["search"] < min(tune["single"], tune["shared"], tune["random"])
    assert kinds["search"].figures["select"][0] < kinds["shared"].figures["select"][0]
    space = load_space(bench / "recipe.yml")
    for trial in (found.trials[3], found.trials[found.winner.trial]):
        assert trial.figures[0] == pytest.approx(alone(bench, space.written(trial.values), "tune"), rel=1e-9)
    assert found.recipe.text == space.written(found.winner.values)
    assert dict(found.trials[0].values) == space.start()


def test_six_numbers_by_layer(bench):
    """The searched loss falls by a tenth at least below that of the best single number; what is told has every gap."""
    (bench / "recipe.yml").write_text(SIX)
    found = found_in(bench, trials=60, random=0, lambda_points=11)
    assert len(found.dimensions) == 6
    kinds = {row.kind: row for row in found.rows}
    assert kinds["search"].figures["tune"][0] < 0.9 * kinds["shared"].figures["tune"][0]
    assert all(None not in row.gap(role, found.objectives) for row in found.rows for role in ("tune", "select"))
    page = search_page(found)
    assert 'aria-label="weight: 3 rows, 2 columns"' in page
    for one in found.dimensions:
        hole, where, group = one.cell
        assert f"<title>{hole}, {where}: {number(found.winner.values[one.name])}</title>" in page
        assert group == ""


def test_the_best_few_are_measured_on_select_data(bench):
    """The best there wins, whatever tune data says of them; so do the baselines, chosen in the same way."""
    found = found_in(bench, trials=30, top=8, sampler="random")
    space = load_space(bench / "recipe.yml")
    order = sorted((t for t in found.trials if t.figures), key=lambda t: t.figures)
    assert list(found.chosen) == [trial.number for trial in order[:8]]
    there = {n: alone(bench, space.written(found.trials[n].values), "select") for n in found.chosen}
    assert found.winner.trial == min(there, key=there.get)
    assert found.winner.figures["select"][0] == pytest.approx(there[found.winner.trial])
    single = {
        m: figure(evaluate([candidate(m)], suite_in(bench), split="select"), m) for m in ("base", "m0", "m1", "m2")
    }
    assert found.rows[0].name == min(single, key=single.get)
    assert found.random == ()


def test_gaps_are_how_much_worse_report_data_is(bench):
    """Whichever direction is better."""
    for metric, sign in (("clean.loss", -1), ("clean.accuracy", 1)):
        found = found_in(bench, metrics=[metric])
        for row in found.rows:
            own = {role: row.figures[role][0] for role in ("tune", "select", "report")}
            for role in ("tune", "select"):
                assert row.gap(role, found.objectives)[0] == pytest.approx(sign * (own[role] - own["report"]))
        told = found.as_data()["rows"][-1]
        assert told["gap_tune_report"] == found.winner.gap("tune", found.objectives)


@pytest.mark.parametrize("how", [{}, {"pareto": ["clean.loss", "noisy.loss"], "metrics": ()}], ids=["one", "front"])
def test_no_choice_sees_report_data(bench, monkeypatch, how):
    """Report data is read when everything is chosen, and only for what the tables have; the search works without it."""
    seen, real = [], Classification.predict

    def predict(self, model, files):
        seen.append((files[0].name.partition(".")[0].partition("-")[0], model.name))
        return real(self, model, files)

    monkeypatch.setattr(Classification, "predict", predict)
    found = found_in(bench, **how)
    first = [role for role, _ in seen].index("report")
    assert {role for role, _ in seen[first:]} == {"report"}
    assert {name for _, name in seen[first:]} == {row.name for row in found.rows}
    monkeypatch.undo()
    text = (
        (bench / "suite.yml").read_text().replace(", report: report.npz", "").replace(", report: report-noisy.npz", "")
    )
    (bench / "suite.yml").write_text(text)
    assert (without := found_in(bench, **how)).report is None
    assert without.winner.values == found.winner.values
    assert without.winner.gap("tune", without.objectives) == (None,) * len(without.objectives)


def test_without_tune_data(bench):
    """Trials are measured on select data, which is told; then there is nothing to choose anew."""
    (bench / "suite.yml").write_text(SUITE)
    found = found_in(bench)
    assert found.role == "select"
    assert found.tune is None
    assert "without tune data (clean)" in found.notes[0]
    best = min((t for t in found.trials if t.figures), key=lambda t: t.figures)
    assert found.winner.trial == best.number
    assert found.winner.figures["select"][0] == pytest.approx(best.figures[0], rel=1e-9)


def test_data_that_chose_is_marked_later(bench):
    """The cache remembers that tune and select data chose, even when the search ends before its end."""
    with Cache(bench / "kept") as cache:
        with pytest.raises(KeyboardInterrupt):
            found_in(bench, cache=cache, tell_trial=lambda _: (_ for _ in ()).throw(KeyboardInterrupt), name="mine.yml")
        text = SUITE.replace("select: select.npz, report: report.npz", "report: tune.npz")
        (bench / "other.yml").write_text(text)
        later = evaluate([candidate("m0")], load_suite(bench / "other.yml", allow_code=True), cache=cache)
    assert later.marks == {"clean": "this data was used to choose: search over mine.yml"}


def test_differences_are_to_the_best_single_model(bench):
    """On the same examples."""
    found = found_in(bench)
    first, *_, last = found.report.models
    assert first.name == found.rows[0].name
    cell = found.report.cell(last.name, "clean").figures[1]
    assert cell.difference == pytest.approx(cell.value - figure(found.report, first.name))
    assert cell.difference_low < cell.difference < cell.difference_high


def test_fronts_of_several_figures(bench):
    """No point of the front is dominated by another trial that was measured on select data; the winner is on it."""
    found = found_in(bench, metrics=(), pareto=["clean.accuracy", "noisy.loss"], trials=60)
    assert found.sampler == "nsga2"
    assert [str(one) for one in found.objectives] == ["clean.accuracy", "noisy.loss"]
    assert found.role == "select"
    points = {row.trial: scores(row.figures["select"], found.objectives) for row in found.front}
    assert found.winner.trial in points
    assert not any(dominated(a, b) for a in points.values() for b in points.values())
    all_of = [scores(found.trials[n].figures, found.objectives) for n in found.chosen]
    assert all(any(p == q or dominated(p, q) for q in points.values()) for p in all_of)
    assert {row.kind for row in found.rows} >= {"single", "shared", "random", "search"}


def test_the_grid_is_covered(bench):
    """Each combination once, as far as trials go; what is left is told."""
    (bench / "recipe.yml").write_text(
        RECIPE.replace("search: [-0.5, 1.5], start: 0.3", "search: [0, 1], step: 0.5, start: 0.5")
    )
    found = found_in(bench, sampler="grid", trials=100, random=None)
    assert len(found.trials) == len(found.random) == 27
    assert len({tuple(trial.values.values()) for trial in found.trials}) == 27
    assert found.notes == ()
    assert found_in(bench, sampler="grid", trials=5).notes == ("the grid has 27 combinations, of which 5 were tried",)


def test_models_that_only_a_choice_names_are_baselines(bench):
    """Each model of the recipe once."""
    text = RECIPE.replace("{model: m2,", "{model: {choice: [m2, m3], name: third},")
    (bench / "recipe.yml").write_text(text)
    seen = []
    found = found_in(bench, tell=lambda cell: seen.append(cell.model), trials=12)
    singles = [name for name in dict.fromkeys(seen) if "trial" not in name and "number" not in name]
    assert singles == ["base", "m0", "m1", "m2", "m3"]
    assert {trial.values["third"] for trial in found.trials} == {"m2", "m3"}


def test_failing_trials_are_told(bench, capsys):
    """A model that is missing is a failed trial with its message everywhere, and a failed row; the search goes on."""
    (bench / "recipe.yml").write_text(RECIPE.replace("{model: m2,", "{model: {choice: [m2, gone], name: third},"))
    assert run("--json", "s.json", "--html", "s.html") == 1  # "gone" is a row that could not be measured
    out = capsys.readouterr()
    data = json.loads((bench / "s.json").read_text())
    failed = [trial for trial in data["trials"] if trial["state"] == "failed"]
    assert failed
    assert all(trial["values"]["third"] == "gone" for trial in failed)
    assert all("no such file" in trial["error"] for trial in failed)
    assert f"({len(failed)} failed)" in out.out
    assert "gone could not be measured on select data: clean: no such file" in out.out
    assert "FAILED: " in out.err
    page = (bench / "s.html").read_text()
    assert failed[0]["error"][:30] in page
    assert data["rows"][-1]["kind"] == "search"


def test_when_all_trials_fail(bench, capsys):
    """The error has the commonest message; nothing is written."""
    module = (
        (bench / "nets.py")
        .read_text()
        .replace("def logits", "def broken(tensors, inputs):\n    raise MemoryError('none left')\n\ndef logits")
    )
    (bench / "nets.py").write_text(module)
    (bench / "suite.yml").write_text((bench / "suite.yml").read_text().replace("nets:logits", "nets:broken"))
    assert run("--out", "out") == 6
    told = capsys.readouterr().err
    assert "all 12 trials failed, most often so: clean: MemoryError: none left" in told
    assert "random search, 1 of" not in told  # nothing to beat: it ends at once
    assert not (bench / "out").exists()


def test_the_verb_writes_what_won(bench, capsys):
    """As a merge with its receipt, the same as its recipe gives; JSON and page hold everything; it can be repeated."""
    assert run("--out", "out", "--json", "s.json", "--html", "s.html", "--recipe-out", "won.yml") == 0
    shown = capsys.readouterr()
    data = json.loads((bench / "s.json").read_text())
    assert main(["verify", "out"]) == 0
    assert (bench / "won.yml").read_text() == data["recipe"]
    merged = sp.compute(candidate("won.yml").what)
    assert all(np.array_equal(array, merged[name]) for name, array in read_model("out").items())
    assert data["out"] == "out"
    assert "is to be run from" not in shown.err
    assert len(data["trials"]) == 12
    assert data["study"] == "recipe.yml.search.sqlite"
    assert shown.err.index("one number, 3 of 3: ") < shown.err.index("search 12 of 12: ")
    assert shown.err.index("search 12 of 12: ") < shown.err.index("random search, 1 of 5: ")
    assert "best " in shown.err
    assert " left" in shown.err
    assert "gap tune–report" in shown.out
    assert "best single" not in shown.out
    reader = Reader()
    reader.feed((bench / "s.html").read_text())
    assert reader.open == []
    assert reader.fetched == []
    assert any("one number, " in text for text in reader.text)


def test_the_same_command_continues(bench, capsys):
    """No trial is made again; more of them go on from there; another recipe, seed or suite is refused."""
    assert run("--json", "a.json") == 0
    capsys.readouterr()
    assert run("--json", "b.json") == 0
    assert "search " not in capsys.readouterr().err.replace("random search", "").replace("search, trial", "")
    first, again = (json.loads((bench / name).read_text()) for name in ("a.json", "b.json"))
    assert again["trials"] == first["trials"]
    assert run("--trials", "15", "--json", "c.json") == 0
    more = json.loads((bench / "c.json").read_text())["trials"]
    assert more[:12] == first["trials"]
    assert len(more) == 15
    (bench / "recipe.yml").write_text(RECIPE.replace("1.5", "1.25"))
    assert run() == 5
    told = capsys.readouterr().err
    assert "the study was made of something else: recipe" in told
    assert "fix: name another file: --study FILE" in told
    assert run("--study", "other.sqlite") == 0
    (bench / "recipe.yml").write_text(RECIPE)
    assert run("--seed", "5") == 5
    assert "seed (was 0, is 5)" in capsys.readouterr().err
    assert run("--sampler", "cma-es") == 5
    assert "sampler (was tpe, is cma-es)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--metric", "clean.rank"], "there is no figure 'clean.rank'"),
        (["--pareto", "clean.loss", "--pareto", "noisy.loss"], "give one of them"),
        (["--rungs", "0.5,0.2"], "rising numbers that end with 1"),
        (["--sampler", "grid", "--grid-points", "200"], "the grid has 8000000 points"),
    ],
    ids=["figure", "both", "rungs", "grid"],
)
def test_what_cannot_be_asked(bench, capsys, change, told):
    """Is told before anything is measured, and no study is begun."""
    assert run(*change) == 3
    assert told in capsys.readouterr().err
    assert run("--rungs", "half") == 2


def test_what_does_not_go_together(bench):
    """With a fix each."""
    cases = [
        ({"metrics": (), "pareto": ["clean.loss", "clean.loss"]}, "two figures"),
        ({"metrics": (), "pareto": ["clean.loss", "noisy.loss"], "sampler": "cma-es"}, "one objective"),
        ({"metrics": (), "pareto": ["clean.loss", "noisy.loss"], "rungs": (0.5, 1.0)}, "a front has none"),
        ({"sampler": "annealing"}, "unknown sampler"),
        ({"trials": 0}, "trials and top are 1 or more"),
    ]
    for how, message in cases:
        with pytest.raises(RecipeError, match=message):
            found_in(bench, **how)
    one = "{merge_method: linear, models: [{model: m0}, {model: m1, parameters: {weight: %s}}]}"
    for hole, message in (("{search: [0, 1]}", "two dimensions"), ("{choice: [0, 1]}", "is a choice")):
        with pytest.raises(RecipeError, match=message):
            search(Space.of(one % hole), suite_in(bench), metrics=["clean.loss"], sampler="cma-es")
    (bench / "choice.yml").write_text("# a choice\n" + one % "{choice: [0, 1]}")
    with pytest.raises(RecipeError, match=r"is a choice \[file .*choice\.yml, recipe line 2\]"):
        search(load_space(bench / "choice.yml"), suite_in(bench), metrics=["clean.loss"], sampler="cma-es")


def test_rungs_give_the_same_winner_for_less(bench):
    """Stopped trials have seen a part of the data; what is complete has the figures of all data."""
    found = found_in(bench, rungs=(0.2, 1.0), trials=40, random=0, lambda_points=0)
    stopped = [trial for trial in found.trials if trial.state == "stopped"]
    assert len(stopped) > 15
    space = load_space(bench / "recipe.yml")
    won = found.trials[found.winner.trial]
    assert won.figures[0] == pytest.approx(alone(bench, space.written(won.values), "tune"), rel=1e-6)
    assert [row.kind for row in found.rows] == ["single", "search"]


def test_processes_find_what_this_process_finds(bench, kernels):
    """One of them, bit for bit; the suite is loaded there by a loader, its code allowed."""
    loader = partial(load_suite, bench / "suite.yml", allow_code=True)
    how = {"trials": 8, "random": 2, "lambda_points": 2}
    here, there = found_in(bench, **how), found_in(bench, **how, jobs=1, loader=loader)
    assert [(t.values, t.outcome.rungs) for t in there.trials] == [(t.values, t.outcome.rungs) for t in here.trials]
    assert there.rows == here.rows
    with pytest.raises(PlanError, match="the suite or its data has changed"):
        found_in(bench, **how, jobs=1, loader=changed(bench))


def changed(bench):
    """A loader of a suite that has other data."""
    (bench / "later.yml").write_text(
        (bench / "suite.yml").read_text().replace("tune: tune.npz", "tune: report-noisy.npz")
    )
    return partial(load_suite, bench / "later.yml", allow_code=True, same_data=True)


def test_a_study_belongs_to_its_models(bench):
    """When a model has changed since, what is known of it is not what would be measured."""
    found_in(bench, study=bench / "kept.sqlite", trials=2, random=0, lambda_points=0)
    path = bench / "m1" / "model.safetensors"
    path.write_bytes((bench / "m3" / "model.safetensors").read_bytes())
    with pytest.raises(PlanError, match="something else: models"):
        found_in(bench, study=bench / "kept.sqlite", trials=2, random=0, lambda_points=0)


def test_ctrl_c_and_the_same_command(bench, kernels):
    """Exit code 130, what is kept and how to go on; then exactly the trials that were asked for."""
    command = [
        sys.executable, "-m", "stockpot", "search", "recipe.yml", "--suite", "suite.yml", "--allow-code",
        "--metric", "clean.loss", "--random", "0", "--lambda-points", "0", "--cache", "kept", "--trials",
    ]  # fmt: skip
    process = subprocess.Popen([*command, "5000"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lines = [process.stderr.readline() for _ in range(5)]
    assert "search 5 of 5000: " in lines[-1]
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "are kept in recipe.yml.search.sqlite: the same command continues" in told
    done = int(next(line for line in reversed([*lines, *told.splitlines()]) if line.startswith("search ")).split()[1])
    time.sleep(1)
    assert not list(bench.glob("*.lock"))
    assert main([*command[3:], str(done + 4), "--jobs", "0", "--json", "s.json"]) == 0
    trials = json.loads((bench / "s.json").read_text())["trials"]
    assert [trial["number"] for trial in trials] == list(range(max(done + 4, len(trials))))
    assert all(trial["state"] == "complete" for trial in trials)
    assert (bench / "recipe.yml.search.sqlite").exists()


def test_a_study_belongs_to_models_that_only_a_choice_names(bench):
    """The first guess does not read them, a trial does."""
    text = RECIPE.replace("model: m1", "model: {choice: [m1, m3]}")
    (bench / "recipe.yml").write_text(text)
    how = {"study": bench / "kept.sqlite", "trials": 2, "random": 0, "lambda_points": 0}
    found_in(bench, **how)
    path = bench / "m3" / "model.safetensors"
    path.write_bytes((bench / "m0" / "model.safetensors").read_bytes())
    with pytest.raises(PlanError, match="something else: models"):
        found_in(bench, **how)


@pytest.mark.parametrize(("file", "told"), [("scores.py", "data"), ("own.py", "methods and small files")], ids=str)
def test_a_study_belongs_to_the_code_that_measures_and_merges(bench, file, told):
    """Metrics and methods of one's own: what an earlier version of them found is no figure of this one."""
    (bench / "scores.py").write_text(
        "from stockpot.evaluate import Metric\nown = Metric('own', 'lower', lambda p: p['loss'])\n"
    )
    (bench / "own.py").write_text(
        "import stockpot as sp\n\n\n@sp.elementwise\ndef added(deltas, weight: sp.PerModel = 1.0):\n"
        "    return (weight * deltas).sum(axis=0)\n"
    )
    suite = (bench / "suite.yml").read_text().replace("    split:", "    metrics: ['scores:own']\n    split:")
    (bench / "suite.yml").write_text(suite)
    recipe = RECIPE.replace("merge_method: task_arithmetic", "method_file: own.py\nmerge_method: added")
    (bench / "recipe.yml").write_text(recipe)

    def again():
        space = load_space(bench / "recipe.yml", allow_code=True)
        more = {"metrics": ["clean.own"], "trials": 2, "random": 0, "lambda_points": 0}
        return search(space, suite_in(bench), study=bench / "kept.sqlite", **more)

    again()
    again()
    (bench / file).write_text((bench / file).read_text() + "# another version\n")
    with pytest.raises(PlanError, match=f"something else: {told}$|something else: {told}\n|else: {told}"):
        again()


@pytest.mark.parametrize("file", ["recipe.yml", "suite.yml"], ids=str)
def test_the_winner_does_not_take_the_place_of_what_it_was_searched_with(bench, capsys, file):
    """The recipe with its holes, or the suite, would be lost."""
    before = (bench / file).read_bytes()
    assert run("--recipe-out", str(bench / file)) == 2
    assert "name another file" in capsys.readouterr().err
    assert (bench / file).read_bytes() == before
    assert not (bench / "recipe.yml.search.sqlite").exists()
