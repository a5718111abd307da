"""A search as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Iterator

from stockpot.evaluate.page import body, document, escaped, folded, grid, sources
from stockpot.evaluate.table import ARROWS, number
from stockpot.search.tuning.found import Search
from stockpot.search.tuning.samplers import SAMPLERS
from stockpot.search.tuning.told import grid_of, heads, trial_told, trials_told
from stockpot.search.tuning.trials import Trial

__all__ = ["search_page"]


def search_page(found: Search, suite_text: str = "") -> str:
    """The whole file: what won and its gaps, the trials, tables on report, select and tune data, recipes."""
    title = f"search over {found.name}"
    results = [result for result in (found.report, found.select, found.tune) if result is not None]
    lines = [
        f"<h1>{escaped(title)}</h1>",
        f"<p class=dim>{escaped(found.sampler)}: {escaped(SAMPLERS[found.sampler])}</p>",
        *(f"<p>{escaped(line)}</p>" for line in trials_told(found)),
        *(f"<p class=dim>{escaped(note)}</p>" for note in found.notes),
        *_gaps(found),
        *_winner(found),
        *_trials(found),
        *(line for result in results for line in body(result)),
        *sources(found.select),
        folded("the recipe with its holes", found.text),
        *([folded("the suite", suite_text)] if suite_text else []),
    ]
    return document(title, lines)


def _gaps(found: Search) -> Iterator[str]:
    """What each row is worth on each data, and how much worse it is on report data."""
    for i, objective in enumerate(found.objectives):
        yield f"<h2>{escaped(str(objective))} {ARROWS[objective.better]}</h2>"
        yield "<p class=dim>gap: how much worse on report data, which nothing was chosen with</p>"
        yield grid(heads(found), [[escaped(row.name), *map(escaped, cells)] for row, cells in grid_of(found, i)])


def _winner(found: Search) -> Iterator[str]:
    yield f"<h2>{escaped(found.winner.name)}</h2>"
    yield grid(["", ""], [[escaped(name), escaped(str(v))] for name, v in (found.winner.values or {}).items()])
    if found.recipe.text:
        yield folded("recipe of the winner", found.recipe.text)


def _trials(found: Search) -> Iterator[str]:
    """All trials, folded away."""
    for title, trials in (("search", found.trials), ("random search", found.random), ("one number", found.shared)):
        if trials:
            yield f"<details><summary>trials: {title}</summary>"
            yield grid(["trial", "result", "seconds", "values"], [_row(trial) for trial in trials])
            yield "</details>"


def _row(trial: Trial) -> list[str]:
    values = ", ".join(
        f"{name}: {number(value) if isinstance(value, float) else value}" for name, value in trial.values.items()
    )
    return [str(trial.number), escaped(trial_told(trial)), number(trial.outcome.seconds), escaped(values)]
