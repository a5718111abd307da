"""Soups and sweeps as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stockpot.evaluate.background import Background, lineage_of, lineages
from stockpot.evaluate.candidates import Candidate, named
from stockpot.evaluate.page import about, body, document, escaped, grid, sources
from stockpot.evaluate.results import Cell, Figure
from stockpot.provenance.ancestry import Ancestor, bounded
from stockpot.search.mixing.page import mixture_parts
from stockpot.search.objective import Objective
from stockpot.search.plots import Axis, Curve, curves, scatter
from stockpot.search.soups import KINDS, Soup
from stockpot.search.sweeps import SWEEPS, Normalised, Sweep
from stockpot.search.told import step_told, sweep_told

__all__ = ["soup_lineage", "soup_page", "sweep_lineage", "sweep_page"]


def soup_page(found: Soup, run: Background | None = None) -> str:
    """The whole file: how the soup came about, tables on report and select data, recipes."""
    lines = [
        f"<h1>{escaped(found.name)}</h1>",
        f"<p>{len(found.members)} of {len(found.models)} models: {escaped(KINDS[found.kind])}.</p>",
        *_steps(found),
        *([] if found.mixture is None else mixture_parts(found.mixture, found.objective)),
        *([] if found.report is None else body(found.report)),
        *body(found.select),
        *sources(found.select),
        *about(run),
    ]
    return document(found.name, lines)


def sweep_page(found: Sweep, run: Background | None = None) -> str:
    """The whole file: curves, the scatter, what was chosen, tables, recipes."""
    title = f"{found.kind}: {', '.join(found.models)}"
    lines = [
        f"<h1>{escaped(title)}</h1>",
        f"<p class=dim>{escaped(SWEEPS[found.kind].about)}</p>",
        *_plots(found),
        f"<pre>{escaped(chr(10).join(sweep_told(found)).strip())}</pre>",
        *([] if found.report is None else body(found.report)),
        *body(found.curve),
        *([] if found.tunes is None else body(found.tunes)),
        *([] if found.random is None else body(found.random)),
        *sources(found.curve),
        *about(run),
    ]
    return document(title, lines)


def _steps(found: Soup) -> Iterator[str]:
    if not found.steps:
        return
    rule = "better" if found.strict else "no worse"
    yield f"<p class=dim>A model is kept if the average with it is {rule}, by {escaped(str(found.objective))}.</p>"
    rows = [
        [escaped(step.name), escaped(step_told(found, i)), "kept" if step.kept else ""]
        for i, step in enumerate(found.steps)
    ]
    yield grid(["model", "average", ""], rows)


def _plots(found: Sweep) -> Iterator[str]:
    """The normalised mean, a plot for each metric that ranks or chooses with its tasks, and the scatter."""
    by_metric: dict[Axis, list[Curve]] = {}
    if isinstance(found.objective, Normalised):
        by_metric[Axis(str(found.objective), "higher")] = [*_means(found, found.objective)]
    for task, figure in _drawn(found):
        own = [(v, found.curve.cell(name, task)) for v, name in zip(found.values, found.names, strict=True)]
        lines = by_metric.setdefault(Axis(figure.metric, figure.better), [])
        lines.append(Curve(task, _told(own, figure.metric)))
        if found.random is not None:
            lines.append(Curve(f"{task}, random", _told(_chance(found, task), figure.metric), dashed=True))
    for axis, lines in by_metric.items():
        yield f"<h2>{escaped(axis.name)} over {found.parameter}</h2>"
        yield curves(lines, found.parameter, str(axis), found.chosen)
    if found.axes is not None:
        target, shifted = found.axes
        across, up = (str(Axis(str(axis), axis.better)) for axis in found.axes)
        yield "<h2>Target against shifted data</h2>"
        yield scatter(_pairs(found, target, shifted), across, up, found.chosen_name)


def _drawn(found: Sweep) -> Iterator[tuple[str, Figure]]:
    """(task, figure) of the metrics that rank, choose or are to be kept, in the order of tasks and metrics."""
    wanted = set(found.objective.parts) | set(() if found.control is None else found.control[0].parts)
    for task in found.curve.tasks:
        cells = [found.curve.cell(name, task) for name in found.names]
        figures = next((cell.figures for cell in cells if cell.figures), ())
        yield from ((task, f) for i, f in enumerate(figures) if i == 0 or (task, f.metric) in wanted)


def _told(cells: Sequence[tuple[float, Cell]], metric: str) -> tuple[tuple[float, float, float, float], ...]:
    """The points of a curve, of the cells that have figures."""
    figures = [(value, f) for value, cell in cells for f in cell.figures if f.metric == metric]
    return tuple((value, f.value, *f.drawn) for value, f in figures)


def _chance(found: Sweep, task: str) -> list[tuple[float, Cell]]:
    """The cells along the random vector; at 0 it begins as the other does."""
    assert found.random is not None
    rows = {cell.model: cell for cell in found.random.cells if cell.task == task}
    names = {value: found.random_name(value) for value in found.values}
    return [(value, rows[name]) for value, name in names.items() if name in rows]


def _means(found: Sweep, aim: Normalised) -> Iterator[Curve]:
    given = [("task vectors", {v: aim.value(found.curve, n) for v, n in zip(found.values, found.names, strict=True)})]
    if found.random is not None:
        given.append(("random", {value: found.random_value(value) for value in found.values}))
    for name, values in given:
        points = tuple((at, value, value, value) for at, value in values.items() if value is not None)
        yield Curve(name, points, dashed=name == "random")


def _pairs(found: Sweep, target: Objective, shifted: Objective) -> list[tuple[str, float, float]]:
    pairs = [(name, target.value(found.curve, name), shifted.value(found.curve, name)) for name in found.names]
    return [(name, x, y) for name, x, y in pairs if x is not None and y is not None]


def soup_lineage(found: Soup, models: Sequence[Candidate]) -> dict[str, Ancestor]:
    """Name → what it was made of: the models, and the soup of them."""
    return lineages([*named(models), Candidate(found.name, found.recipe)])


def sweep_lineage(found: Sweep, models: Sequence[Candidate]) -> dict[str, Ancestor]:
    """Name → what it was made of: the models, and the chosen point; any point where none was chosen."""
    parents = tuple(lineage_of(one) or Ancestor(one.name) for one in named(models))
    name = found.chosen_name or f"any {found.parameter}"
    point = Ancestor(name, tool="stockpot", methods=(SWEEPS[found.kind].method,), parents=parents)
    return {tree.label: tree for tree in (*parents, bounded(point)) if tree.tool is not None}
