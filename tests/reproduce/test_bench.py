"""What all claims work with: suites as they are written, figures as they are read, models that are trained once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stockpot.errors import ExecutionError
from stockpot.evaluate import evaluate
from stockpot.evaluate.results import Figure
from stockpot.reproduce import Setting
from stockpot.reproduce.bench import Workplace, classified, figure, kept, mean_percent, percent, read, run_by
from stockpot.reproduce.claims.negation import _left
from stockpot.reproduce.labs import forget, lab_of


@dataclass(frozen=True)
class Results:
    """(model, task) → value and which is better, or an error."""

    known: dict[tuple[str, str], tuple[float, str] | str]

    def cell(self, model, task):
        found = self.known[model, task]
        if isinstance(found, str):
            return SimpleNamespace(figures=(), error=found)
        value, better = found
        return SimpleNamespace(figures=(Figure("m", better, value, value, value, 0, 0, 0, 0),), error=None)


RESULTS = Results(
    {
        ("a", "a"): (0.8, "higher"),
        ("b", "b"): (0.5, "higher"),
        ("sum", "a"): (0.6, "higher"),
        ("sum", "b"): (0.5, "higher"),
        ("base", "text"): (16.0, "lower"),
        ("sum", "text"): (20.0, "lower"),
        ("bad", "a"): "it has no head",
    }
)


def test_figures_are_read_in_percent():
    """Of 100, as a mean over tasks, and relative to the specialist that is called as the task."""
    assert percent(RESULTS, "sum", "a") == pytest.approx(60)
    assert mean_percent(RESULTS, "sum", ["a", "b"]) == pytest.approx(55)
    assert kept(RESULTS, "sum", ["a", "b"]) == pytest.approx((75 + 100) / 2)


def test_a_figure_that_failed_is_an_error():
    """It says of which model and task, and why."""
    with pytest.raises(ExecutionError, match="bad could not be measured on a: it has no head"):
        figure(RESULTS, "bad", "a")


def test_what_is_left_is_less_where_it_is_worse():
    """Of an accuracy the share, of a perplexity the inverse of it."""
    assert _left(RESULTS, "sum", "base", "text") == pytest.approx(80)
    assert _left(Results({("n", "t"): (0.6, "higher"), ("b", "t"): (0.8, "higher")}), "n", "b", "t") == pytest.approx(
        75
    )


def test_a_suite_is_written_and_measured(tmp_path):
    """Names with spaces are names; code lies beside the suite; a task has the roles that it was given."""
    place = Workplace(tmp_path)
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((40, 3)).astype(np.float32)
    weight = rng.standard_normal((2, 3)).astype(np.float32)
    labels = (inputs @ weight.T).argmax(1)
    code = {"own.py": "def scores(tensors, inputs):\n    return inputs @ tensors['w'].T\n"}
    tasks = {
        "far away": classified("own:scores", {"report": (inputs, labels), "select": (inputs[:5] + 1, labels[:5])}),
        "upside": classified("own:scores", {"report": (inputs, 1 - labels)}, batch=16),
    }
    suite = place.suite(tasks, code)
    assert [(task.name, sorted(task.data)) for task in suite.tasks] == [
        ("far away", ["report", "select"]),
        ("upside", ["report"]),
    ]
    (model,) = place.models({"a model": {"w": weight}})
    assert (tmp_path / "models" / "a-model" / "model.safetensors").is_file()
    result = evaluate([model], suite)
    assert (percent(result, "a model", "far away"), percent(result, "a model", "upside")) == (100, 0)


def test_texts_and_settings_are_data_too(tmp_path):
    """Line separators within a text do not end it; what a function is given is JSON."""
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "own.py").write_text(
        "import json\n\nimport numpy as np\n\nfrom stockpot.evaluate import Metric\n\n"
        "def run(model, files):\n    return {'x': np.array(json.loads(files[0].read_text()))}\n\n"
        "mean = Metric('mean', 'higher', lambda columns: columns['x'])\n"
    )
    tasks = {
        "prose": read({"report": ["one\u2028\ntwo", "three"]}),
        "own": run_by("own:run", "own:mean", {"report": [1.0, 3.0]}),
    }
    suite = Workplace(tmp_path).suite(tasks)
    assert [task.name for task in suite.tasks] == ["prose", "own"]
    assert len((tmp_path / "suite" / "prose-report.jsonl").read_text().split("\n")) == 3
    (model,) = Workplace(tmp_path).models({"m": {"w": np.zeros(1, np.float32)}})
    own = replace(suite, tasks=suite.tasks[1:])
    assert figure(evaluate([model], own), "m", "own").value == 2.0


def test_labs_are_made_once(tmp_path):
    """For the same maker, effort, data and seed; until they are forgotten."""
    made = []

    def lab(file, effort, seed):
        made.append((effort, seed))
        return file, effort, seed

    def setting(seed, folder):
        return Setting(seed, tmp_path, Path(folder), print)

    first = lab_of(lab, "little", setting(0, "x"))
    assert lab_of(lab, "little", setting(0, "y")) is first
    assert lab_of(lab, "much", setting(0, "x")) is not first
    assert lab_of(lab, "little", setting(1, "x")) is not first
    assert made == [("little", 0), ("much", 0), ("little", 1)]
    forget()
    assert lab_of(lab, "little", setting(0, "x")) is not first
