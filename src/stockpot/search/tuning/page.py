"""A search as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from stockpot.evaluate.background import Background, lineages
from stockpot.evaluate.candidates import Candidate
from stockpot.evaluate.page import about, body, document, escaped, folded, grid, sources
from stockpot.evaluate.table import ARROWS, number
from stockpot.provenance.ancestry import Ancestor
from stockpot.search import plots
from stockpot.search.plots import Axis, Dot, Slice, Spot, genome, history, pareto, slices
from stockpot.search.spaces.dimensions import Dimension
from stockpot.search.tuning.found import Search
from stockpot.search.tuning.samplers import SAMPLERS
from stockpot.search.tuning.told import grid_of, heads, trial_told, trials_told, value_told
from stockpot.search.tuning.trials import State, Trial

__all__ = ["search_lineage", "search_page"]

_MOST_VALUES = 16
"""More values of the winner are folded away: the map, and the recipe, tell them."""

_STATES: Mapping[State, Literal["done", "stopped", "failed"]] = {
    "complete": "done",
    "stopped": "stopped",
    "failed": "failed",
    "running": "failed",
}


def search_page(found: Search, run: Background | None = None) -> str:
    """The whole file: what won and its gaps, plots, the trials, tables on report, select and tune data, recipes."""
    title = f"search over {found.name}"
    results = [result for result in (found.report, found.select, found.tune) if result is not None]
    lines = [
        f"<h1>{escaped(title)}</h1>",
        f"<p class=dim>{escaped(found.sampler)}: {escaped(SAMPLERS[found.sampler])}</p>",
        *(f"<p>{escaped(line)}</p>" for line in trials_told(found)),
        *(f"<p class=dim>{escaped(note)}</p>" for note in found.notes),
        *_gaps(found),
        *_winner(found),
        *_plots(found),
        *_trials(found),
        *(line for result in results for line in body(result)),
        *sources(found.select),
        folded("the recipe with its holes", found.text),
        *about(run),
    ]
    return document(title, lines)


def search_lineage(found: Search) -> dict[str, Ancestor]:
    """What the winner is made of."""
    return lineages([Candidate(found.winner.name, found.recipe)])


def _gaps(found: Search) -> Iterator[str]:
    """What each row is worth on each data, and how much worse it is on report data."""
    for i, objective in enumerate(found.objectives):
        yield f"<h2>{escaped(str(objective))} {ARROWS[objective.better]}</h2>"
        yield "<p class=dim>gap: how much worse on report data, which nothing was chosen with</p>"
        yield grid(heads(found), [[escaped(row.name), *map(escaped, cells)] for row, cells in grid_of(found, i)])


def _winner(found: Search) -> Iterator[str]:
    yield f"<h2>{escaped(found.winner.name)}</h2>"
    values = [[escaped(name), escaped(value_told(v, None))] for name, v in (found.winner.values or {}).items()]
    many = len(values) > _MOST_VALUES
    yield from ["<details><summary>values of the winner</summary>"] if many else []
    yield grid(["", ""], values)
    yield from ["</details>"] if many else []
    yield from _maps(found)
    if found.recipe.text:
        yield folded("recipe of the winner", found.recipe.text)


def _maps(found: Search) -> Iterator[str]:
    """The winner's numbers by layer and filter, where holes have several: a map for each parameter and its filters."""
    maps: dict[tuple[str, frozenset[str]], dict[tuple[str, str, str], float]] = {}
    cells = [one.cell for one in found.dimensions if one.cell is not None]
    for one in found.dimensions:
        told_of = _mapped(one)
        if one.cell is not None and told_of is not None and found.winner.values is not None:
            filters = frozenset(where for hole, where, _ in cells if hole == one.cell[0])
            maps.setdefault((told_of, filters), {})[one.cell] = float(found.winner.values[one.name])
    for (told_of, _), own in maps.items():
        rows = list(dict.fromkeys(row for row, _, _ in own))
        wheres = list(dict.fromkeys(where for _, where, _ in own))
        columns = sorted(dict.fromkeys((where, group) for _, where, group in own), key=lambda c: wheres.index(c[0]))
        yield genome(rows, columns, [[own.get((row, *column)) for column in columns] for row in rows], told_of)


def _mapped(one: Dimension) -> str | None:
    """What the numbers of a hole with several are: the parameter; None where they are none."""
    if one.cell is None or one.kind != "choice":
        return None if one.cell is None else one.cell[0].rpartition(".")[2]
    return "layer in (1) or out (0)" if one.choices == (False, True) else None


def _plots(found: Search) -> Iterator[str]:
    """How the search went, each figure against each dimension, and the front."""
    winner = found.winner.trial
    for i, objective in enumerate(found.objectives):
        axis = Axis(str(objective), objective.better)
        yield f"<h2>Trials on {found.role} data: {escaped(str(objective))}</h2>"
        baselines = [row for row in found.rows if row.kind not in ("search", "front")]
        levels = [(row.name, v) for row in baselines if (v := row.figures[found.role][i]) is not None]
        yield history([_drawn(trial, i) for trial in found.trials], axis, levels)
        yield slices([_slice(found, place, i, winner) for place in range(len(found.dimensions))], axis)
    if len(found.objectives) > 1:
        axes = tuple(Axis(str(one), one.better) for one in found.objectives[:2])
        yield "<h2>The front</h2><p class=dim>the first two figures, on the data of the trials</p>"
        yield pareto(_spots(found), (axes[0], axes[1]))


def _drawn(trial: Trial, objective: int) -> plots.Trial:
    rungs = trial.outcome.rungs
    value = rungs[-1][objective] if rungs and trial.state != "failed" else None
    return plots.Trial(trial.number, value, _STATES[trial.state], _values(trial))


def _slice(found: Search, place: int, objective: int, winner: int | None) -> Slice:
    one = found.dimensions[place]
    dots = [
        Dot(t.values[one.name], t.figures[objective], t.number == winner, f"trial {t.number}")
        for t in found.trials
        if t.figures is not None
    ]
    return Slice(one.name, tuple(dots), one.log, one.choices)


def _spots(found: Search) -> list[Spot]:
    winner = found.winner.trial
    spots = [
        Spot(f"trial {t.number}", t.figures[0], t.figures[1], "chosen" if t.number == winner else "trial", _values(t))
        for t in found.trials
        if t.figures is not None
    ]
    for row in found.rows:
        x, y, *_ = row.figures[found.role]
        if row.kind not in ("search", "front") and x is not None and y is not None:
            spots.append(Spot(row.name, x, y, "model"))
    return spots


def _trials(found: Search) -> Iterator[str]:
    """All trials, folded away."""
    for title, trials in (("search", found.trials), ("random search", found.random), ("one number", found.shared)):
        if trials:
            yield f"<details><summary>trials: {title}</summary>"
            yield grid(["trial", "result", "seconds", "values"], [_row(trial) for trial in trials])
            yield "</details>"


def _row(trial: Trial) -> list[str]:
    return [str(trial.number), escaped(trial_told(trial)), number(trial.outcome.seconds), escaped(_values(trial))]


def _values(trial: Trial) -> str:
    return ", ".join(f"{n}: {value_told(v, 4)}" for n, v in trial.values.items())
