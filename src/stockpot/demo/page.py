"""The demo's results as one HTML file that needs no network: table, choices, picture, recipes, lineage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from stockpot.demo.results import DemoResult, Row
from stockpot.evaluate.background import Background
from stockpot.evaluate.page import about, document, escaped, folded, grid
from stockpot.provenance.ancestry import Ancestor, lineage
from stockpot.search.plots import Axis, Spot, pareto

__all__ = ["report"]

_TITLES = {"start": "shared start", "single": "single", "merge": "merge", "ensemble": "ensemble"}


def report(result: DemoResult, findings: str) -> str:
    """The whole file.

    Args:
        result: What was found; its folder has the recipes and merged models.
        findings: What is to be said of it.
    """
    merges = result.of_kind("merge")
    lines = [
        "<h1>Stockpot demo: small classifiers of digits, merged by recipe</h1>",
        f"<pre>{escaped(findings)}</pre>",
        *_choice(result),
        *_accuracies(result),
        *_plots(result),
        "<h2>Recipes and lineage</h2>",
        *(folded(f"recipe of {row.name}", _recipe(result, row)) for row in merges),
        *about(Background.now(command="stockpot demo", lineage=dict(_trees(result, merges)))),
    ]
    return document("Stockpot demo", lines)


def _choice(result: DemoResult) -> Iterator[str]:
    """The greedy soup beside every single model, on the images that choose."""
    (greedy,) = (row for row in result.of_kind("merge") if row.name == "greedy")
    rows = sorted((greedy, *result.of_kind("single")), key=lambda row: (-row.select, row.name != "greedy"))
    yield "<h2>The greedy soup against its models, on the images that choose</h2>"
    yield (
        "<p class=dim>A model is kept if the average with it is no worse there, so the soup is at least as good as the "
        "best single model there. What that is worth on other images, the report's column tells.</p>"
    )
    cells = [
        [_bold(row.name, row is greedy), escaped(row.about), _percent(row.select), _percent(row.scores.shifted)]
        for row in rows
    ]
    yield grid(["model", "what it is", "chosen by: shifted, select ↑", "shifted, report ↑"], cells)


def _accuracies(result: DemoResult) -> Iterator[str]:
    """Everything, on the report's images."""
    columns = list(result.rows[0].scores.by_column)
    yield "<h2>Accuracy in % on the report's images</h2>"
    yield "<p class=dim>Bold: the best of its kind on the images that choose. Cost: passes for one prediction.</p>"
    chosen = [result.best(kind) for kind in ("single", "merge")]
    yield grid(
        ["model", "kind", "what it is", *(f"{name} ↑" for name in columns), "shifted, mean ↑", "select ↑", "cost"],
        [
            [
                _bold(row.name, row in chosen),
                _TITLES[row.kind],
                escaped(row.about),
                *(_percent(row.scores.by_column[name]) for name in columns),
                _percent(row.scores.shifted),
                _percent(row.select),
                f"{row.passes}×",
            ]
            for row in result.rows
        ],
    )


def _plots(result: DemoResult) -> Iterator[str]:
    """Clean against shifted accuracy."""
    axes = (Axis("clean, %", "higher"), Axis("shifted, %", "higher"))
    best = result.best("merge")
    spots = [
        Spot(row.name, 100 * row.scores.clean, 100 * row.scores.shifted, _kind(row, best), row.about)
        for row in result.rows
    ]
    yield "<h2>Clean and shifted images</h2>"
    yield pareto(spots, axes, called="merge")


def _kind(row: Row, best: Row) -> Literal["trial", "model", "chosen"]:
    if row.kind == "merge":
        return "chosen" if row is best else "trial"
    return "model"


def _trees(result: DemoResult, merges: Sequence[Row]) -> Iterator[tuple[str, Ancestor]]:
    for row in merges:
        yield row.name, lineage(result.folder / "merged" / row.name)


def _recipe(result: DemoResult, row: Row) -> str:
    return (result.folder / "recipes" / f"{row.name}.yml").read_text(encoding="utf-8")


def _bold(words: str, wanted: bool) -> str:
    return f"<strong>{escaped(words)}</strong>" if wanted else escaped(words)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
