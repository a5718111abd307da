"""The demo from start to end: train, merge, evaluate, show."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from threadpoolctl import threadpool_limits

from stockpot.demo import page, picture, table
from stockpot.demo.data import Digits, load_splits
from stockpot.demo.evaluate import Benchmark, make_benchmark
from stockpot.demo.merges import Kitchen, Merged, cook_all
from stockpot.demo.network import Parameters
from stockpot.demo.results import DemoResult, Row
from stockpot.demo.runs import (
    FINE_TUNES,
    FULL,
    QUICK,
    Effort,
    fine_tune,
    save_model,
    train_start,
)

__all__ = ["Report", "play", "summary"]

Report = Callable[[str], None]


def play(folder: Path, *, quick: bool, seed: int, report: Report) -> DemoResult:
    """Run everything; ``seed`` fixes the splits, the training and the shifts."""
    began = time.perf_counter()
    if quick:
        report("Quick run: the training is too short for figures that mean much")
    # One thread: these matrices are so small that handing them out costs more than the arithmetic.
    with threadpool_limits(limits=1, user_api="blas"):
        rows = _rows(folder, QUICK if quick else FULL, seed, report)
    result = _write(rows, folder, began)
    report(table.render(rows))
    report(summary(result))
    return result


def _rows(folder: Path, effort: Effort, seed: int, report: Report) -> tuple[Row, ...]:
    """Train, merge and evaluate; choices are made on ``select``, figures are of ``report``."""
    digits = load_splits(seed)
    models = _train_all(folder, digits, effort, seed, report)
    select = make_benchmark(digits.select, 2 * seed, draws=3)
    exam = make_benchmark(digits.report, 2 * seed + 1, draws=5)
    on_select = {name: select.score(theta).shifted for name, theta in models.items()}
    tunes = [(run.name, on_select[run.name]) for run in FINE_TUNES]
    ranking = sorted(tunes, key=lambda item: item[1], reverse=True)
    report(f"Merging them by the recipes in {folder / 'recipes'}")
    merged = cook_all(Kitchen(folder, select), ranking, fine_grid=effort.fine_grid)
    return (
        *_single_rows(models, on_select, exam),
        *(_merged_row(dish, exam) for dish in merged),
        _ensemble_row(models, select, exam),
    )


def _train_all(folder: Path, digits: Digits, effort: Effort, seed: int, report: Report) -> Mapping[str, Parameters]:
    """Train and save the start, named ``base``, and every fine-tune of it."""
    report(f"Training the shared start on {len(digits.pretrain.labels)} broadly shifted images")
    models = {"base": train_start(digits, effort, seed)}
    names = ", ".join(run.name for run in FINE_TUNES)
    report(f"Fine-tuning it {len(FINE_TUNES)} times on {len(digits.tune.labels)} images: {names}")
    for run in FINE_TUNES:
        models[run.name] = fine_tune(models["base"], digits, run, effort, seed)
    for name, theta in models.items():
        save_model(theta, folder / "models" / name)
    return models


def _single_rows(models: Mapping[str, Parameters], select: Mapping[str, float], exam: Benchmark) -> tuple[Row, ...]:
    start = Row("base", "start", "the shared start", select["base"], exam.score(models["base"]))
    singles = (Row(run.name, "single", run.about, select[run.name], exam.score(models[run.name])) for run in FINE_TUNES)
    return (start, *singles)


def _merged_row(dish: Merged, exam: Benchmark) -> Row:
    return Row(dish.name, "merge", dish.about, dish.select, exam.score(dish.theta))


def _ensemble_row(models: Mapping[str, Parameters], select: Benchmark, exam: Benchmark) -> Row:
    """Average the outputs of the same models that the ``uniform`` merge averages."""
    members = [models[run.name] for run in FINE_TUNES if run.sound]
    return Row(
        "ensemble",
        "ensemble",
        f"mean output of {len(members)} models",
        select.score(*members).shifted,
        exam.score(*members),
        passes=len(members),
    )


def _write(rows: Sequence[Row], folder: Path, began: float) -> DemoResult:
    """Write the table, the figures, the picture and the page."""
    result = DemoResult(
        rows=tuple(rows),
        folder=folder,
        table=folder / "table.txt",
        picture=folder / "picture.png",
        figures=folder / "results.json",
        page=folder / "report.html",
        seconds=0.0,
    )
    text = table.render(rows, table.plain_console())
    result.table.write_text(text + "\n", encoding="utf-8")
    figures = [asdict(row) for row in rows]
    result.figures.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    picture.draw(result, result.picture)
    result = replace(result, seconds=time.perf_counter() - began)
    result.page.write_text(page.report(result, findings(result)), encoding="utf-8")
    return result


def summary(result: DemoResult) -> str:
    """Say in a few lines what the table shows, and where everything is."""
    lines = (
        findings(result),
        f"Report:  {result.page}",
        f"Picture: {result.picture}",
        f"Table:   {result.table}",
        f"Done in {result.seconds:.0f} s.",
    )
    return "\n".join(lines)


def findings(result: DemoResult) -> str:
    """Say in a few lines what the table shows, from its figures."""
    single, merge = result.best("single"), result.best("merge")
    (ensemble,) = result.of_kind("ensemble")
    (start,) = result.of_kind("start")
    (greedy,) = (row for row in result.of_kind("merge") if row.name == "greedy")
    gain = 100 * (merge.scores.shifted - single.scores.shifted)
    lines = (
        f"The chosen merge, {merge.name}, scores {_both(merge)}:",
        f"  {gain:+.1f} points on shifted images from the chosen single model, {single.name}.",
        f"The greedy soup is never below the best single model on the images that choose: {100 * greedy.select:.1f} %",
        f"  shifted there, the best single model {100 * single.select:.1f} %.",
        f"The shared start scores {_both(start)}.",
        f"The ensemble scores {_both(ensemble)}, at {ensemble.passes} times the cost.",
    )
    return "\n".join(lines)


def _both(row: Row) -> str:
    return f"{100 * row.scores.shifted:.1f} % shifted, {100 * row.scores.clean:.1f} % clean"
