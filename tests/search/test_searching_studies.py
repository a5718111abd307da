"""Studies: trials that are kept, continued and repeated; samplers; failures; processes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tuned import BOTH, LOWER, Bowl, Parent, begin, bowl, floats, sampler

from stockpot.errors import ExecutionError, PlanError, RecipeError, StorageError
from stockpot.search.spaces.dimensions import Dimension
from stockpot.search.tuning.halving import survives
from stockpot.search.tuning.rounds import best_trial, carry_out
from stockpot.search.tuning.samplers import SAMPLERS, grid
from stockpot.search.tuning.study import Shelf
from stockpot.search.tuning.trials import Outcome, Trial, best_of, commonest, dominated, front_of
from stockpot.search.tuning.workers import crew_of

MIXED = (
    Dimension("a", 1, "float", 0.0, 1.0, start=0.5),
    Dimension("b", 2, "int", 1, 9, start=5),
    Dimension("c", 3, "float", 1e-3, 1.0, log=True, start=0.1),
    Dimension("d", 4, "choice", choices=("x", "y", True), start="y"),
    Dimension("e", 5, "float", 0.0, 0.5, step=0.2, start=0.2),
)


def run(path, name="tpe", *, trials=20, dimensions=None, objectives=LOWER, setup=None, facts=(), seed=0, jobs=0):
    """A study in a file, carried out."""
    dimensions = dimensions or floats(3)
    own = sampler(name, dimensions, seed) if isinstance(name, str) else name
    setup = setup or Bowl(several=len(objectives) > 1)
    first = begin(dimensions) if name != "random" and isinstance(name, str) else None
    with Shelf(path) as shelf, crew_of(setup, jobs, 1) as crew:
        study = shelf.study("search", dimensions, own, objectives, dict(facts), first)
        return carry_out(study, crew, objectives, trials=trials, stops=len(setup.shares) - 1)


def told(trials):
    """Trials without the time that they took."""
    return [(t.number, dict(t.values), t.state, t.outcome.rungs, t.outcome.error) for t in trials]


class Numbers:
    """A quadratic of numbers among other things."""

    shares = (1.0,)

    def __call__(self):
        return contextlib.nullcontext(self)

    def values(self, values):
        yield ((values["a"] - 0.3) ** 2 + (values["d"] != "x"),)


@pytest.mark.parametrize("name", ["tpe", "cma-es", "nsga2"])
def test_samplers_find_a_planted_optimum(name):
    """Better than random search with as many trials, and near it."""
    dimensions = floats(4)
    found = best_trial(run(None, name, trials=150, dimensions=dimensions), LOWER)
    drawn = best_trial(run(None, "random", trials=150, dimensions=dimensions), LOWER)
    assert found.figures[0] < drawn.figures[0]
    assert found.figures[0] < 0.03


@pytest.mark.parametrize("name", ["tpe", "nsga2", "random"])
def test_samplers_take_any_dimension(name):
    """Values are in their ranges and on their steps, choices are what was written, the start comes first."""
    trials = run(None, name, trials=40, dimensions=MIXED, setup=Numbers())
    assert dict(trials[0].values) == begin(MIXED) or name == "random"
    for trial in trials:
        assert all(one.wrong(trial.values[one.name]) is None for one in MIXED)
        assert min(abs(trial.values["e"] - step) for step in (0.0, 0.2, 0.4)) < 1e-12
        assert isinstance(trial.values["b"], int)
    assert {trial.values["d"] for trial in trials} == {"x", "y", True}


def test_the_grid_has_every_combination():
    """Each once: steps, whole numbers, choices, and places of a range; in another order with another seed."""
    points = grid(MIXED, 3, 0)
    wanted = itertools.product((0.0, 0.5, 1.0), (1, 5, 9), (1e-3, 10**-1.5, 1.0), ("x", "y", True), (0.0, 0.2, 0.4))
    near = {tuple(round(v, 9) if isinstance(v, float) else v for v in point.values()) for point in points}
    assert len(points) == 243
    assert near == {tuple(round(v, 9) if isinstance(v, float) else v for v in point) for point in wanted}
    assert points != grid(MIXED, 3, 1)
    trials = run(None, points, trials=1000, dimensions=MIXED, setup=Numbers())
    assert [dict(trial.values) for trial in trials] == points
    with pytest.raises(RecipeError, match="the grid has 11390625 points"):
        grid(floats(6), 15, 0)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "grid"])
@pytest.mark.parametrize("cuts", [(1, 2, 13)], ids=str)
def test_a_search_that_was_cut_is_the_search_in_one_piece(tmp_path, name, cuts):
    """The same trials, bit for bit: what samplers remember lies in the file. Another seed gives others."""
    objectives = BOTH if name == "nsga2" else LOWER
    whole = run(tmp_path / "whole", name, trials=30, objectives=objectives)
    for cut in (*cuts, 30):
        parts = run(tmp_path / "parts", name, trials=cut, objectives=objectives)
    assert told(parts) == told(whole) == told(run(None, name, trials=30, objectives=objectives))
    assert told(run(None, name, trials=30, objectives=objectives, seed=1)) != told(whole)


def test_a_trial_that_was_running_is_run_again_with_its_values(tmp_path):
    """Under its own number; it is neither lost nor counted twice."""
    dimensions = floats(3)
    with Shelf(tmp_path / "study") as shelf:
        study = shelf.study("search", dimensions, sampler("tpe", dimensions), LOWER, {}, begin(dimensions))
        study.tell(study.ask().number, Outcome("complete", ((1.0,),)))
        left = study.ask()
    trials = run(tmp_path / "study", trials=5)
    assert dict(trials[1].values) == dict(left.values)
    assert [trial.state for trial in trials] == ["complete"] * 5


def test_a_trial_without_parameters_is_mended(tmp_path):
    """The process may die when a trial has its values, but not yet as Optuna's parameters."""
    from sqlalchemy import create_engine, text

    run(tmp_path / "study", trials=4)
    with create_engine(f"sqlite:///{tmp_path / 'study'}").begin() as connection:
        connection.execute(text("DELETE FROM trial_params WHERE trial_id = 4"))
        connection.execute(text("UPDATE trials SET state = 'RUNNING' WHERE trial_id = 4"))
    assert told(run(tmp_path / "study", trials=6)) == told(run(None, trials=6))
    with create_engine(f"sqlite:///{tmp_path / 'study'}").begin() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM trial_params")).scalar() == 18


def test_kills_at_any_moment_lose_nothing(tmp_path):
    """Killed again and again, the search ends with exactly its trials, those of an uninterrupted one."""
    script = (
        "import sys; from pathlib import Path\n"
        "from test_searching_studies import run; from tuned import Bowl\n"
        "print('on', flush=True); run(Path(sys.argv[1]), trials=40, setup=Bowl(slow=0.01))"
    )
    place = [str(Path(__file__).parent), *sys.path]
    command = [sys.executable, "-c", script, str(tmp_path / "study")]
    wait, kills = random.Random(0), 0
    for _ in range(12):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": ":".join(place)})
        process.stdout.readline()
        time.sleep(wait.uniform(0.3, 1.2))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
        if kills >= 3:
            break
    assert kills >= 2
    trials = run(tmp_path / "study", trials=40)
    assert [trial.number for trial in trials] == list(range(40))
    assert told(trials) == told(run(None, trials=40))


def test_what_was_measured_is_not_measured_again(tmp_path):
    """Equal values have equal figures, whoever asks for them."""
    switch = (Dimension("s", 1, "choice", choices=("a", "b"), start="a"),)

    class Count:
        shares, seen = (1.0,), []

        def __call__(self):
            import contextlib

            return contextlib.nullcontext(self)

        def values(self, values):
            self.seen.append(values["s"])
            yield (float(values["s"] == "a"),)

    trials = run(tmp_path / "study", trials=12, dimensions=switch, setup=Count())
    assert sorted(Count.seen) == ["a", "b"]
    assert len(trials) == 12
    assert all(trial.figures == (float(trial.values["s"] == "a"),) for trial in trials)


def test_failures_are_trials(tmp_path):
    """With their message, in this process; the search goes on, and later runs know them."""
    setup = Bowl(fails=0.4)
    trials = run(tmp_path / "study", "random", trials=30, setup=setup)
    failed = [trial for trial in trials if trial.state == "failed"]
    assert {trial.number for trial in failed} == {t.number for t in trials if t.values["x0"] < 0.4}
    places = re.compile(r" \(tuned\.py, line \d+\)$")
    assert {places.sub("", trial.outcome.error) for trial in failed} == {
        "MemoryError: too little for large values",
        "MemoryError: too little for small values",
    }
    assert places.sub("", commonest(trials)) == "MemoryError: too little for large values"
    assert told(run(tmp_path / "study", "random", trials=30, setup=setup)) == told(trials)


@pytest.mark.parametrize("figure", [float("nan"), float("inf")], ids=str)
def test_figures_that_are_no_numbers_fail(figure):
    """They would lead a sampler anywhere."""

    class Odd(Numbers):
        def values(self, values):
            yield (figure,)

    trials = run(None, trials=3, dimensions=MIXED, setup=Odd())
    assert all(trial.state == "failed" and "not finite" in trial.outcome.error for trial in trials)


def test_rungs_stop_what_is_bad(tmp_path):
    """A trial goes on while it is among the best third so far; the best is among those that went on, resumed or not."""
    setup = Bowl(shares=(0.1, 0.3, 1.0))
    trials = run(tmp_path / "study", "random", trials=20, setup=setup)
    for _ in range(2):
        trials = run(tmp_path / "study", "random", trials=45, setup=setup)
    assert told(trials) == told(run(None, "random", trials=45, setup=setup))
    stopped = [trial for trial in trials if trial.state == "stopped"]
    assert len(stopped) > 25
    assert all(len(trial.outcome.rungs) < 3 and trial.figures is None for trial in stopped)
    seen = []
    for trial in trials:
        first = trial.outcome.rungs[0][0]
        assert (len(trial.outcome.rungs) > 1) == survives(-first, seen)
        seen.append(-first)
    best = min(trials, key=lambda trial: bowl(trial.values))
    assert best_trial(trials, LOWER) == best
    for name in ("tpe", "cma-es"):
        found = run(tmp_path / name, name, trials=60, setup=setup)
        assert best_trial(found, LOWER).figures[0] < 0.02


def test_processes_share_the_work(tmp_path):
    """Each trial is evaluated once, by processes other than this; failures are told as here."""
    log = tmp_path / "log"
    trials = run(tmp_path / "study", "random", trials=30, setup=Bowl(log=str(log), fails=0.2, slow=0.02), jobs=2)
    lines = log.read_text().splitlines()
    assert sorted(line.split(" ", 1)[1] for line in lines) == sorted(str(sorted(t.values.items())) for t in trials)
    pids = {line.split()[0] for line in lines}
    assert len(pids) == 2
    assert str(os.getpid()) not in pids
    assert {trial.number for trial in trials} == set(range(30))
    assert all((trial.state == "failed") == (trial.values["x0"] < 0.2) for trial in trials)


def test_one_process_gives_the_trials_of_this_process(tmp_path):
    """With rungs too: which process evaluates makes no difference."""
    setup = Bowl(shares=(0.2, 1.0))
    assert told(run(None, trials=25, setup=setup, jobs=1)) == told(run(None, trials=25, setup=setup))


def test_a_process_that_dies_is_replaced(tmp_path):
    """Its trial is begun once more, and has failed when it dies again; the search goes on."""
    log = tmp_path / "deaths"
    log.write_text("once\n")
    setup = Bowl(dies=str(log), fails=0.3)
    trials = run(None, "random", trials=12, setup=setup, jobs=2)
    assert log.read_text() == ""
    assert all(trial.state == "complete" for trial in trials)
    log.write_text("again\n" * 100)
    trials = run(None, "random", trials=8, setup=setup, jobs=1)
    for trial in trials:
        dead = trial.values["x0"] < 0.3
        assert trial.state == ("failed" if dead else "complete")
        assert not dead or "the process died twice (killed by signal 9" in trial.outcome.error
    assert log.read_text().count("again") == 100 - 2 * sum(trial.state == "failed" for trial in trials) > 90 - 16


class Broken(Bowl):
    """Cannot begin."""

    def __call__(self):
        raise ValueError("no suite here")


class Dead(Bowl):
    """Dies as it begins."""

    def __call__(self):
        os._exit(7)


def test_processes_that_cannot_begin(tmp_path):
    """End the search with the reason; what cannot be sent is told before."""
    with pytest.raises(ExecutionError, match="a process cannot begin: ValueError: no suite here"):
        run(None, setup=Broken(), jobs=1)
    with pytest.raises(ExecutionError, match=r"cannot begin \(code 7\)"):
        run(None, setup=Dead(), jobs=1)
    with pytest.raises(RecipeError, match="cannot be sent to a process"):
        run(None, setup=type("Local", (Bowl,), {})(), jobs=1)


def test_a_study_of_something_else_is_refused(tmp_path):
    """With what differs and the fix; nothing is changed."""
    facts = {"recipe": "0" * 32, "sampler": "tpe", "seed": 3}
    trials = run(tmp_path / "study", trials=3, facts=facts.items())
    changed = {**facts, "recipe": "1" * 32, "seed": 4}
    with pytest.raises(PlanError, match=r"something else: recipe, seed \(was 3, is 4\)") as caught:
        run(tmp_path / "study", trials=9, facts=changed.items())
    assert "--study FILE" in str(caught.value)
    assert told(run(tmp_path / "study", trials=3, facts=facts.items())) == told(trials)


def test_one_search_at_a_time(tmp_path):
    """Another that wants the same file is told who has it."""
    with (
        Shelf(tmp_path / "study"),
        pytest.raises(PlanError, match=f"process {os.getpid()} on .* searches with this study"),
    ):
        Shelf(tmp_path / "study")
    Shelf(tmp_path / "study").__exit__()


def test_files_that_cannot_be_studies(tmp_path):
    """Are errors with a fix."""
    (tmp_path / "text").write_text("this is no database " * 100)
    with pytest.raises(StorageError, match="not a database") as caught:
        Shelf(tmp_path / "text")
    assert "--study FILE" in str(caught.value)
    with pytest.raises(StorageError, match="cannot be kept"):
        Shelf(tmp_path / "nowhere" / "study")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("trial_user_attributes SET value_json = '\"{\"' WHERE key = 'stockpot:outcome'", "JSONDecodeError"),
        ("trial_user_attributes SET value_json = '\"{}\"' WHERE key = 'stockpot:outcome'", "trial 0 has no figures"),
        ('trial_params SET distribution_json = \'{"name": "os.system"}\'', "os.system"),
        ("study_user_attributes SET value_json = '[1]'", "TypeError"),
    ],
    ids=["no-json", "no-figures", "code", "facts"],
)
def test_what_a_strangers_file_holds_is_told_and_never_run(tmp_path, change, told):
    """A study is read as text; content that no search wrote is an error that names the file."""
    run(tmp_path / "study", trials=3)
    with contextlib.closing(sqlite3.connect(tmp_path / "study")) as database, database:
        database.execute(f"UPDATE {change}")
    with pytest.raises(StorageError, match="damaged, or was not written by stockpot search") as caught:
        run(tmp_path / "study", trials=4)
    assert told in str(caught.value)
    assert str(tmp_path / "study") in str(caught.value)


def test_the_file_is_optunas(tmp_path):
    """Its own tools read trials, values and messages there."""
    import optuna

    run(tmp_path / "study", "random", trials=10, setup=Bowl(fails=0.3, shares=(0.5, 1.0)))
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'study'}")
    states = {trial.state.name for trial in study.trials}
    assert states == {"COMPLETE", "PRUNED", "FAIL"}
    assert study.best_value == min(bowl(t.params) for t in study.trials if t.state.name == "COMPLETE")
    assert all(len(trial.intermediate_values) == 2 for trial in study.trials if trial.state.name == "COMPLETE")
    message = next(trial.user_attrs["stockpot:outcome"] for trial in study.trials if trial.state.name == "FAIL")
    assert "MemoryError" in json.loads(message)["error"]


def test_fronts():
    """No point of a front is dominated, every other point is by one of the front; ranks follow."""
    draw = random.Random(1)
    given = [(draw.randint(0, 9), draw.randint(0, 9)) for _ in range(60)] + [(float("-inf"), 100)]
    front = [given[i] for i in front_of(given)]
    assert not any(dominated(one, other) for one in front for other in given if float("-inf") not in other)
    assert all(one in front or any(dominated(one, other) for other in front) for one in given[:-1])
    order = [given[i] for i in best_of(given)]
    assert len(order) == 60
    assert order[0] in front
    assert not any(dominated(order[i], order[j]) for i in range(60) for j in range(i + 1, 60))


def test_the_best_is_the_first_of_equals():
    """And none of those that are not complete."""
    given = [
        Trial(i, {}, Outcome(state, ((value,),)))
        for i, (state, value) in enumerate([("stopped", 0.0), ("complete", 0.5), ("complete", 0.5), ("failed", 0.0)])
    ]
    assert best_trial(given, LOWER).number == 1
    assert best_trial(given[:1], LOWER) is None


class Littering(Numbers):
    """Leaves a temporary folder behind with each trial."""

    def values(self, values):
        yield (float(len(tempfile.mkdtemp())),)


def test_processes_leave_no_temporary_files(tmp_path, monkeypatch):
    """They are ended at any moment, as in the midst of a trial: what they had put down is removed all the same."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert [trial.state for trial in run(None, "random", trials=3, setup=Littering(), jobs=1)] == ["complete"] * 3
    assert list(tmp_path.iterdir()) == []
    assert os.environ["TMPDIR"] == str(tmp_path)


def test_a_trial_may_start_processes():
    """As tasks do that run vLLM."""
    trials = run(None, trials=2, setup=Parent(), jobs=1)
    assert [trial.figures for trial in trials] == [(bowl(trial.values),) for trial in trials]
