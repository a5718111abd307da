"""Suites: what is wrong is told at once with lines; data of one role stays out of the others."""

from __future__ import annotations

import numpy as np
import pytest

from evaluating import digits, digits_bench, save_arrays, write_lines
from stockpot.errors import RecipeError
from stockpot.evaluate import load_suite


@pytest.fixture
def bench(tmp_path):
    return digits_bench(tmp_path)


def rewritten(bench, text):
    (bench / "suite.yml").write_text(text)
    return bench / "suite.yml"


def refused(bench, text, **how):
    with pytest.raises(RecipeError) as caught:
        load_suite(rewritten(bench, text), allow_code=True, **how)
    return caught.value.problems


def test_roles_are_apart_for_searchers(bench):
    """What searches sees tune and select data only; reporting sees the rest."""
    suite = load_suite(bench / "suite.yml", allow_code=True)
    assert set(suite.tasks[0].data) == {"tune", "select", "report"}
    seen = suite.for_choosing()
    assert set(seen.tasks[0].data) == {"tune", "select"}
    with pytest.raises(RecipeError, match="no task has data to report with"):
        seen.having("report")


def test_a_task_with_report_data_alone_is_not_seen_by_searchers(bench):
    """Nothing is left of it."""
    text = (bench / "suite.yml").read_text().replace("tune: tune.npz, select: select.npz, ", "")
    suite = load_suite(rewritten(bench, text), allow_code=True)
    assert suite.for_choosing().tasks == ()


def test_everything_wrong_is_told_at_once_with_lines(bench):
    """Unknown keys with what was meant, unknown kinds, missing files, unknown metrics: each with its line."""
    problems = refused(
        bench,
        "tasks:\n"
        "  a:\n    kind: clasification\n    split: {report: report.npz}\n"
        "  b:\n    kind: classification\n    predict: nets:logits\n    output: labels\n    split: {report: gone.npz}\n"
        "  c:\n    kind: perplexity\n    metrics: [perplexty]\n    split: {reprot: suite.yml}\n"
        "resample: 5\n",
    )
    told = {(p.line, p.message.split(":")[0]): p.fix for p in problems}
    assert told[3, "unknown kind 'clasification'"] == "did you mean classification?"
    assert told[8, "unknown key 'output' in a task of the kind classification"] == "did you mean outputs?"
    assert (9, "report") in told
    assert "did you mean perplexity?" in told[12, "unknown metric 'perplexty'"]
    assert told[13, "unknown key 'reprot' in split"] == "did you mean report?"
    assert all(f"suite line {p.line}]" in str(p) for p in problems)
    assert told[14, "unknown key 'resample' in a suite"] == "did you mean resamples?"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "a suite is one mapping"),
        ("tasks: {}", "there are no tasks"),
        ("name: x", "a suite needs tasks"),
        ("tasks: {a: 3}", "task a needs a kind"),
        ("tasks: {a: {kind: perplexity}}", "needs split"),
        ("tasks: {a: {kind: perplexity, split: {}}}", "split names no data"),
        ("tasks: {a: {kind: perplexity, split: {report: [3, {}]}}}", "not a file or a list of files"),
        ("tasks: {a: {kind: perplexity, split: {report: nets.py}, context: 0}}", "context is '0'"),
        ("tasks: {a: {kind: perplexity, split: {report: nets.py}, metrics: [perplexity, perplexity]}}", "named twice"),
        ("tasks: {a: {kind: classification, split: {report: report.npz}}}", "needs predict"),
        ("tasks: {a: {kind: classification, predict: nets, split: {report: report.npz}}}", "is not module:name"),
        ("tasks: {a: {kind: classification, predict: 'nets:np', split: {report: report.npz}}}", "is no function"),
        ("tasks: {a: {kind: classification, predict: 'nets:no', split: {report: report.npz}}}", "nets has no 'no'"),
        ("tasks: {a: {kind: classification, predict: 'gone:f', split: {report: report.npz}}}", "cannot import gone"),
        (
            "tasks: {a: {kind: own, run: 'nets:logits', metrics: ['nets:logits'], split: {report: nets.py}}}",
            "no Metric",
        ),
        ("tasks: {a: {kind: choice, split: {report: nets.py}}}", "line 2: not JSON"),
        ("tasks: {a: {kind: classification, predict: 'nets:logits', split: {report: nets.py}}}", "not a .npz file"),
        ("a: [", "not valid YAML"),
    ],
    ids=lambda value: value if "{" not in value and "[" not in value else None,
)
def test_what_is_refused(bench, text, told):
    """Each with words that say what is wrong."""
    assert any(told in p.message for p in refused(bench, text)), refused(bench, text)


def test_code_runs_only_when_it_is_allowed(bench):
    """The module is not even read."""
    (bench / "nets.py").write_text("raise SystemExit('ran')")
    with pytest.raises(RecipeError, match="code, which runs only when it is allowed") as caught:
        load_suite(bench / "suite.yml")
    assert "--allow-code" in str(caught.value)
    with pytest.raises(RecipeError, match=r"nets\.py, line 1: SystemExit: ran"):
        load_suite(bench / "suite.yml", allow_code=True)


def test_one_file_in_two_roles_needs_the_flag(bench):
    """An error names both roles; with the flag both are marked."""
    text = (bench / "suite.yml").read_text().replace("select: select.npz", "select: report.npz")
    (problem,) = refused(bench, text)
    assert "300 examples of clean's select data (100 %) are in clean's report data" in problem.message
    assert "--same-data" in problem.fix
    suite = load_suite(bench / "suite.yml", allow_code=True, same_data=True)
    assert suite.tasks[0].reused == {"select", "report"}


def test_overlap_is_found_by_content(bench):
    """The same rows in another file with other rows and other labels are found; a few in a thousand are tolerated."""
    save_arrays(bench / "select.npz", np.r_[800:1000, 1000:1020], labels=np.zeros(220, np.int64))
    text = (bench / "suite.yml").read_text()
    (problem,) = refused(bench, text)
    assert "20 examples of clean's select data (9.09 %)" in problem.message
    save_arrays(bench / "select.npz", np.r_[800:1000, 1000:1001])
    (note,) = load_suite(bench / "suite.yml", allow_code=True).notes
    assert "1 examples of clean's select data" in note.message
    assert "tolerated" in note.message


def test_overlap_is_found_across_tasks_and_with_training_data(bench):
    """Data that one task tunes with is no report of another; what a probe is fitted on is no data of any split."""
    rows = [{"text": f"text number {i}", "label": i % 2} for i in range(20)]
    write_lines(bench / "one.jsonl", rows)
    write_lines(bench / "two.jsonl", rows[:10])
    write_lines(bench / "three.jsonl", [{"text": f"other {i}", "label": i % 2} for i in range(20)])
    probe = "kind: probe, train: {}.jsonl, split: {{{}: {}.jsonl}}"
    a, b = probe.format("three", "tune", "one"), probe.format("three", "report", "two")
    (problem,) = refused(bench, f"tasks: {{a: {{{a}}}, b: {{{b}}}}}")
    assert "10 examples of a's tune data (100 %) are in b's report data" in problem.message
    (problem,) = refused(bench, f"tasks: {{a: {{{probe.format('one', 'report', 'two')}}}}}")
    assert "a's report data (100 %) are in a's train data" in problem.message


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"labels": np.arange(299)}, "labels do not fit"),
        ({"labels": np.full(300, -1)}, "labels do not fit"),
        ({"labels": np.full(300, 0.5)}, "labels do not fit"),
        ({"inputs": np.zeros((0, 64))}, "labels do not fit"),
    ],
    ids=["fewer", "negative", "fractions", "none"],
)
def test_labels_must_fit(bench, changed, told):
    """One whole number from 0 on for each input."""
    save_arrays(bench / "report.npz", np.arange(1000, 1300), **changed)
    assert told in refused(bench, (bench / "suite.yml").read_text())[0].message


def test_arrays_are_found_by_name_and_pickles_are_refused(bench):
    """A file without the arrays tells what it holds; an array of objects is never unpickled."""
    np.savez(bench / "report.npz", x=digits()[0], y=digits()[1])
    (problem,) = refused(bench, (bench / "suite.yml").read_text())
    assert "no array 'inputs'" in problem.message
    assert "x, y" in problem.fix
    np.savez(bench / "report.npz", inputs=np.array([{}]), labels=np.zeros(1, int))
    (problem,) = refused(bench, (bench / "suite.yml").read_text())
    assert "not a .npz file of numbers" in problem.message


def test_overlap_of_lines_tells_where(bench):
    """In data of lines the first example that both roles have is shown; in arrays, and in data by name, none can be."""
    arrays = (bench / "suite.yml").read_text()
    rows = [{"text": f"text number {i}", "label": i % 2} for i in range(20)]
    write_lines(bench / "one.jsonl", rows[:15])
    write_lines(bench / "two.jsonl", rows[13:])
    write_lines(bench / "three.jsonl", [{"text": f"other {i}", "label": i % 2} for i in range(20)])
    probe = "kind: probe, train: three.jsonl, split: {tune: one.jsonl, report: two.jsonl}"
    (problem,) = refused(bench, f"tasks: {{a: {{{probe}}}}}")
    assert f'ends at line 14 of {bench / "one.jsonl"}: {{"text": "text number 13"' in problem.message
    prose = [f"This line number {i} is as long as a line of prose." for i in range(40)]
    (bench / "one.txt").write_text("\n".join(prose[:30]), encoding="utf-8")
    (bench / "two.txt").write_text("\n".join(prose[25:]) + "é" * 99, encoding="utf-8")
    (problem,) = refused(bench, "tasks: {a: {kind: perplexity, split: {select: one.txt, report: two.txt}}}")
    assert f"ends at line 26 of {bench / 'one.txt'}: This line number 25" in problem.message
    save_arrays(bench / "select.npz", np.r_[800:1000, 1000:1020])
    (problem,) = refused(bench, arrays)
    assert problem.message.endswith("one piece of data in two roles")
