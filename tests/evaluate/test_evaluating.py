"""Models over a suite: figures are right, nothing is written or computed twice, failures stay apart."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import stockpot as sp
from evaluating import digits, digits_bench, networks, save_arrays
from files import files_below, read_model, write_model
from stockpot.errors import RecipeError, StorageError
from stockpot.evaluate import Blend, Cache, candidate, evaluate, load_suite


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return digits_bench(tmp_path)


@pytest.fixture
def suite(bench):
    return load_suite(bench / "suite.yml", allow_code=True)


def logits(theta, x):
    wide = {name: array.astype(np.float64) for name, array in theta.items()}
    hidden = np.maximum(x @ wide["a.weight"].T + wide["a.bias"], 0)
    return hidden @ wide["b.weight"].T + wide["b.bias"]


def test_figures_are_those_of_the_merged_folder(bench, suite):
    """A recipe is measured as the folder that it would write, by a computation of the test's own."""
    sp.merge(bench / "merge.yml", bench / "out")
    theta = read_model(bench / "out")
    result = evaluate([candidate("merge.yml"), candidate("out")], suite)
    x, y = (part[1000:1300] for part in digits())
    z = logits(theta, x)
    loss = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]
    for name in ("merge", "out"):
        accuracy, nll = result.cell(name, "clean").figures
        assert accuracy.value == (z.argmax(axis=1) == y).mean()
        assert nll.value == pytest.approx(loss.mean(), rel=1e-5)
    assert result.cell("out", "clean").figures[0].difference == 0


def test_no_file_is_written(bench, suite):
    """Evaluating merges leaves the folder as it was."""
    before = files_below(bench)
    evaluate([candidate("merge.yml"), candidate(sp.wise_ft(sp.open("base"), sp.open("low"), alpha=0.5))], suite)
    assert files_below(bench) == before


def test_differences_retention_and_worst_task(bench):
    """Differences are to the first model, in pairs; retention to the best of each task, or to a model by name."""
    text = (bench / "suite.yml").read_text()
    more = text.replace("clean:", "again:").replace("report.npz", "other.npz").removeprefix("tasks:\n")
    save_arrays(bench / "other.npz", np.arange(1300, 1500))
    (bench / "suite.yml").write_text(text + more.replace("tune: tune.npz, select: select.npz, ", ""))
    suite = load_suite(bench / "suite.yml", allow_code=True)
    models = [candidate(name) for name in ("base", "low", "merge.yml")]
    result = evaluate(models, suite)
    values = {(c.model, c.task): c.figures for c in result.cells}
    base, low, merged = ([values[m, t] for t in ("clean", "again")] for m in ("base", "low", "merge"))
    for one, other in zip(low, base, strict=True):
        assert one[0].difference == pytest.approx(one[0].value - other[0].value)
        assert one[0].difference_low <= one[0].difference <= one[0].difference_high
        assert other[0].difference is None
    assert [f[0].retention for f in merged] == [1, 1]
    assert low[0][1].retention == pytest.approx(merged[0][1].value / low[0][1].value)  # a loss: lower is better
    shares = [one[0].value / best[0].value for one, best in zip(low, merged, strict=True)]
    row = next(r for r in result.models if r.name == "low")
    assert row.retention == pytest.approx(np.mean(shares))
    assert row.worst == (("clean", "again")[int(np.argmin(shares))], pytest.approx(min(shares)))
    relative = evaluate(models, suite, reference="base")
    assert relative.cell("low", "clean").figures[0].retention == pytest.approx(low[0][0].value / base[0][0].value)
    with pytest.raises(RecipeError, match="not among the models"):
        evaluate(models, suite, reference="nobody")


def test_a_failure_is_a_cell(bench):
    """A task that raises and a model that cannot be opened fail in their cells, with words; the rest goes on."""
    (bench / "suite.yml").write_text(
        (bench / "suite.yml").read_text()
        + "  broken: {kind: own, run: 'nets:crash', metrics: [accuracy], split: {report: report.npz}}\n"
        "  leaves: {kind: own, run: 'nets:leave', metrics: [accuracy], split: {report: report.npz}}\n"
    )
    (bench / "nets.py").write_text(
        (bench / "nets.py").read_text() + "\ndef crash(model, files):\n    return 1 / 0\n"
        "def leave(model, files):\n    raise SystemExit('done')\n"
    )
    suite = load_suite(bench / "suite.yml", allow_code=True)
    bad = {**networks()["base"], "a.bias": np.full(32, np.nan, np.float32)}
    write_model(bench / "nan", bad)
    models = [candidate("base"), candidate("gone"), candidate(0.5 * sp.open("nan") + 0.5 * sp.open("low"), name="half")]
    result = evaluate(models, suite)
    errors = {(c.model, c.task): c.error for c in result.cells}
    assert errors["base", "clean"] is None
    assert errors["base", "broken"] == "ZeroDivisionError: division by zero (nets.py, line 17)"
    assert errors["base", "leaves"] == "SystemExit: done (nets.py, line 19)"
    assert "no such file or folder" in errors["gone", "clean"]
    assert "NaN" in errors["half", "clean"]
    assert "tensor a.bias" in errors["half", "clean"]
    assert len(result.failed) == 8
    assert result.score("gone", "clean") == float("-inf")
    assert result.score("base", "clean") == result.cell("base", "clean").figures[0].value


def test_nothing_is_predicted_twice(bench, suite, tmp_path):
    """With a cache the second evaluation computes nothing and gives the same figures, wherever models lie."""
    models = [candidate("base"), candidate("merge.yml")]
    with Cache(tmp_path / "cache") as cache:
        first = evaluate(models, suite, cache=cache)
        again = evaluate(models, suite, cache=cache)
    assert not any(c.known for c in first.cells)
    assert all(c.known and c.seconds == 0 for c in again.cells)
    assert all(m.seconds is None for m in again.models)
    assert [c.figures for c in again.cells] == [c.figures for c in first.cells]
    moved = bench / "elsewhere"
    moved.mkdir()
    for name in ("base", "low", "high", "merge.yml"):
        (bench / name).rename(moved / name)
    with Cache(tmp_path / "cache") as cache:
        assert all(c.known for c in evaluate([candidate(moved / "merge.yml")], suite, cache=cache).cells)


def _age(path):
    """As if written an hour ago: what is brand new is hashed every time anyway."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 3_600_000_000_000))


@pytest.mark.parametrize("what", ["weights", "recipe", "data", "code", "function", "settings", "config", "small file"])
def test_a_change_is_noticed(bench, tmp_path, what):
    """New weights of the same size, another weight in the recipe, other data or code or settings: computed anew."""
    for name in ("base", "low", "high"):
        _age(bench / name / "model.safetensors")

    def run():
        with Cache(tmp_path / "cache") as cache:
            suite = load_suite(bench / "suite.yml", allow_code=True)
            return evaluate([candidate("merge.yml")], suite, cache=cache).cells[0]

    assert not run().known
    assert run().known
    if what == "weights":
        write_model(bench / "low", {n: a + 1 for n, a in networks()["low"].items()})
    elif what == "recipe":
        (bench / "merge.yml").write_text((bench / "merge.yml").read_text().replace("0.5", "0.4", 1))
    elif what == "data":
        save_arrays(bench / "report.npz", np.arange(1001, 1301))
    elif what == "code":
        (bench / "nets.py").write_text((bench / "nets.py").read_text().replace("maximum", "minimum"))
    elif what == "function":  # another one of the same module
        (bench / "nets.py").write_text(
            f"{(bench / 'nets.py').read_text()}\ndef others(t, x):\n    return -logits(t, x)\n"
        )
        run()
        (bench / "suite.yml").write_text((bench / "suite.yml").read_text().replace("nets:logits", "nets:others"))
    elif what == "settings":
        (bench / "suite.yml").write_text((bench / "suite.yml").read_text() + "    outputs: logits\n    batch: 7\n")
        assert run().known  # what no figure depends on is no change
        (bench / "suite.yml").write_text(
            (bench / "suite.yml")
            .read_text()
            .replace("outputs: logits", "outputs: labels")
            .replace("nets:logits", "nets:labels")
            + "    metrics: [accuracy]\n"
        )
    elif what == "config":
        (bench / "base" / "config.json").write_text('{"model_type": "own"}')
    else:
        (bench / "base" / "generation_config.json").write_text('{"max_length": 7}')
    assert not run().known


def test_comments_in_a_recipe_are_no_change(bench, suite, tmp_path):
    """What is computed counts, not how it is written."""
    with Cache(tmp_path / "cache") as cache:
        evaluate([candidate("merge.yml")], suite, cache=cache)
        (bench / "merge.yml").write_text("# a comment\n\n" + (bench / "merge.yml").read_text())
        assert evaluate([candidate("merge.yml")], suite, cache=cache).cells[0].known


def test_random_masks_follow_names_and_seed(bench, suite, tmp_path):
    """Random numbers are keyed by seed and model as written, so merges that draw are known under both."""

    def drawn(seed, base="base"):
        b, low = sp.open(base), sp.open("low")
        return candidate(b + sp.dare_linear(low - b, density=0.5), seed=seed)

    with Cache(tmp_path / "cache") as cache:
        assert not evaluate([drawn(1)], suite, cache=cache).cells[0].known
        assert evaluate([drawn(1)], suite, cache=cache).cells[0].known
        assert not evaluate([drawn(2)], suite, cache=cache).cells[0].known
        assert not evaluate([drawn(1, "./base")], suite, cache=cache).cells[0].known


def test_several_processes_share_a_cache(bench, tmp_path):
    """Four at once write to one new file, and all that they found is there."""
    code = textwrap.dedent("""
        import sys
        import numpy as np
        from pathlib import Path
        from stockpot.evaluate import Cache
        with Cache(Path(sys.argv[1])) as cache:
            for i in range(12):
                cache.keep(sys.argv[2], str(i), {"x": np.full(500, i)})
                cache.remember(f"{sys.argv[2]} {i}", "v")
    """)
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "c"), str(n)], stderr=subprocess.PIPE)
        for n in range(4)
    ]
    assert [(run.communicate()[1], run.returncode) for run in runs] == [(b"", 0)] * 4
    with Cache(tmp_path / "c") as cache:
        assert all(cache.predictions(str(n), str(i))["x"][0] == i for n in range(4) for i in range(12))
        assert cache.recall("3 11") == "v"


def test_a_damaged_entry_is_unknown_and_a_damaged_file_an_error(tmp_path):
    """The first is made anew; the second names the file and the way out."""
    import sqlite3

    with Cache(tmp_path) as cache:
        cache.keep("m", "t", {"x": np.arange(3)})
    database = sqlite3.connect(tmp_path / "evaluate.sqlite")
    with database:
        database.execute("UPDATE predictions SET columns = ?", (b"nonsense",))
    database.close()
    with Cache(tmp_path) as cache:
        assert cache.predictions("m", "t") is None
    for file in tmp_path.iterdir():
        file.write_bytes(b"not a database, but long enough to look like something" * 50)
    with pytest.raises(StorageError, match="cache of predictions fails") as caught:
        Cache(tmp_path)
    assert "--cache" in str(caught.value)


def test_figures_that_chose_are_marked(bench, tmp_path):
    """Tune and select figures are; report figures are when their data was used to choose, or has two roles."""
    suite = load_suite(bench / "suite.yml", allow_code=True)
    with Cache(tmp_path / "cache") as cache:
        assert evaluate([candidate("base")], suite, cache=cache).marks == {}
        assert "choose" in evaluate([candidate("base")], suite, split="select", cache=cache).marks["clean"]
        text = (bench / "suite.yml").read_text()
        (bench / "suite.yml").write_text(
            text.replace("select.npz", "x").replace("report.npz", "select.npz").replace("select: x, ", "")
        )
        other = load_suite(bench / "suite.yml", allow_code=True)
        assert evaluate([candidate("base")], other, cache=cache).marks == {}
        evaluate([candidate("base")], suite, split="select", cache=cache, choosing="greedy soup")
        assert "greedy soup" in evaluate([candidate("base")], other, cache=cache).marks["clean"]
        (bench / "suite.yml").write_text(text.replace("tune.npz", "report.npz"))
        both = load_suite(bench / "suite.yml", allow_code=True, same_data=True)
        assert "another role" in evaluate([candidate("base")], both, cache=cache).marks["clean"]


def test_half_precision_is_handed_over_as_float32(bench, suite):
    """A model in bfloat16 is measured by NumPy code, with the values that it holds."""
    result = evaluate(
        [candidate(sp.open("base"), name="exact"), candidate(sp.open("base"), name="half", dtype="bf16")], suite
    )
    exact, half = (result.cell(name, "clean").figures[1].value for name in ("exact", "half"))
    assert exact != half
    assert half == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize(
    ("function", "outputs", "told"),
    [
        ("logits", "probabilities", "looks like logits"),
        ("probabilities", "logits", "looks like probabilities"),
        ("labels", "logits", "not (300, classes)"),
        ("logits", "labels", "not (300,)"),
    ],
    ids=["logits", "probabilities", "labels", "rows"],
)
def test_outputs_that_are_not_what_was_said(bench, function, outputs, told):
    """Softmax is never taken twice, nor left out: the cell fails and says what to write."""
    text = (bench / "suite.yml").read_text().replace("nets:logits", f"nets:{function}")
    (bench / "suite.yml").write_text(text + f"    outputs: {outputs}\n    metrics: [accuracy]\n")
    suite = load_suite(bench / "suite.yml", allow_code=True)
    assert told in evaluate([candidate("base")], suite).cells[0].error


def test_outputs_agree_in_all_forms(bench):
    """Logits, probabilities and labels of one network give one accuracy, the first two one loss."""
    found = []
    for form in ("logits", "probabilities", "labels"):
        metrics = "accuracy" if form == "labels" else "accuracy, loss, calibration_error"
        (bench / "suite.yml").write_text(
            f"tasks: {{t: {{kind: classification, predict: 'nets:{form}', outputs: {form}, "
            f"split: {{report: report.npz}}, metrics: [{metrics}]}}}}"
        )
        suite = load_suite(bench / "suite.yml", allow_code=True)
        found.append([f.value for f in evaluate([candidate("base")], suite).cells[0].figures])
    assert found[0] == pytest.approx(found[1])
    assert found[2][0] == found[0][0]


def test_a_metric_without_its_column_says_so(bench):
    """The cell names the column and those there are."""
    mine = "from stockpot.evaluate import Metric\nmine = Metric('mine', 'lower', lambda columns: columns['nll'])\n"
    (bench / "nets.py").write_text((bench / "nets.py").read_text() + mine)
    (bench / "suite.yml").write_text((bench / "suite.yml").read_text() + "    metrics: [nets:mine]\n")
    suite = load_suite(bench / "suite.yml", allow_code=True)
    error = evaluate([candidate("base")], suite).cells[0].error
    assert "mine needs a column 'nll'" in error
    assert "they have: example, labels, predicted" in error


def test_other_examples_are_not_compared(bench):
    """A task of one's own whose rows differ from model to model has no differences."""
    (bench / "nets.py").write_text(
        "import numpy as np\nfrom stockpot.evaluate import Metric, EXAMPLE\n"
        "def run(model, files, shift):\n"
        "    n = int(model.tensors['a.bias'][0] * 0) + len(model.name)\n"
        "    return {EXAMPLE: np.arange(4, dtype=np.uint64) + n * shift, 'x': np.arange(4.0)}\n"
        "x = Metric('x', 'higher', lambda p: p['x'])\n"
    )
    found = []
    for shift in (0, 1):
        (bench / "suite.yml").write_text(
            "tasks: {t: {kind: own, run: 'nets:run', metrics: ['nets:x'], split: {report: nets.py}, "
            f"settings: {{shift: {shift}}}}}}}"
        )
        suite = load_suite(bench / "suite.yml", allow_code=True)
        found.append(evaluate([candidate("base"), candidate("low")], suite).cell("low", "t").figures[0].difference)
    assert found == [0, None]


def test_names_differ(bench, suite):
    """Two models whose folders have one name are told apart."""
    (bench / "sub").mkdir()
    write_model(bench / "sub" / "base", networks()["base"])
    result = evaluate([candidate("base"), candidate("sub/base"), candidate("sub/base")], suite)
    assert len({m.name for m in result.models}) == 3


def test_points_of_a_blend_are_measured_as_merges(bench, suite):
    """A sweep reads its two ends once, a merge among them; each point is what the recipe of that point gives."""
    base, merged = candidate("base"), candidate("merge.yml")
    blend = Blend.of(base, merged)
    grid = (0, 0.5, 1.25)
    swept = evaluate([blend.candidate(t) for t in grid], suite)
    for name in ("base", "low", "high"):
        (bench / name / "model.safetensors").rename(bench / f"{name} moved")
    swept_again = evaluate([blend.candidate(t) for t in grid], suite)
    assert [c.figures for c in swept_again.cells] == [c.figures for c in swept.cells]
    for name in ("base", "low", "high"):
        (bench / f"{name} moved").rename(bench / name / "model.safetensors")
    for t in grid:
        b, low, high = map(sp.open, ("base", "low", "high"))
        wanted = evaluate([candidate(b + (0.5 * t) * (low - b) + (0.5 * t) * (high - b))], suite).cells[0].figures
        found = swept.cell(f"t = {t:g}", "clean").figures
        assert [f.value for f in found] == pytest.approx([f.value for f in wanted], abs=1e-6)


def test_tasks_without_data_for_the_split_are_named(bench, capsys):
    """They are not measured, which is told."""
    text = (bench / "suite.yml").read_text()
    other = "  other: {kind: classification, predict: 'nets:logits', split: {select: select.npz}}\n"
    (bench / "suite.yml").write_text(text + other)
    result = evaluate([candidate("base")], load_suite(bench / "suite.yml", allow_code=True))
    assert result.tasks == ("clean",)
    assert result.skipped == ("other",)


def test_blend_is_the_merge():
    """Every point is what the engine writes, the ends are the models themselves; unlike ends are refused."""
    base, low = networks()["base"], networks()["low"]
    blend = Blend(base, low)
    for t in (-0.5, 0.3, 1.5):
        wanted = sp.compute((1 - t) * sp.open(base, name="a") + t * sp.open(low, name="b"))
        found = blend.at(t)
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert blend.at(0) is base
    assert blend.at(1) is low
    with pytest.raises(sp.PlanError, match="the two ends do not fit"):
        Blend(base, {**low, "extra": np.zeros(1)})
