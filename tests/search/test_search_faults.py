"""Searches when something breaks: the study's file, code that hangs or prints, processes and their parent."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from searching import tuning_bench
from test_searching_studies import run, told
from tuned import LOWER, Bowl, floats, sampler

from stockpot.cli.main import main
from stockpot.errors import PlanError, RecipeError, StorageError
from stockpot.search import load_space, search
from stockpot.search.tuning.rounds import carry_out
from stockpot.search.tuning.study import Shelf
from stockpot.search.tuning.workers import crew_of

NOISE = 'import os, sys\nprint("PRINTED")\nsys.stdout.flush()\nos.write(1, b"WRITTEN\\n")\nos.system("echo SHELL")\n'


class Meanwhile(Bowl):
    """Does something in its first trial."""

    def __init__(self, what):
        super().__init__()
        object.__setattr__(self, "what", [what])

    def values(self, values):
        if self.what:
            self.what.pop()()
        yield from super().values(values)


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_study_that_is_removed_meanwhile(tmp_path, how):
    """Ends the search at the next trial: what is written to a file without a name would be lost in silence."""
    path = tmp_path / "study"

    def change():
        path.unlink()
        if how == "replaced":
            path.write_bytes(b"")

    with pytest.raises(StorageError, match="was removed, or replaced, while it was searched with"):
        run(path, trials=5, setup=Meanwhile(change))
    assert not list(tmp_path.glob("*.lock"))


def test_a_study_that_another_program_holds(tmp_path, monkeypatch):
    """Is an error that says so; the same command then continues."""
    path = tmp_path / "study"
    monkeypatch.setattr("stockpot.search.tuning.study._WAIT_SECONDS", 0.1)
    other = []

    def hold():
        other.append(sqlite3.connect(path, isolation_level=None))
        other[0].execute("BEGIN IMMEDIATE")

    with pytest.raises(StorageError, match="database is locked") as caught:
        run(path, trials=5, setup=Meanwhile(hold))
    assert "end what holds it" in str(caught.value)
    other[0].close()
    assert told(run(path, trials=5)) == told(run(None, trials=5))


def test_a_study_on_a_full_disk(tmp_path):
    """Is an error that says so; with room the same command continues to the same trials."""
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from test_searching_studies import run\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))\n"
        "run(Path(sys.argv[1]), trials=100)"
    )
    environment = os.environ | {"PYTHONPATH": ":".join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", script, str(tmp_path / "study")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "StorageError: the study fails: " in ended.stderr
    assert "then the same command continues" in ended.stderr
    trials = run(tmp_path / "study", trials=30)
    assert told(trials) == told(run(None, trials=len(trials)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("outcome", '{"x'),
        ("outcome", '"{}"'),
        ("outcome", '"[1"'),
        ("outcome", "17"),
        ("outcome", '"{\\"rungs\\": 3}"'),
    ],
)
def test_a_study_with_damage_inside(tmp_path, key, value):
    """Is refused, whatever a trial holds."""
    path = tmp_path / "study"
    run(path, trials=4)
    with sqlite3.connect(path) as database:
        changed = "UPDATE trial_user_attributes SET value_json = ? WHERE key = ? AND trial_id = 2"
        assert database.execute(changed, (value, f"stockpot:{key}")).rowcount == 1
    database.close()
    with pytest.raises(StorageError, match="the study is damaged") as caught:
        run(path, trials=5)
    assert "remove it" in str(caught.value)


def test_a_study_of_another_version(tmp_path):
    """Is refused with the version that made it; figures of two versions are not mixed."""
    facts = {"versions": {"stockpot": "1.0", "numpy": "2.0"}}
    run(tmp_path / "study", trials=2, facts=facts.items())
    facts = {"versions": {"stockpot": "1.1", "numpy": "2.0"}}
    with pytest.raises(PlanError, match=r"something else: versions of stockpot \(was 1.0, is 1.1\) "):
        run(tmp_path / "study", trials=2, facts=facts.items())


class Hangs(Bowl):
    """Does not end where the first number is low."""

    def values(self, values):
        if next(iter(values.values())) < self.fails:
            while True:
                time.sleep(1)
        yield from super().values(values)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_trial_that_hangs_has_failed(jobs):
    """With a limit of time; the others are as ever."""
    dimensions, setup = floats(2), Hangs(fails=0.3)
    began = time.monotonic()
    with Shelf(None) as shelf, crew_of(setup, jobs, 1, 0.5) as crew:
        study = shelf.study("search", dimensions, sampler("random", dimensions), LOWER, {}, None)
        trials = carry_out(study, crew, LOWER, trials=6)
    hung = [trial for trial in trials if trial.values["x0"] < 0.3]
    assert [trial.outcome.error for trial in hung] == ["stopped: it took longer than 0.5 seconds"] * len(hung) != []
    assert time.monotonic() - began >= 0.5
    assert all(trial.state == "complete" for trial in trials if trial not in hung)
    assert len(trials) == 6


def test_a_limit_of_time_needs_processes(tmp_path):
    """Nothing else can be stopped."""
    tuning_bench(tmp_path)
    space = load_space(tmp_path / "recipe.yml")
    for jobs, seconds in ((0, 5.0), (1, 0.0), (1, float("nan"))):
        with pytest.raises(RecipeError, match="only processes can be stopped"):
            search(space, None, jobs=jobs, trial_seconds=seconds)


@pytest.mark.parametrize("verb", ["evaluate", "search"])
def test_standard_output_is_json_alone(verb, tmp_path, monkeypatch, capfd):
    """Whatever code of users prints, in this process, in others and in their children; it goes to standard error."""
    tuning_bench(tmp_path)
    monkeypatch.chdir(tmp_path)
    code = (
        Path("nets.py")
        .read_text()
        .replace("def logits(tensors, inputs):", f"def logits(tensors, inputs):\n{_in(NOISE)}")
    )
    Path("nets.py").write_text(code)
    search = ("--metric", "clean.loss", "--trials", "2", "--random", "0", "--lambda-points", "0", "--jobs", "1")
    asked = ("evaluate", "m0") if verb == "evaluate" else ("search", "recipe.yml", *search)
    assert main([*asked, "--suite", "suite.yml", "--allow-code", "--no-cache", "--json", "-"]) == 0
    out, errors = capfd.readouterr()
    assert json.loads(out)
    assert all(errors.count(word) > (3 if verb == "search" else 1) for word in ("PRINTED", "WRITTEN", "SHELL"))
    os.write(1, b"as before")
    assert capfd.readouterr().out == "as before"


def _in(code):
    return "".join(f"    {line}\n" for line in code.splitlines())


class Slow(Bowl):
    """Writes who it is, then takes long."""

    def values(self, values):
        with Path(self.log).open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(60)
        yield from super().values(values)


MAIN = """
import sys
from pathlib import Path
from test_search_faults import Slow
from test_searching_studies import run
if __name__ == "__main__":
    run(Path(sys.argv[1]), trials=4, setup=Slow(log=sys.argv[2]), jobs=2)
"""


def test_processes_end_with_their_parent(tmp_path):
    """However it dies, and in the middle of a trial."""
    (tmp_path / "main.py").write_text(MAIN)
    log = tmp_path / "log"
    log.touch()
    environment = os.environ | {"PYTHONPATH": ":".join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, str(tmp_path / "main.py"), str(tmp_path / "study"), str(log)]
    process = subprocess.Popen(command, env=environment)
    try:
        wait_until(lambda: log.read_text().count("\n") == 2, 60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_until(lambda: not any(_runs(int(pid)) for pid in log.read_text().split()), 10)


def wait_until(condition, seconds):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came so far"
        time.sleep(0.05)


def _runs(pid):
    """Whether a process runs; one that has ended may wait for its parent to be asked."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
