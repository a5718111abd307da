"""Groups of tasks of lm-eval: their figures and those of their members, data for each of them, and what is refused."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest

import stockpot as sp
from evaluating import language_model, save_tokenizer, write_lines
from harnessed import QUIZ, figures, lm_eval_figures, measured, merged, of_arc, problems, questions, suite_of
from stockpot.evaluate import Cache, candidate, evaluate, load_suite
from stockpot.evaluate.figures import Bootstrap, Part, Strata
from stockpot.evaluate.page import page
from stockpot.evaluate.protocol import mean
from stockpot.evaluate.table import table
from stockpot.search import soup

pytest.importorskip("lm_eval", reason="lm_eval is not installed: groups of its tasks are not tested here")

INLINE = """
      - task: east
        dataset_path: json
        dataset_kwargs: {data_files: {test: data/east.jsonl}}
        test_split: test
        output_type: multiple_choice
        doc_to_text: "{{question}}"
        doc_to_choice: "{{choices}}"
        doc_to_target: answer
        metric_list: [{metric: acc}, {metric: acc_norm}, {metric: f1}]
"""

WORLD = f"""
group: world
task:
  - north
  - group: far
    task:
      - {{task: south, doc_to_text: "{{{{question}}}}?"}}{INLINE}
    aggregate_metric_list:
      - {{metric: acc, weight_by_size: false}}
aggregate_metric_list:
  - {{metric: acc, filter_list: none}}
  - {{metric: acc_norm, weight_by_size: false}}
  - {{metric: f1, aggregation: mean, filter_list: [none]}}
"""

METRICS = ("acc", "acc_norm", "f1")
ALL = "split: {report: 'data/{task}.jsonl'}"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two language models, two quizzes in files and one within a group, with 10, 14 and 6 questions."""
    import datasets

    folder = tmp_path_factory.mktemp("groups")
    for seed, name in enumerate(("one", "two")):
        language_model(folder / name, seed)
        save_tokenizer(folder / name, bos_token="<s>", eos_token="</s>")
    sp.save(merged(folder), folder / "merged")
    (folder / "data").mkdir()
    for name, (start, stop) in {"north": (0, 10), "south": (10, 24), "east": (24, 30), "other": (30, 42)}.items():
        write_lines(folder / "data" / f"{name}.jsonl", questions(start, stop))
        own = QUIZ.replace("task: quiz", f"task: {name}").replace("test: test.jsonl", f"test: data/{name}.jsonl")
        for part in ("dev: dev.jsonl, ", ", train: train.jsonl", "fewshot_split: train\n"):
            own = own.replace(part, "")
        if name != "east":
            (folder / f"{name}.yaml").write_text(own)
    (folder / "world.yaml").write_text(WORLD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "kept")
        yield folder


@pytest.mark.parametrize("data", [ALL, 'split: {report: "@test"}'], ids=["files", "splits"])
def test_figures_are_lm_evals_own(world, data):
    """Of the group, of the group in it, and of each task: means by size and not, settings beside a member, f1."""
    found = figures(measured(world, f"{{kind: lm_eval, task: world.yaml, {data}}}"))
    wanted = lm_eval_figures(world, "world")
    tasks = ("north", "south", "world::far::east")
    own = {m: wanted["world"][f"{m},none"] for m in METRICS} | {"world::far/acc": wanted["world::far"]["acc,none"]}
    own |= {f"{name}/{m}": wanted[name][f"{m},none"] for name in tasks for m in METRICS}
    assert found == pytest.approx(own, rel=1e-12)
    assert list(found)[:5] == ["acc", "acc_norm", "f1", "world::far/acc", "north/acc"]
    each = [found[f"{name}/acc"] for name in tasks]
    assert found["acc"] != pytest.approx(sum(each) / 3)
    assert found["world::far/acc"] != pytest.approx((14 * each[1] + 6 * each[2]) / 20)


def test_settings_of_the_suite_are_those_of_each_member(world):
    """The first documents of each, few-shot examples of each, as lm-eval takes them."""
    text = "group: pair\ntask: [north, south]\naggregate_metric_list: [{metric: acc}]\n"
    (world / "pair.yaml").write_text(text)
    how = f"few_shot: 1, limit: 8, train: 'data/other.jsonl', {ALL}"
    found = measured(world, f"{{kind: lm_eval, task: pair.yaml, {how}}}")
    single = f"{{kind: lm_eval, task: south.yaml, metrics: [acc], {how}}}"
    assert found.cells[0].examples == 16
    assert figures(found)["south/acc"] == figures(measured(world, single))["acc"]
    limited = measured(world, f"{{kind: lm_eval, task: pair.yaml, limit: 8, {ALL}}}")
    assert figures(limited)["acc"] == pytest.approx(lm_eval_figures(world, "pair", limit=8)["pair"]["acc,none"])


def test_a_member_has_what_it_has_alone(world):
    """Figure, interval and difference are those of the task in a line of its own."""
    models = candidate(world / "one"), candidate(world / "two")
    together = measured(world, f"{{kind: lm_eval, task: world.yaml, metrics: [f1, acc], {ALL}}}", *models)
    alone = measured(world, f"{{kind: lm_eval, task: north.yaml, metrics: [f1, acc], {ALL}}}", *models)
    for cell, own in zip(together.cells, alone.cells, strict=True):
        part = cell.of("north").figures
        assert [f.metric for f in part] == ["f1", "acc"]
        assert part == own.figures
    assert cell.of().figures[0].low < cell.of().figures[0].value < cell.of().figures[0].high


def test_a_group_counts_once(world):
    """Beside another task, in the mean and the worst; its members have rows of their own in table and page."""
    lines = [f"all: {{kind: lm_eval, task: world.yaml, {ALL}}}"]
    lines += ["other: {kind: lm_eval, task: other.yaml, metrics: [acc], split: {report: data/other.jsonl}}"]
    (world / "suite.yml").write_text(f"tasks: {{{', '.join(lines)}}}")
    suite = load_suite(world / "suite.yml")
    result = evaluate([candidate(world / "one"), candidate(world / "two")], suite)
    assert result.tasks == ("all", "other")
    for row in result.models:
        shares = [result.cell(row.name, task).figures[0].retention for task in result.tasks]
        assert row.retention == pytest.approx(sum(shares) / 2)
        assert row.worst[0] in result.tasks
    told = "\n".join(table(result))
    start = told.index("  north\n")
    assert told.index("all (report, 30 examples)") < start < told.index("other (report, 12 examples)")
    assert told[start:].split("\n")[1].split()[0] == "one"
    one = "\n".join(table(measured(world, f"{{kind: lm_eval, task: world.yaml, {ALL}}}")))
    assert any(line.split()[0] == "north" for line in one.split("\n") if line.strip())
    assert "<td>north</td><td>two</td>" in page(result)


def test_rows_are_those_of_all_members(world):
    """Predictions are known again; the file of one member that changes makes them anew; other figures do not."""
    model = candidate(world / "one")
    data = world / "data" / "south.jsonl"
    before = data.read_bytes()
    task = f"{{kind: lm_eval, task: world.yaml, {ALL}}}"
    with Cache(None) as cache:
        known = [measured(world, task, model, cache=cache).cells[0].known for _ in range(2)]
        other = measured(world, task.replace("split", "metrics: [acc_norm], split"), model, cache=cache)
        write_lines(data, [row | {"answer": 1 - row["answer"]} for row in questions(10, 24)])
        known.append(measured(world, task, model, cache=cache).cells[0].known)
    data.write_bytes(before)
    assert known == [False, True, False]
    assert other.cells[0].known
    assert list(figures(other)) == ["acc_norm", "north/acc_norm", "south/acc_norm", "world::far::east/acc_norm"]


def test_no_row_of_a_member_serves_two_roles(world):
    """Also where it is another member's."""
    (world / "leak").mkdir()
    for name, rows in {"north": questions(50, 60), "south": questions(0, 10), "east": questions(60, 70)}.items():
        write_lines(world / "leak" / f"{name}.jsonl", rows)
    split = "split: {select: 'leak/{task}.jsonl', report: 'data/{task}.jsonl'}"
    (world / "plain.yaml").write_text("group: plain\ntask: [north, south]\n")
    text = problems(world, f"{{kind: lm_eval, task: plain.yaml, {split}}}")
    assert "10 examples of t's select data" in text


def test_a_soup_is_chosen_by_a_member(world):
    """TASK.MEMBER/METRIC is a figure like any other."""
    for name in ("north", "south", "east"):
        write_lines(world / "data" / f"{name}-dev.jsonl", questions(70, 76))
    split = "split: {select: 'data/{task}-dev.jsonl', report: 'data/{task}.jsonl'}"
    suite = suite_of(world, f"{{kind: lm_eval, task: world.yaml, {split}}}")
    models = [candidate(world / "one"), candidate(world / "two")]
    found = soup(models, suite, kind="greedy", metrics=["t.south/acc"])
    assert found.report is not None
    assert found.report.failed == ()


def test_groups_and_tags_of_lm_eval_take_local_files(world):
    """ai2_arc, of which lm-eval has no figure: the mean of its tasks. mmlu_stem: as its file says, by size."""
    (world / "arc").mkdir()
    write_lines(world / "arc" / "arc_easy.jsonl", of_arc(questions(0, 12)))
    write_lines(world / "arc" / "arc_challenge.jsonl", of_arc(questions(12, 20)))
    found = figures(measured(world, "{kind: lm_eval, task: ai2_arc, split: {report: 'arc/{task}.jsonl'}}"))
    assert list(found)[:2] == ["acc", "acc_norm"]
    assert found["acc"] == pytest.approx((found["arc_easy/acc"] + found["arc_challenge/acc"]) / 2)
    four = [row | {"choices": [*row["choices"], "x", "y"]} for row in questions(0, 40)]
    write_lines(world / "arc" / "two.jsonl", four[:2])
    suite = suite_of(world, "{kind: lm_eval, task: mmlu_stem, split: {report: arc/two.jsonl}}")
    names = [metric.name for metric in suite.tasks[0].task.metrics]
    assert (names[0], len(names)) == ("acc", 20)
    assert "mmlu_anatomy/acc" in names
    started = time.process_time()
    result = evaluate([candidate(world / "one")], suite)
    assert result.failed == ()
    assert time.process_time() - started < 20
    told = figures(result)
    assert told["acc"] == pytest.approx(np.mean([value for name, value in told.items() if "/" in name]))


def test_the_example_of_the_page_is_measured(world, tmp_path):
    """As docs/evaluate.md has it: a group with a group in it, files for each member, few-shot examples."""
    text = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    block = next(one for one in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "school.yaml" in one)
    listed = next(line.partition("# ")[2] for line in block.split("\n") if "school.yaml" in line)
    listed = listed.replace(", task:", "\ntask:", 1).replace(
        ", …", "\naggregate_metric_list: [{metric: acc}]\nnum_fewshot: 1"
    )
    (tmp_path / "school.yaml").write_text(listed)
    for number, folder in enumerate(("dev", "test", "train")):
        (tmp_path / folder).mkdir()
        for name in ("sums", "spelling", "grammar"):
            write_lines(tmp_path / folder / f"{name}.jsonl", questions(10 * number, 10 * number + 5 + len(name)))
            (tmp_path / f"{name}.yaml").write_text(QUIZ.replace("task: quiz", f"task: {name}"))
    (tmp_path / "suite.yml").write_text(block)
    found = figures(evaluate([candidate(world / "one")], load_suite(tmp_path / "suite.yml", same_data=True)))
    assert list(found) == ["acc", "sums/acc", "spelling/acc", "grammar/acc"]


def test_a_failure_names_the_member(world):
    """The group's cell fails, and says whose documents could not be run."""
    write_lines(world / "data" / "strange.jsonl", [row | {"answer": [0, 1]} for row in questions(0, 3)])
    text = QUIZ.replace("task: quiz", "task: strange").replace("test: test.jsonl", "test: data/strange.jsonl")
    (world / "strange.yaml").write_text(text)
    (world / "failing.yaml").write_text(
        "group: failing\ntask: [north, strange]\naggregate_metric_list: [{metric: brier_score}]\n"
    )
    suite = suite_of(world, f"{{kind: lm_eval, task: failing.yaml, {ALL}}}")
    error = evaluate([candidate(world / "one")], suite).cells[0].error
    assert error.startswith("strange: brier_score of strange needs one right choice")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("task: [north, sooth_]", ["no task 'sooth_'"]),
        ("task: []", ["lists no tasks"]),
        ("task: [3]", ["the group g lists 3", "{task: NAME, …}"]),
        ("task: [{doc_to_text: a}]", ["the group g lists"]),
        ("task: [{task: new, include: quiz.yaml}]", ["the group g includes a file in new", "a file of its own"]),
        ("task: [north, gone.yaml]", ["no such task", "gone.yaml"]),
        ("task: [north, north]", ["holds north more than once"]),
        ("task: [other_group]", ["the group g is in itself"]),
        ("task: [north, squadv2]", ["squadv2 is a class of Python"]),
        ("task: [north]\naggregate_metric_list: [acc]", ["the group g aggregates 'acc'"]),
        ("task: [north]\naggregate_metric_list: [{metric: acc, aggregation: max}]", ["aggregates acc by code"]),
        ("task: [north]\naggregate_metric_list: [{metric: bleu}]", ["north has no metric 'bleu'"]),
        ("task: [north]\naggregate_metric_list: [{metric: acc, filter_list: hole}]", ["north has no filter 'hole'"]),
        ("task: [north, nowhere]\ndoc_to_text: a", ["cannot make g::nowhere"]),
        ("task: [north, write]", ["no metric in common"]),
        ("task: [write, first]", ["other filters first: write whole, first first", "filter: NAME"]),
        ("task: [{task: north, doc_to_text: '{{question.__class__.__mro__}}'}]", ["unsafe"]),
        ("task: [{task: arc_easy, doc_to_text: '{{question.__class__.__mro__}}'}]", ["unsafe"]),
        ("task: [north]\ndataset_path: pandas", ["pickles"]),
        ("task: [{task: arc_easy, generation_kwargs: {custom_generate: some/one}}]", ["custom_generate is not among"]),
        ("task: [{group: mmlu_stem, generation_kwargs: {custom_generate: a/b}}]", ["custom_generate is not among"]),
        ("task: [{group: in, task: [{group: in, task: [{group: in, task: [.]}]}]}]", ["no task '.'"]),
        ("task: [{group: in, task: [north]}, {group: in, task: [south]}]", ["holds g::in more than once"]),
        ("task: [north]\ndoc_to_text: !function mine.text", ["!function mine.text is code", "--allow-code"]),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else "",
)
def test_what_is_wrong_with_a_group_is_told(world, text, told):
    """Its list, its figures, its members' forms; a stranger's file is data, whatever it changes of lm-eval's tasks."""
    (world / "other_group.yaml").write_text("group: other_group\ntask: [group.yaml]\n")
    write = QUIZ.replace("multiple_choice", "generate_until").replace("task: quiz", "task: write")
    write = write[: write.index("metric_list")].replace("test: test.jsonl", "test: data/north.jsonl")
    last = "metric_list: [{metric: exact_match}]\nfilter_list: [{name: whole, filter: [{function: take_first}]}]\n"
    (world / "write.yaml").write_text(write + last)
    (world / "first.yaml").write_text((write + last).replace("task: write", "task: first").replace("whole", "first"))
    for name in ("write", "first", "arc_easy", "g", "nowhere"):
        rows = of_arc(questions(0, 3)) if name == "arc_easy" else questions(0, 3)
        write_lines(world / "data" / f"{name}.jsonl", rows)
    (world / "group.yaml").write_text(f"group: g\n{text}\n")
    found = problems(world, f"{{kind: lm_eval, task: group.yaml, {ALL}}}")
    assert all(part in found for part in told), found


def test_what_a_suite_asks_of_a_group_is_checked(world):
    """Metrics by name, the filter, a file for each member."""
    task = f"{{kind: lm_eval, task: world.yaml, {ALL}}}"
    text = problems(world, task.replace("split:", "metrics: [acc_nrom], split:"))
    assert "the group world has no figure 'acc_nrom'" in text
    assert "did you mean acc_norm?" in text
    text = problems(world, task.replace("split:", "filter: strict, split:"))
    assert "has no filter 'strict'" in text
    text = problems(world, task.replace("data/", "dta/"))
    assert f"no such file: {Path(world) / 'dta' / 'north.jsonl'}" in text
    text = problems(world, task.replace("{task}.jsonl", "absent.jsonl"))
    assert "no such file" in text


def test_a_metric_of_ones_own_sees_the_rows_of_all_members(world):
    """Columns of all, with the number of the member."""
    (world / "own.py").write_text(
        "from stockpot.evaluate import Metric\n"
        "last = Metric('last', 'higher', lambda columns: columns['member'] == 2)\n"
    )
    suite = suite_of(world, f"{{kind: lm_eval, task: world.yaml, metrics: [acc, 'own:last'], {ALL}}}", allow_code=True)
    found = figures(evaluate([candidate(world / "one")], suite))
    assert list(found)[:3] == ["acc", "last", "world::far/acc"]
    assert found["last"] == 6 / 30


def test_parts_are_drawn_from_apart():
    """Each has its rows in each resample: the spread of a mean by size is that of its parts, not of where they lie."""
    rng = np.random.default_rng(0)
    values = np.stack([np.repeat([0.0, 1.0], [100, 300]), rng.normal(size=400)], axis=1)
    values[:100, 1] += 100
    both = Strata((Part(0, 1, mean), Part(1, 1, mean)), by_size=True)
    low, high = Bootstrap().interval(Bootstrap().figures(values, both))
    spread = np.sqrt(100 * values[:100, 1].var() + 300 * values[100:, 1].var()) / 400
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert both(values) == pytest.approx(values[:, 1].mean())
    once = Strata((Part(0, 1, mean), Part(1, 1, mean)), by_size=False)
    assert once(values) == pytest.approx((values[:100, 1].mean() + values[100:, 1].mean()) / 2)
    alone = Bootstrap().figures(values[100:, 1], mean)
    assert (Bootstrap().figures(values, Strata((Part(1, 1, mean),), by_size=True)) == alone).all()
