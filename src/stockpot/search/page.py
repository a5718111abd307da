"""Soups and sweeps as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Iterator

from stockpot.evaluate.page import body, document, escaped, folded, grid, sources
from stockpot.evaluate.table import ARROWS
from stockpot.search.mixing.page import mixture_parts
from stockpot.search.objective import Objective
from stockpot.search.plots import Curve, curves, scatter
from stockpot.search.soups import KINDS, Soup
from stockpot.search.sweeps import SWEEPS, Sweep
from stockpot.search.told import step_told, sweep_told

__all__ = ["soup_page", "sweep_page"]


def soup_page(found: Soup, suite_text: str = "") -> str:
    """The whole file: how the soup came about, tables on report and select data, recipes."""
    lines = [
        f"<h1>{escaped(found.name)}</h1>",
        f"<p>{len(found.members)} of {len(found.models)} models: {escaped(KINDS[found.kind])}.</p>",
        *_steps(found),
        *([] if found.mixture is None else mixture_parts(found.mixture, found.objective)),
        *([] if found.report is None else body(found.report)),
        *body(found.select),
        *sources(found.select),
        *_suite(suite_text),
    ]
    return document(found.name, lines)


def sweep_page(found: Sweep, suite_text: str = "") -> str:
    """The whole file: curves, the scatter, what was chosen, tables, recipes."""
    title = f"{found.kind}: {', '.join(found.models)}"
    lines = [
        f"<h1>{escaped(title)}</h1>",
        f"<p class=dim>{escaped(SWEEPS[found.kind].about)}</p>",
        *_plots(found),
        f"<pre>{escaped(chr(10).join(sweep_told(found)).strip())}</pre>",
        *([] if found.report is None else body(found.report)),
        *body(found.curve),
        *sources(found.curve),
        *_suite(suite_text),
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
    """A plot for each ranking metric with the tasks that have it, and the scatter."""
    by_metric: dict[str, list[Curve]] = {}
    for task in found.curve.tasks:
        cells = [found.curve.cell(name, task) for name in found.names]
        ranking = next((cell.figures[0] for cell in cells if cell.figures), None)
        if ranking is not None:
            told = [(v, c.figures[0]) for v, c in zip(found.values, cells, strict=True) if c.figures]
            points = tuple((v, f.value, f.low, f.high) for v, f in told)
            by_metric.setdefault(f"{ranking.metric} {ARROWS[ranking.better]}", []).append(Curve(task, points))
    yield "<style>svg .chosen { stroke: var(--bad); stroke-dasharray: 4 4; }</style>"
    for metric, lines in by_metric.items():
        yield f"<h2>{escaped(metric)} over {found.parameter}</h2>"
        yield curves(lines, found.parameter, metric, found.chosen)
    if found.axes is not None:
        target, shifted = found.axes
        across, up = (f"{axis} {ARROWS[axis.better]}" for axis in found.axes)
        yield "<h2>Target against shifted data</h2>"
        yield scatter(_pairs(found, target, shifted), across, up, _chosen(found))


def _pairs(found: Sweep, target: Objective, shifted: Objective) -> list[tuple[str, float, float]]:
    pairs = [(name, target.value(found.curve, name), shifted.value(found.curve, name)) for name in found.names]
    return [(name, x, y) for name, x, y in pairs if x is not None and y is not None]


def _chosen(found: Sweep) -> str | None:
    return None if found.chosen is None else found.names[found.values.index(found.chosen)]


def _suite(text: str) -> list[str]:
    return [folded("the suite", text)] if text else []
