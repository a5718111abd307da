"""Tasks of lm-eval for tests: a quiz, its questions, suites of one task, and lm-eval's own figures."""

from __future__ import annotations

import pytest

import stockpot as sp
from evaluating import TEXT
from stockpot.errors import RecipeError
from stockpot.evaluate import candidate, evaluate, load_suite

WORDS = [word.strip(".,;") for word in TEXT.split()]

QUIZ = """
task: quiz
dataset_path: json
dataset_kwargs: {data_files: {dev: dev.jsonl, test: test.jsonl, train: train.jsonl}}
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: f1, aggregation: f1, higher_is_better: true}
  - {metric: brier_score, aggregation: brier_score, higher_is_better: false}
metadata: {version: 1.0}
"""


def questions(start, stop):
    """Questions of two words, each with two words to choose from."""
    pick = [WORDS[(7 * i) % len(WORDS)] for i in range(4 * stop)]
    return [
        {"question": f"{pick[i]} {pick[i + 1]} {i}", "choices": [pick[i + 2], pick[i + 3] + " soup"], "answer": i % 2}
        for i in range(start, stop)
    ]


def of_arc(rows):
    """Questions in the form of the data of arc_easy."""
    return [
        {
            "question": r["question"],
            "choices": {"text": r["choices"], "label": ["A", "B"]},
            "answerKey": "AB"[r["answer"]],
        }
        for r in rows
    ]


def merged(folder):
    return 0.5 * sp.open(folder / "one") + 0.5 * sp.open(folder / "two")


def suite_of(folder, task, **how):
    (folder / "suite.yml").write_text(f"tasks: {{t: {task}}}")
    return load_suite(folder / "suite.yml", **how)


def measured(folder, task, *models, **how):
    result = evaluate(models or [candidate(merged(folder), name="merge")], suite_of(folder, task), **how)
    assert result.failed == (), result.failed
    return result


def figures(result, number=0):
    return {figure.metric: figure.value for figure in result.cells[number].figures}


def problems(folder, task, **how):
    """What is wrong with a suite of one task."""
    with pytest.raises(RecipeError) as caught:
        suite_of(folder, task, **how)
    return "\n".join(map(str, caught.value.problems))


def lm_eval_figures(folder, task, **how):
    """Task or group → ``metric,filter`` → what lm-eval itself says of the merge that was written to ``folder/merged``.

    Args:
        folder: That paths, of data too, are relative to, and whose tasks are known by name.
        task: A path, or the name of a group.
    """
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        found = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(folder / "merged"), "dtype": "float32"},
            tasks=[str(folder / task) if task.endswith(".yaml") else task],
            task_manager=TaskManager(include_defaults=False, include_path=str(folder)),
            device="cuda" if torch.cuda.is_available() else "cpu",
            batch_size=8,
            bootstrap_iters=0,
            **how,
        )
    return {
        name: {k: v for k, v in own.items() if "," in k and "stderr" not in k} for name, own in found["results"].items()
    }
