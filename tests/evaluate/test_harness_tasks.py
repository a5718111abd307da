"""Tasks of lm-eval: its own figures on the written model, roles of data, and what is refused by name."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import stockpot as sp
from evaluating import TEXT, language_model, save_tokenizer, write_lines
from harnessed import QUIZ, figures, lm_eval_figures, measured, merged, of_arc, problems, questions, suite_of
from stockpot.errors import StockpotError
from stockpot.evaluate import Cache, candidate, evaluate, load_suite
from stockpot.evaluate.figures import Bootstrap
from stockpot.evaluate.harness.measures import FIGURES
from stockpot.evaluate.harness.rows import TEXTS, numbers_of
from stockpot.search import soup

pytest.importorskip("lm_eval", reason="lm_eval is not installed: its tasks are not tested here")

PROSE = """
task: prose
dataset_path: json
dataset_kwargs: {data_files: {test: prose.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""

WRITE = """
task: write
dataset_path: json
dataset_kwargs: {data_files: {test: write.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["."], do_sample: false, max_gen_toks: 6}
filter_list:
  - name: whole
    filter: [{function: take_first}]
  - name: first
    filter: [{function: regex, regex_pattern: "(.)"}, {function: take_first}]
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""

SPEAK = """
include: write.yaml
task: speak
dataset_kwargs: {data_files: {test: speak.jsonl}}
generation_kwargs: {until: ["."], do_sample: false, max_gen_toks: 30}
filter_list:
  - name: words
    filter:
      - {function: regex, regex_pattern: "([a-z])"}
      - function: map
        mapping_dict: {a: "The kettle was on the fire, and the soup had been there", h: "nobody took the last spoon"}
        default_value: "a merge is a guess until it is measured"
      - {function: take_first}
metric_list:
  - {metric: bleu, aggregation: bleu, higher_is_better: true}
  - {metric: chrf, aggregation: chrf, higher_is_better: true}
  - {metric: chrf++, aggregation: chrf++, higher_is_better: true}
  - {metric: ter, aggregation: ter, higher_is_better: false}
"""

LAST = """
task: last
dataset_path: json
dataset_kwargs: {data_files: {test: last.jsonl}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{prompt}}"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Two language models, four tasks and their documents; what datasets keeps is kept beside them."""
    import datasets

    folder = tmp_path_factory.mktemp("harness")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "kept")
        yield filled(folder)


@pytest.fixture(scope="module")
def oracle(bench):
    """lm-eval's own figures of the merge that was written to a folder."""
    return lambda task, **how: lm_eval_figures(bench, f"{task}.yaml", **how)[task]


def filled(folder):
    for seed, name in enumerate(("one", "two")):
        language_model(folder / name, seed)
        save_tokenizer(folder / name, bos_token="<s>", eos_token="</s>")
    for name, text in {"quiz": QUIZ, "prose": PROSE, "write": WRITE, "speak": SPEAK, "last": LAST}.items():
        (folder / f"{name}.yaml").write_text(text)
    for number, name in enumerate(("train", "dev", "test")):
        write_lines(folder / f"{name}.jsonl", questions(20 * number, 20 * number + 20))
    write_lines(folder / "prose.jsonl", [{"text": line} for line in TEXT.strip().split("\n")])
    sp.save(merged(folder), folder / "merged")
    write_lines(folder / "write.jsonl", tasks_of_writing(folder / "merged", 6, 6))
    lines = TEXT.strip().split("\n")
    write_lines(
        folder / "speak.jsonl", [{"prompt": TEXT[9 * i : 9 * i + 20], "answer": lines[i % 3]} for i in range(9)]
    )
    of_quiz(folder, "odd.yaml", ("acc_norm, aggregation: mean", "acc_norm, aggregation: bypass"))
    write_lines(folder / "last.jsonl", tasks_of_writing(folder / "merged", 12, 1))
    return folder


def tasks_of_writing(model, prompts, count):
    """Beginnings, two thirds of them with what a model writes after them: the likeliest tokens, to a full stop."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    run = transformers.AutoModelForCausalLM.from_pretrained(model)
    rows = []
    for number in range(prompts):
        prompt = TEXT[9 * number : 9 * number + 20].strip()
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        start = ids.shape[1]
        while ids.shape[1] < start + count and ids[0, -1] != tokenizer.eos_token_id:
            ids = torch.cat([ids, run(ids).logits[:, -1:].argmax(dim=-1)], dim=1)
        text = tokenizer.decode(ids[0, start:], skip_special_tokens=True).split(".")[0]
        rows.append({"prompt": prompt, "answer": text if number % 3 else "soup"})
    return rows


@pytest.mark.parametrize(
    ("task", "files", "names"),
    [
        ("quiz", "test.jsonl", ["acc,none", "acc_norm,none", "f1,none", "brier_score,none"]),
        ("prose", "prose.jsonl", ["word_perplexity,none", "byte_perplexity,none", "bits_per_byte,none"]),
        ("last", "last.jsonl", ["perplexity,none", "acc,none"]),
        ("write", "write.jsonl", ["exact_match,whole"]),
        ("speak", "speak.jsonl", ["bleu,words", "chrf,words", "chrf++,words", "ter,words"]),
    ],
)
def test_figures_are_lm_evals_own_on_the_written_model(bench, oracle, task, files, names):
    """Every metric that rows suffice for, of a merge in memory, as lm-eval itself says of its folder."""
    found = figures(measured(bench, f"{{kind: lm_eval, task: {task}.yaml, split: {{report: {files}}}}}"))
    wanted = oracle(task)
    assert found == pytest.approx({name.split(",")[0]: wanted[name] for name in names}, rel=1e-12)
    assert all(value not in (0, 1) for value in found.values())


def test_few_shot_examples_limit_and_filter_are_lm_evals_own(bench, oracle):
    """Examples of a file or a split, drawn as lm-eval draws them; the first documents; the results of one filter."""
    files = "split: {report: test.jsonl}, train: train.jsonl"
    found = figures(measured(bench, f"{{kind: lm_eval, task: quiz.yaml, few_shot: 1, limit: 11, {files}}}"))
    wanted = oracle("quiz", num_fewshot=1, limit=11)
    assert found == pytest.approx({name: wanted[f"{name},none"] for name in found}, rel=1e-12)
    assert list(found) == ["acc", "acc_norm", "f1", "brier_score"]
    splits = 'split: {report: "@test"}, train: "@train"'
    again = measured(bench, f"{{kind: lm_eval, task: quiz.yaml, few_shot: 1, limit: 11, {splits}}}")
    assert (figures(again), again.cells[0].examples) == (found, 11)
    first = measured(bench, "{kind: lm_eval, task: write.yaml, filter: first, split: {report: write.jsonl}}")
    assert figures(first) == {"exact_match": oracle("write")["exact_match,first"]}


def test_where_texts_end_is_read_from_the_model(bench, tmp_path):
    """generation_config.json of the base: a token that ends all texts ends those of a merge in memory."""
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    for path in (bench / "one").iterdir():
        (quiet / path.name).write_bytes(path.read_bytes())
    everything = {"eos_token_id": list(range(320))}
    (quiet / "generation_config.json").write_text(json.dumps(everything))
    task = "{kind: lm_eval, task: write.yaml, split: {report: write.jsonl}}"
    result = measured(bench, task, candidate(bench / "merged"), candidate(quiet))
    assert figures(result, 1)["exact_match"] == 0 < figures(result)["exact_match"]


def test_rows_are_examples(bench, tmp_path):
    """Each document is a row: intervals, paired differences to the first model, predictions that are known again."""
    task = "{kind: lm_eval, task: quiz.yaml, metrics: [acc_norm, acc], split: {report: test.jsonl}}"
    models = [candidate(bench / "one"), candidate(bench / "two")]
    with Cache(tmp_path) as cache:
        one, two = measured(bench, task, *models, cache=cache).cells
        again = measured(bench, task.replace("[acc_norm, acc]", "[acc]"), *models, cache=cache)
        other = measured(bench, task.replace("kind:", "limit: 19, kind:"), *models, cache=cache)
    assert [f.metric for f in one.figures] == ["acc_norm", "acc"]
    assert one.examples == 20
    assert one.figures[0].low < one.figures[0].value < one.figures[0].high
    assert two.figures[0].difference == pytest.approx(two.figures[0].value - one.figures[0].value)
    assert all(cell.known for cell in again.cells)
    assert figures(again)["acc"] == one.figures[1].value
    assert not any(cell.known for cell in other.cells)


def test_a_metric_of_ones_own_has_the_tasks_columns(bench):
    """By metric and filter, beside metrics of the task by name."""
    (bench / "own.py").write_text(
        "from stockpot.evaluate import Metric\n"
        "odd = Metric('odd', 'lower', lambda columns: columns['acc,none'] != columns['acc_norm,none'])\n"
    )
    task = "{kind: lm_eval, task: quiz.yaml, metrics: [acc, 'own:odd', acc_norm], split: {report: test.jsonl}}"
    found = figures(evaluate([candidate(bench / "one")], suite_of(bench, task, allow_code=True)))
    assert list(found) == ["acc", "odd", "acc_norm"]
    assert found["odd"] >= abs(found["acc"] - found["acc_norm"])


def test_data_that_cannot_be_loaded_is_told(bench):
    """With the task and what to do without a network."""
    of_quiz(bench, "gone.yaml", ("test: test.jsonl", "test: gone.jsonl"))
    text = problems(bench, '{kind: lm_eval, task: gone.yaml, split: {report: "@test"}}')
    assert "cannot load the data of quiz (json)" in text
    assert "split: {report: FILE.jsonl}" in text
    (bench / "mixed.jsonl").write_text('{"question": 1}\n{"question": ["a"]}\n')
    text = problems(bench, "{kind: lm_eval, task: quiz.yaml, split: {report: mixed.jsonl}}")
    assert "rows of different kinds" in text
    (bench / "broken.parquet").write_text("PAR1")
    text = problems(bench, "{kind: lm_eval, task: quiz.yaml, split: {report: broken.parquet}}")
    assert "not a parquet file" in text
    text = problems(bench, "{kind: lm_eval, task: quiz.yaml, split: {report: [test.jsonl, prose.jsonl]}}")
    assert "prose.jsonl: the files hold different keys: text, but test.jsonl has question, choices, answer" in text


def test_no_row_serves_two_roles(bench):
    """Found by what the model sees, in files, in splits of the task's data, and in few-shot examples."""
    both = "{kind: lm_eval, task: quiz.yaml, split: {select: dev.jsonl, report: test.jsonl}}"
    suite_of(bench, both)
    shared = 'split: {select: "@dev", report: [test.jsonl, dev.jsonl]}'
    assert "20 examples of t's select data" in problems(bench, f"{{kind: lm_eval, task: quiz.yaml, {shared}}}")
    shots = 'few_shot: 2, train: "@dev", split: {report: dev.jsonl}'
    assert "t's train data" in problems(bench, f"{{kind: lm_eval, task: quiz.yaml, {shots}}}")
    marked = suite_of(bench, f"{{kind: lm_eval, task: quiz.yaml, {shared}}}", same_data=True)
    assert marked.tasks[0].reused == {"select", "report"}


def test_data_that_choices_were_made_with_is_marked(bench, tmp_path):
    """A split by name is known again as the data that chose."""
    with Cache(tmp_path) as cache:
        chosen = '{kind: lm_eval, task: quiz.yaml, split: {select: "@dev"}}'
        measured(bench, chosen, split="select", cache=cache, choosing="the best")
        told = measured(bench, chosen.replace("select:", "report:"), cache=cache)
        fresh = measured(bench, chosen.replace("select:", "report:").replace("dev", "test"), cache=cache)
    assert "the best" in told.marks["t"]
    assert not fresh.marks


def test_changed_documents_are_predicted_anew(bench, tmp_path):
    """An answer that is mended in a split by name, or in a file, makes another task of it."""
    for name in ("quiz.yaml", "train.jsonl", "dev.jsonl", "test.jsonl"):
        (tmp_path / name).write_bytes((bench / name).read_bytes())
    model = candidate(bench / "one")
    known = []
    for split in ('"@test"', "test.jsonl"):
        task = f"{{kind: lm_eval, task: quiz.yaml, metrics: [acc], split: {{report: {split}}}}}"
        with Cache(None) as cache:
            for turn in range(3):
                if turn == 2:
                    rows = questions(40, 60)
                    write_lines(tmp_path / "test.jsonl", [row | {"answer": 1 - row["answer"]} for row in rows])
                known.append(measured(tmp_path, task, model, cache=cache).cells[0].known)
        write_lines(tmp_path / "test.jsonl", questions(40, 60))
    assert known == [False, True, False] * 2


def test_a_greedy_soup_is_chosen_by_a_task_of_lm_eval(bench):
    """Choices on select, figures on report, without change to what searches."""
    suite = suite_of(bench, "{kind: lm_eval, task: quiz.yaml, split: {select: dev.jsonl, report: test.jsonl}}")
    found = soup([candidate(bench / "one"), candidate(bench / "two")], suite, kind="greedy")
    assert found.report is not None
    assert found.report.failed == ()


def test_nothing_is_shown_and_nothing_stays_changed(bench, capfd):
    """No bar, no note; loggers, bars, templates and random numbers are as they were."""
    import datasets
    from lm_eval import utils
    from lm_eval.api import task as own

    before = (utils.env, own.tqdm, logging.getLogger("lm_eval").level, datasets.are_progress_bars_disabled())
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    draws = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    measured(bench, "{kind: lm_eval, task: write.yaml, split: {report: write.jsonl}}")
    assert capfd.readouterr() == ("", "")
    assert before == (utils.env, own.tqdm, logging.getLogger("lm_eval").level, datasets.are_progress_bars_disabled())
    assert torch.equal(torch.get_rng_state(), draws[0])
    assert (np.random.get_state()[1] == draws[1]).all()  # noqa: NPY002


def test_a_task_of_the_package_takes_local_files(bench):
    """arc_easy with rows in the form of its data; its functions and templates are the package's."""
    write_lines(bench / "arc.jsonl", of_arc(questions(0, 12)))
    found = measured(bench, "{kind: lm_eval, task: arc_easy, split: {report: arc.jsonl}}")
    write_lines(bench / "same.jsonl", questions(0, 12))
    same = "{kind: lm_eval, task: quiz.yaml, metrics: [acc, acc_norm], split: {report: same.jsonl}}"
    assert figures(found) == figures(measured(bench, same))


def test_tables_of_parquet_are_read(bench):
    """The same rows in a table, or in two files, are the same documents."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = questions(40, 60)
    parquet.write_table(pa.Table.from_pylist(rows[:9]), bench / "test.parquet")
    write_lines(bench / "rest.jsonl", rows[9:])
    pieces = measured(bench, "{kind: lm_eval, task: quiz.yaml, split: {report: [test.parquet, rest.jsonl]}}")
    assert figures(pieces) == figures(measured(bench, "{kind: lm_eval, task: quiz.yaml, split: {report: test.jsonl}}"))


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("task: arc_eazy, split: {report: test.jsonl}", ["no task 'arc_eazy'", "did you mean arc_easy?"]),
        ("task: squadv2, split: {report: test.jsonl}", ["class of Python"]),
        ("task: humaneval, split: {report: test.jsonl}", ["unsafe_code", "--allow-code"]),
        ("task: nowhere.yaml, split: {report: test.jsonl}", ["no such task"]),
        ("task: quiz.yaml", ["split"]),
        ("task: quiz.yaml, split: {report: absent.jsonl}", ["no such file"]),
        (
            'task: quiz.yaml, split: {report: "@tset"}',
            ["no split 'tset'", "did you mean @test? it has: @dev"],
        ),
        ('task: quiz.yaml, split: {report: ["@test", "@dev"]}', ["stands alone"]),
        ("task: quiz.yaml, split: {report: quiz.yaml}", ["unknown form", ".jsonl"]),
        ("task: quiz.yaml, split: {report: prose.jsonl}", ["prose.jsonl", "'question' is undefined"]),
        ("task: quiz.yaml, split: {report: test.jsonl}, metrics: [acc_nrom]", ["'acc_nrom'", "did you mean acc_norm?"]),
        (
            "task: odd.yaml, split: {report: test.jsonl}, metrics: [acc_norm]",
            ["aggregated as bypass", "by code", "take acc, f1"],
        ),
        ("task: write.yaml, split: {report: write.jsonl}, filter: hole", ["no filter 'hole'", "did you mean whole?"]),
        ("task: quiz.yaml, split: {report: test.jsonl}, few_shot: 2", ["data of their own", 'train: "@train"']),
        ("task: quiz.yaml, split: {report: test.jsonl}, settings: {dtype: half}", ["those of vLLM", "backend: vllm"]),
        (
            "task: quiz.yaml, split: {report: test.jsonl}, backend: vllm, settings: {trust_remote_code: true}",
            ["trust_remote_code is not among"],
        ),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_what_is_wrong_is_told_by_name(bench, task, told):
    """Task, data, metrics and settings: with the line and the fix."""
    text = problems(bench, f"{{kind: lm_eval, {task}}}")
    assert all(part in text for part in told), text
    assert "suite line 1" in text


def test_counts_of_texts_are_sacrebleus():
    """BLEU, chrF, chrF++ and TER of any choice of documents, some several times, with one reference or several."""
    from lm_eval.api import metrics as own

    words = TEXT.split()
    texts = [" ".join(words[i : i + 9]) for i in range(0, 27, 3)]
    one = [(" ".join(words[i : i + 8 + i % 3]), texts[i // 3]) for i in range(0, 27, 3)]
    two = [([reference, text[9:], "soup"][: 2 + i % 2], [text]) for i, (reference, text) in enumerate(one)]
    drawn = np.random.default_rng(0).integers(0, 9, 9)
    for name, aggregate in {"bleu": own.bleu, "chrf": own.chrf, "chrf++": own.chrfpp, "ter": own.ter}.items():
        for pairs in (one, two):
            rows = numbers_of(name, pairs, name)
            assert FIGURES[name](rows) == pytest.approx(aggregate(pairs), rel=1e-12)
            fewest = [(reference if isinstance(reference, str) else reference[:2], text) for reference, text in pairs]
            assert FIGURES[name](rows[drawn]) == pytest.approx(aggregate([fewest[i] for i in drawn]), rel=1e-12)


@pytest.mark.parametrize(
    ("aggregation", "values", "told"),
    [
        ("bleu", [1.0, 0.0], "t needs a text and its reference"),
        ("ter", [("a", "b"), (None, "b")], "t needs a text and its reference"),
        ("chrf", [("a", ["b", "c"])], "t needs a text and its reference"),
        ("chrf", [([], "b")], "t needs a text and its reference"),
        ("brier_score", [(-100, [0.5, 0.5])], "one right choice of each document, but one has -100"),
        ("brier_score", [([0, 1], [0.5, 0.5])], "one has [0, 1]"),
    ],
    ids=["numbers", "no-reference", "two-texts", "no-references", "no-choice", "two-choices"],
)
def test_what_a_figure_cannot_be_made_of_is_told(aggregation, values, told):
    """Metric and task are named."""
    with pytest.raises(StockpotError, match=re.escape(told)):
        numbers_of(aggregation, values, "t")


def test_choices_may_be_more_or_fewer(bench):
    """The Brier score is a mean of documents, each with its choices, where lm-eval itself has no figure."""
    rows = questions(40, 50)
    rows[3]["choices"].append("spoon")
    write_lines(bench / "three.jsonl", rows)
    parts = []
    for name, own in {"three": rows, "third": rows[3:4], "rest": rows[:3] + rows[4:]}.items():
        write_lines(bench / f"{name}.jsonl", own)
        task = f"{{kind: lm_eval, task: quiz.yaml, metrics: [brier_score], split: {{report: {name}.jsonl}}}}"
        parts.append(figures(measured(bench, task))["brier_score"])
    assert parts[0] == pytest.approx((parts[1] + 9 * parts[2]) / 10)


def test_a_thousand_documents_are_drawn_fast():
    """A thousand draws of BLEU, chrF++ and TER of a thousand documents take a second, not minutes."""
    rng = np.random.default_rng(0)
    for name, width in TEXTS.items():
        started = time.process_time()
        found = Bootstrap().figures(rng.integers(1, 30, (1000, width)).astype(np.float64), FIGURES[name])
        assert time.process_time() - started < 2
        assert np.isfinite(found).all()


def of_quiz(folder, name, *changes):
    """The quiz with other lines, as a file of its own."""
    text = QUIZ
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / name).write_text(text)
    return f"{{kind: lm_eval, task: {name}, split: {{report: test.jsonl}}}}"


def test_code_in_a_task_runs_only_when_it_is_allowed(bench):
    """!function, in an included file too; nothing of it is imported before."""
    (bench / "mine.py").write_text("def text(doc):\n    return 'Question: ' + doc['question'] + '\\nAnswer:'\n")
    code = of_quiz(bench, "code.yaml", ('"Question: {{question}}\\nAnswer:"', "!function mine.text"))
    (bench / "outer.yaml").write_text("include: code.yaml\ntask: outer\n")
    for task in (code, code.replace("code.yaml", "outer.yaml")):
        text = problems(bench, task)
        assert "!function mine.text is code" in text
        assert "--allow-code" in text
        plain = "{kind: lm_eval, task: quiz.yaml, split: {report: test.jsonl}}"
        allowed = evaluate([candidate(bench / "one")], suite_of(bench, task, allow_code=True))
        assert figures(allowed) == figures(measured(bench, plain, candidate(bench / "one")))
    facts = suite_of(bench, code, allow_code=True).tasks[0].task.facts
    (bench / "mine.py").write_text("def text(doc):\n    return doc['question']\n")
    assert facts != suite_of(bench, code, allow_code=True).tasks[0].task.facts
    (bench / "mine.py").write_text("")
    assert "cannot load !function mine.text" in problems(bench, code, allow_code=True)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("{{question}}", "{{question.__class__.__mro__}}", "unsafe"),
        ("{metric: f1,", "{metric: nobody_knows,", "nobody_knows is code that would be loaded from the hub"),
        ("{metric: f1,", "{hf_evaluate: true, metric: f1,", "f1 is code that would be loaded from the hub"),
        ("task: quiz", "task: quiz\nunsafe_code: true", "unsafe_code"),
        ("task: quiz", "task: quiz\nuse_prompt: 'promptsource:all'", "promptsource"),
        ("task: quiz", "task: quiz\ndoc_to_image: question", "about images"),
        ("task: quiz", "task: quiz\ngeneration_kwargs: {custom_generate: some/one}", "custom_generate is not among"),
        ("dataset_path: json", "dataset_path: pandas", "pickles"),
        ("task: quiz", "task: quiz\nuse_prompt: 'mine.yaml:all'", "prompts from a file of its own (mine.yaml:all)"),
        ("dataset_kwargs: {", "dataset_kwargs: {storage_options: {fo: x}, ", "storage_options is not among"),
        ("dataset_path: json", "dataset_path: reference://x", "data at 'reference://x', which is no path"),
        ("dev: dev.jsonl", "dev: 'filecache::reference://x'", "filecache::reference://x"),
        ("task: quiz", "task: quiz\nclass: Quiz", "class of Python"),
        ("task: quiz", "task: quiz\ntask_list: [quiz]", "several tasks"),
        ("task: quiz", "task: quiz\ngroup: [all]", "several tasks"),
        ("task: quiz", "task: quiz\ninclude: strange.yaml", "include one another"),
        ("task: quiz", "task: !!python/name:os.system", "not valid YAML"),
        ("task: quiz", "task: [", "not valid YAML"),
        ("output_type: multiple_choice", "output_type: guessing", "guessing"),
    ],
    ids=lambda value: value[:30],
)
def test_strange_tasks_are_refused(bench, old, new, told):
    """A file of a stranger's is data: no code, no sandbox left, nothing loaded from the hub."""
    assert told in problems(bench, of_quiz(bench, "strange.yaml", (old, new)))


def test_the_example_of_the_page_is_measured(bench, tmp_path):
    """As docs/evaluate.md has it, with data in the form of the task's."""
    page = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    block = next(b for b in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "lm_eval" in b)
    (tmp_path / "arc").mkdir()
    for number, name in enumerate(("train", "dev", "test")):
        write_lines(tmp_path / "arc" / f"{name}.jsonl", of_arc(questions(20 * number, 20 * number + 20)))
    (tmp_path / "suite.yml").write_text(block)
    result = evaluate([candidate(bench / "one")], load_suite(tmp_path / "suite.yml"))
    assert list(figures(result)) == ["acc", "acc_norm"]


def test_a_missing_package_is_named(bench, monkeypatch):
    """With what to install."""
    monkeypatch.setattr("stockpot.evaluate.neural.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "lm_eval")
    text = problems(bench, "{kind: lm_eval, task: quiz.yaml, split: {report: test.jsonl}}")
    assert "needs lm_eval" in text
    assert "pip install 'stockpot[lm-eval]'" in text


def test_a_failure_is_the_cell_s(bench, tmp_path):
    """A model that lacks a tokenizer fails by itself."""
    language_model(tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / name).unlink()
    suite = suite_of(bench, "{kind: lm_eval, task: quiz.yaml, split: {report: test.jsonl}}")
    result = evaluate([candidate(bench / "one"), candidate(tmp_path / "bare")], suite)
    assert result.cells[0].error is None
    assert "has no tokenizer" in result.cells[1].error


@pytest.mark.parametrize(
    ("task", "tokens", "told"),
    [
        ("write", {"bos_token": "<s>"}, "names no end of texts (eos_token), so write cannot stop"),
        ("write", {}, "names no end of texts (eos_token), so write cannot stop"),
        ("last", {}, "names neither a beginning nor an end of texts (bos_token, eos_token)"),
        ("prose", {}, "names neither a beginning nor an end of texts (bos_token, eos_token)"),
        ("last", {"bos_token": "<s>"}, None),
        ("prose", {"eos_token": "</s>"}, None),
    ],
    ids=["write-bos", "write-none", "last-none", "prose-none", "last-bos", "prose-eos"],
)
def test_a_token_that_lm_eval_needs_is_named(bench, tmp_path, task, tokens, told):
    """With the model and the file that lacks it, where lm-eval itself fails within."""
    language_model(tmp_path / "mute")
    save_tokenizer(tmp_path / "mute", **tokens)
    suite = suite_of(bench, f"{{kind: lm_eval, task: {task}.yaml, split: {{report: {task}.jsonl}}}}")
    error = evaluate([candidate(tmp_path / "mute")], suite).cells[0].error
    assert told in error if told else error is None
    assert not told or ("the tokenizer of mute" in error and "tokenizer_config.json" in error)


def test_correlation_and_f1_are_scikit_learns():
    """Of labels and predictions: Matthews' coefficient of three classes, F1 of two, none where nothing is sought."""
    from sklearn.metrics import f1_score, matthews_corrcoef

    rng = np.random.default_rng(0)
    three = rng.integers(0, 3, (50, 2))
    three[:20, 1] = three[:20, 0]
    two = three % 2
    assert FIGURES["matthews_corrcoef"](three) == pytest.approx(matthews_corrcoef(*three.T))
    assert FIGURES["f1"](two) == pytest.approx(f1_score(*two.T))
    assert FIGURES["f1"](np.zeros((3, 2))) == FIGURES["matthews_corrcoef"](np.ones((3, 2))) == 0
    assert FIGURES["median"](np.array([3.0, 1, 2, 5])) == 3
    with pytest.raises(StockpotError, match="other than 0 and 1"):
        FIGURES["f1"](three)


def test_no_package_is_imported_before_it_is_needed():
    """Suites of other tasks load nothing of lm-eval."""
    code = "import sys, stockpot.evaluate.harness.task\nassert not {'lm_eval', 'datasets', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
