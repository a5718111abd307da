"""A user's own code: what it changes, keeps or gives by mistake never falsifies a figure without a word."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from evaluating import digits_bench, networks, save_arrays
from files import write_model
from stockpot.errors import ExecutionError, RecipeError
from stockpot.evaluate import Cache, Metric, candidate, evaluate, load_suite
from stockpot.evaluate.opened import Opened
from stockpot.evaluate.table import table

CODE = """
import numpy as np
from stockpot.evaluate import Metric

def scaled(tensors, inputs):
    inputs -= 0.5
    return logits(tensors, inputs)

def shifted(tensors, inputs):
    return logits(tensors, inputs - np.float32(0.5))

def moved(tensors, inputs):
    tensors["b.bias"] += np.arange(10, dtype=np.float32)
    return logits(tensors, inputs)

def replaced(tensors, inputs):
    tensors["b.bias"] = tensors["b.bias"] + 1
    return logits(tensors, inputs)

def half_way(tensors, inputs):
    tensors["b.bias"] += 100
    raise ValueError("half way")

buffer = np.empty((1024, 10), np.float32)

def buffered(tensors, inputs):
    buffer[:len(inputs)] = logits(tensors, inputs)
    return buffer[:len(inputs)]

def complex_ones(tensors, inputs):
    return logits(tensors, inputs).astype(complex)

def words(tensors, inputs):
    return np.full((len(inputs), 10), "a")

def parts(tensors, inputs):
    return labels(tensors, inputs) + 0.5

def nans(tensors, inputs):
    return np.full(len(inputs), np.nan)

def float_labels(tensors, inputs):
    return labels(tensors, inputs).astype(np.float32)

def cleared(model, files):
    model.tensors["a.bias"][:] = 0
    return {"predicted": np.zeros(2), "labels": np.zeros(2)}

greedy = Metric("greedy", "higher", lambda columns: columns["loss"].__imul__(0))
sorting = Metric("sorting", "lower", lambda columns: columns["loss"], lambda rows: (rows.sort(), rows.mean())[1])
stroke = Metric("a/b", "lower", lambda columns: columns["loss"])
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digits_bench(tmp_path)
    (tmp_path / "nets.py").write_text((tmp_path / "nets.py").read_text() + CODE)
    return tmp_path


def suite_of(folder, *tasks):
    """A suite of tasks on the same data, of (name, function, further keys)."""
    rows = [
        f"  {name}: {{kind: classification, predict: 'nets:{function}', split: {{report: report.npz}}{keys}}}"
        for name, function, keys in tasks
    ]
    (folder / "own.yml").write_text("\n".join(["tasks:", *rows, ""]))
    return load_suite(folder / "own.yml", allow_code=True)


def figures(result, task):
    return [figure.value for figure in result.cell("base", task).figures]


def test_inputs_are_copies(bench):
    """A function may change its inputs: other batches, other tasks, and which example is which stay as they are."""
    suite = suite_of(bench, ("changes", "scaled", ", batch: 7"), ("not", "shifted", ""), ("plain", "logits", ""))
    result = evaluate([candidate("base")], suite)
    assert figures(result, "changes") == pytest.approx(figures(result, "not"), rel=1e-6)
    alone = evaluate([candidate("base")], suite_of(bench, ("plain", "logits", "")))
    assert figures(result, "plain") == figures(alone, "plain")


@pytest.mark.parametrize("function", ["moved", "replaced", "half_way"])
def test_tensors_that_are_changed_fail_one_task(bench, function):
    """The cell says so, or what was raised; the next task sees the model as it was; nothing false is kept."""
    suite = suite_of(bench, ("first", function, ", batch: 50"), ("plain", "logits", ""))
    with Cache(bench / "cache") as cache:
        results = [evaluate([candidate("base")], suite, cache=cache) for _ in range(2)]
    alone = evaluate([candidate("base")], suite_of(bench, ("plain", "logits", "")))
    for result in results:
        wanted = "ValueError: half way" if function == "half_way" else f"nets:{function} changes the tensors"
        assert wanted in result.cell("base", "first").error
        assert figures(result, "plain") == figures(alone, "plain")


def test_own_tasks_leave_tensors_as_they_are(bench):
    """The next task sees the model as it was."""
    (bench / "own.yml").write_text(
        "tasks:\n  one: {kind: own, run: 'nets:cleared', split: {report: suite.yml}}\n"
        "  plain: {kind: classification, predict: 'nets:logits', split: {report: report.npz}}\n"
    )
    result = evaluate([candidate("base")], load_suite(bench / "own.yml", allow_code=True))
    alone = evaluate([candidate("base")], suite_of(bench, ("plain", "logits", "")))
    assert "nets:cleared changes the tensors" in result.cell("base", "one").error
    assert figures(result, "plain") == figures(alone, "plain")


def test_widened_tensors_are_watched_too(bench):
    """Those are copies of floats of 16 bits, which functions are given; all are made anew after a change."""
    write_model(bench / "narrow", {"w": np.ones(3, ml_dtypes.bfloat16), "n": np.arange(3)})
    opened: Opened = candidate("narrow").opened()
    with opened.unchanged("nobody"):
        assert opened.wide["w"].tolist() == [1, 1, 1]
    with pytest.raises(ExecutionError, match="somebody changes the tensors"), opened.unchanged("somebody"):
        opened.wide["w"][0] = 2
    assert opened.wide["w"].tolist() == [1, 1, 1]
    with pytest.raises(ExecutionError), opened.unchanged("somebody"):
        opened.tensors["n"][0] = 2
    assert opened.tensors["n"].tolist() == [0, 1, 2]


def test_one_buffer_for_all_batches(bench):
    """What a function gives is copied before it is called again."""
    suite = suite_of(bench, ("buffer", "buffered", ", batch: 13"), ("plain", "logits", ", batch: 13"))
    result = evaluate([candidate("base")], suite)
    assert figures(result, "buffer") == figures(result, "plain")


def test_two_functions_of_one_module_are_two_tasks(bench):
    """Predictions of one are not taken for those of the other, though all else is the same."""
    with Cache(bench / "cache") as cache:
        first, second = (
            evaluate([candidate("base")], suite_of(bench, ("same", function, "")), cache=cache)
            for function in ("logits", "shifted")
        )
    assert not second.cells[0].known
    assert figures(first, "same") != figures(second, "same")


@pytest.mark.parametrize(
    ("function", "keys", "message"),
    [
        ("complex_ones", "", "an array of complex128, not of real numbers"),
        ("words", "", "an array of <U1, not of real numbers"),
        ("parts", ", outputs: labels", "as a label, which is no whole number"),
        ("nans", ", outputs: labels", "nan as a label, which is no whole number"),
    ],
)
def test_outputs_that_mean_nothing_are_refused(bench, function, keys, message):
    """They are no figures, and no warnings."""
    error = evaluate([candidate("base")], suite_of(bench, ("task", function, keys))).cells[0].error
    assert message in error


def test_labels_alone_have_accuracy(bench):
    """By default; whole floats are labels. A metric that needs probabilities is refused with the line."""
    suite = suite_of(bench, ("bare", "float_labels", ", outputs: labels"), ("full", "logits", ""))
    result = evaluate([candidate("base")], suite)
    assert [f.metric for f in result.cell("base", "bare").figures] == ["accuracy"]
    assert figures(result, "bare")[0] == figures(result, "full")[0]
    with pytest.raises(RecipeError) as caught:
        suite_of(bench, ("bare", "labels", ", outputs: labels, metrics: [accuracy, loss, spearman]"))
    told = [(p.message, p.line) for p in caught.value.problems]
    assert told == [(f"this task cannot be measured by {name!r}", 2) for name in ("loss", "spearman")]


def test_a_metric_changes_nothing_for_others(bench):
    """Columns are only to be read; a figure may sort its rows, and differences stay paired."""
    failing = suite_of(bench, ("task", "logits", ", metrics: ['nets:greedy', loss]"))
    assert "read-only" in evaluate([candidate("base")], failing).cells[0].error
    suite = suite_of(bench, ("task", "logits", ", metrics: ['nets:sorting', loss]"))
    result = evaluate([candidate("base"), candidate("low")], suite)
    ours, plain = result.cell("low", "task").figures
    assert ours.value == pytest.approx(plain.value, rel=1e-12)
    pairs = [(f.difference_low, f.difference_high) for f in (ours, plain)]
    assert pairs[0] == pytest.approx(pairs[1], rel=1e-9)


def test_a_stroke_in_a_name_is_no_part_of_the_task(bench):
    """Such a figure is of the whole task, and stands in its rows."""
    suite = suite_of(bench, ("task", "logits", ", metrics: ['nets:stroke', loss]"))
    result = evaluate([candidate("base"), candidate("low")], suite)
    assert [figure.part for figure in result.cells[0].figures] == ["", ""]
    assert result.cells[0].parts == ()
    lines = list(table(result))
    assert "a/b \N{DOWNWARDS ARROW}" in lines[1]
    assert f"{result.cells[0].figures[0].value:.4g}" in lines[2]


@pytest.mark.parametrize(
    ("name", "better", "message"),
    [
        ("x", "up", "'up' figures"),
        ("x", "Higher", "'Higher' figures"),
        ("", "lower", "no name"),
        ("a\nb", "lower", "no name"),
    ],
)
def test_metrics_say_what_is_better(name, better, message):
    """In one of two words, under a name that can be shown."""
    with pytest.raises(RecipeError, match=message):
        Metric(name, better, lambda columns: columns["loss"])


def test_data_in_another_dtype_is_the_same(bench):
    """Numbers are compared, whatever holds them: float64 for float32, (8, 8) for (64,), -0.0 for 0.0."""
    x = np.load(bench / "report.npz")["inputs"].astype(np.float64).reshape(-1, 8, 8)
    save_arrays(bench / "select.npz", np.arange(1000, 1300), inputs=np.where(x == 0, -0.0, x))
    with pytest.raises(RecipeError, match="300 examples"):
        load_suite(bench / "suite.yml", allow_code=True)


def test_labels_beyond_whole_numbers_of_64_bits(bench):
    """Are told with the file, before anything is run."""
    save_arrays(bench / "report.npz", np.arange(1000, 1003), labels=np.array([0, 1, 2**63], np.uint64))
    with pytest.raises(RecipeError, match="labels do not fit"):
        load_suite(bench / "suite.yml", allow_code=True)


def test_a_failure_of_all_is_worst(bench):
    """A model that gets nothing right keeps 0 %, which is its worst and counts in its mean."""
    lost = {name: np.zeros_like(array) for name, array in networks()["base"].items()}
    lost["b.bias"][9] = 5  # always 9
    write_model(bench / "lost", lost)
    rows = np.arange(600, 800)
    labels = np.load(bench / "tune.npz")["labels"]
    save_arrays(bench / "report.npz", rows[labels != 9])
    nine = save_arrays(bench / "nine.npz", rows[labels == 9])
    (bench / "own.yml").write_text(
        "tasks:\n"
        + "".join(
            f"  {name}: {{kind: classification, predict: 'nets:logits', split: {{report: {file}}}}}\n"
            for name, file in (("most", "report.npz"), ("nine", nine.name))
        )
    )
    result = evaluate([candidate("base"), candidate("lost")], load_suite(bench / "own.yml", allow_code=True))
    assert figures(result, "most")[0] > 0
    assert result.models[1].worst == ("most", 0.0)
    assert result.models[1].retention == pytest.approx(0.5)
