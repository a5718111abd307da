"""vLLM as a backend of lm-eval's tasks: engines of a stand-in, one at a time, for as long as a model needs them."""

from __future__ import annotations

import os
import sys
import types
import weakref
from pathlib import Path

import pytest
import transformers

import stockpot as sp
from evaluating import language_model, write_lines
from stockpot.evaluate import candidate, evaluate, load_suite
from stockpot.search.objective import Objective
from stockpot.search.tuning.rungs import Rungs

pytest.importorskip("lm_eval", reason="lm_eval is not installed: its tasks are not tested here")

QUIZ = """
task: {name}
dataset_path: json
test_split: test
output_type: multiple_choice
doc_to_text: "{asks} {{{{question}}}}"
doc_to_choice: ["yes", "no"]
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""

VLLM = "{kind: lm_eval, task: quiz.yaml, backend: vllm, settings: {dtype: float32}, split: {report: quiz.jsonl}}"
OWN = VLLM.replace("backend: vllm, settings: {dtype: float32}, ", "")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Two models, two tasks and their data."""
    folder = tmp_path_factory.mktemp("engines")
    for seed, name in enumerate(("one", "two")):
        language_model(folder / name, seed)
    for name, asks in (("quiz", "Is it"), ("last", "Was it")):
        (folder / f"{name}.yaml").write_text(QUIZ.format(name=name, asks=asks))
    write_lines(folder / "quiz.jsonl", [{"question": f"soup of {i}", "answer": i % 2} for i in range(12)])
    return folder


def merged(folder):
    return candidate(0.5 * sp.open(folder / "one") + 0.5 * sp.open(folder / "two"), name="merge")


def suite_of(folder, **tasks):
    (folder / "suite.yml").write_text("tasks:\n" + "".join(f"  {name}: {task}\n" for name, task in tasks.items()))
    return load_suite(folder / "suite.yml")


def measured(folder, task):
    result = evaluate([merged(folder)], suite_of(folder, t=task))
    assert result.failed == (), result.failed
    return [figure.value for figure in result.cells[0].figures]


class Engines:
    """Stands in for vLLM: transformers on the folder, one engine at a time, ended with its last reference."""

    def __init__(self):
        self.started, self.running = [], 0

    def __call__(self, pretrained, **how):
        from lm_eval.models.huggingface import HFLM

        assert self.running == 0, "a GPU has room for one"
        self.running += 1
        files = {path.name for path in Path(pretrained).iterdir()}
        self.started.append(how | {"folder": Path(pretrained), "files": files, "log": os.environ["VLLM_LOGGING_LEVEL"]})
        made = HFLM(pretrained=transformers.AutoModelForCausalLM.from_pretrained(pretrained), backend="causal",
                    tokenizer=transformers.AutoTokenizer.from_pretrained(pretrained), batch_size=8)  # fmt: skip
        weakref.finalize(made, self._ended)
        return made

    def _ended(self):
        self.running -= 1


@pytest.fixture
def engines(monkeypatch):
    """As if vLLM were installed."""
    made = Engines()
    module = types.ModuleType("lm_eval.models.vllm_causallms")
    module.VLLM = made
    monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "lm_eval.models.vllm_causallms", module)
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    return made


def test_without_vllm_what_to_install_is_told(bench):
    """In the cell; and that merges are written is told with the suite."""
    suite = suite_of(bench, t=VLLM)
    assert "temporary" in str(suite.notes[0])
    result = evaluate([merged(bench)], suite)
    assert "needs vllm" in result.cells[0].error
    assert "pip install vllm" in result.cells[0].error


def test_vllm_is_handed_a_folder_for_its_time(bench, engines, monkeypatch):
    """Its stand-in here finds the whole merge, may run no code of it, and gives the figures; then nothing is left."""
    found = measured(bench, VLLM)
    assert found == measured(bench, OWN)
    (seen,) = engines.started
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= seen["files"]
    assert (seen["dtype"], seen["trust_remote_code"], seen["log"]) == ("float32", False, "ERROR")
    assert not seen["folder"].exists()
    assert engines.running == 0
    assert "VLLM_LOGGING_LEVEL" not in os.environ
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    measured(bench, VLLM)
    assert engines.started[-1]["log"] == "INFO"


def test_an_engine_runs_all_tasks_that_want_it(bench, engines):
    """One after another; for other settings, and for transformers, it makes room."""
    last, wide = VLLM.replace("quiz.yaml", "last.yaml"), VLLM.replace("float32", "auto")
    suite = suite_of(bench, a=VLLM, b=last, c=wide, d=OWN, e=wide)
    result = evaluate([candidate(bench / "one"), merged(bench)], suite)
    assert [cell.error for cell in result.cells] == [None] * 10
    assert [seen["dtype"] for seen in engines.started] == ["float32", "auto", "auto"] * 2
    assert engines.running == 0
    by_task = {cell.task: [figure.value for figure in cell.figures] for cell in result.cells[5:]}
    assert by_task["a"] == by_task["c"] == by_task["d"] == by_task["e"]


def test_each_candidate_of_a_search_has_its_engine(bench, engines):
    """One for all tasks that it is measured on, ended before the next candidate's."""
    tune = VLLM.replace("report", "tune")
    suite = suite_of(bench, a=tune, b=tune.replace("quiz.yaml", "last.yaml"))
    both = Objective((("a", "acc"), ("b", "acc")), "higher")
    with Rungs(suite, "tune", (both,)) as rungs:
        found = [list(rungs.values(one)) for one in (candidate(bench / "one"), merged(bench))]
    assert [len(values) for values in found] == [1, 1]
    assert len(engines.started) == 2
    assert engines.running == 0


def test_an_engine_that_fails_leaves_nothing(bench, engines, monkeypatch):
    """Its message is the cell's, and the folder goes."""
    folders = []

    def broken(pretrained, **_):
        folders.append(Path(pretrained))
        raise RuntimeError("no free memory")

    monkeypatch.setattr(sys.modules["lm_eval.models.vllm_causallms"], "VLLM", broken)
    result = evaluate([candidate(bench / "one")], suite_of(bench, t=VLLM))
    assert "no free memory" in result.cells[0].error
    assert not folders[0].exists()
    assert "VLLM_LOGGING_LEVEL" not in os.environ
