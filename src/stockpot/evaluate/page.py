"""The results as one HTML file that needs no network: tables, intervals as pictures, recipes."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence

from stockpot.evaluate.background import Background
from stockpot.evaluate.figures import BINS
from stockpot.evaluate.results import Cell, Figure, Result
from stockpot.evaluate.table import ARROWS, counted, interval, number, percent, shown
from stockpot.evaluate.why import CELLS, Triple
from stockpot.printable import printable, redacted
from stockpot.provenance.draw import text_tree

__all__ = ["about", "body", "document", "escaped", "folded", "grid", "page", "sources", "ticks"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #67707c; --line: #d5dae1; --paper: #fff; --mark: #0b62c4;
  --bad: #b3261e; --c0: #0b62c4; --c1: #c4540b; --c2: #1d8a4a; --c3: #8a3ab9; --c4: #b3261e; --c5: #5b6770;
  --c6: #0e8a94; --c7: #a0780c; }
@media (prefers-color-scheme: dark) { :root { --c0: #6cb0ff; --c1: #ff9d5c; --c2: #63d394; --c3: #cf9bf2; --c4: #ff8a80;
  --c5: #a9b4c0; --c6: #5bd0da; --c7: #e2bd5a; --ink: #e6e9ee; --dim: #9aa4b2; --line: #3a424d; --paper: #14181d;
  --mark: #6cb0ff; --bad: #ff8a80; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; }
* + h1 { margin-top: 3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; } .dim { color: var(--dim); }
.bad { color: var(--bad); } .scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; } td code { white-space: pre-wrap; overflow-wrap: anywhere; } td small { color: var(--dim); }
svg { display: block; width: 100%; max-width: 46rem; height: auto; }
svg text { fill: var(--ink); font: 12px system-ui; }
svg .axis { stroke: var(--line); } svg .bar { stroke: var(--mark); stroke-width: 2; } svg .dot { fill: var(--mark); }
svg .dim { fill: var(--dim); } svg .chosen { stroke: var(--bad); stroke-dasharray: 4 4; }
svg .lead { stroke: var(--dim); stroke-width: 0.75; } svg .level { stroke: var(--c1); stroke-dasharray: 6 4; }
svg .trial { fill: var(--c5); fill-opacity: 0.6; } svg .stopped { fill: var(--paper); stroke: var(--c5); }
svg .lost, svg .edge { fill: none; stroke: var(--bad); stroke-width: 1.5; } svg .edge { stroke: var(--c5); }
svg .front { fill: none; stroke: var(--mark); stroke-width: 2; } svg .model { fill: var(--c1); }
svg .poor { fill: var(--paper); stroke: var(--c1); stroke-width: 1.5; }
svg .asked { fill: var(--c2); fill-opacity: 0.16; } svg .missed { stroke: var(--bad); }
svg .ring { fill: none; stroke: var(--mark); stroke-width: 1.5; }
svg .heat { fill: var(--c0); } svg .below { fill: var(--c1); } svg .absent { fill: none; stroke: var(--line); }
svg .shade { stroke: var(--line); } svg .on { fill: var(--paper); }
pre { background: color-mix(in srgb, var(--line) 35%, transparent); padding: .8rem; overflow-x: auto; }
"""

_LEFT, _WIDTH, _ROW, _TOP = 210, 700, 26, 12
_LETTERS = 30
"""Of names beside intervals: as many as there is room for."""


def page(result: Result, run: Background | None = None) -> str:
    """The whole file. What strangers wrote (names, recipes, messages) is shown, never taken for HTML."""
    lines = [*body(result), *sources(result), *about(run)]
    return document(f"{result.suite}: {result.split}", lines)


def document(title: str, lines: Sequence[str]) -> str:
    """A whole file of ``lines`` that are HTML already."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escaped(title)}</title>",
            f"<style>{_STYLE}</style></head><body>",
            *lines,
            "</body></html>",
            "",
        ]
    )


def body(result: Result) -> Iterator[str]:
    """The tables of one evaluation, under a heading."""
    yield f"<h1>{escaped(result.suite)} <span class=dim>· {escaped(result.split)} data</span></h1>"
    yield _about(result)
    yield from _summary(result)
    for task in result.tasks:
        yield from _task(result, task)
    yield from _why(result.triples)


def escaped(words: str) -> str:
    """Words of strangers as HTML that shows them."""
    return html.escape(printable(redacted(words)))


def _about(result: Result) -> str:
    skipped = ""
    if result.skipped:
        skipped = f" Without {result.split} data, not measured: {', '.join(map(escaped, result.skipped))}."
    return (
        f"<p class=dim>{counted(len(result.models), 'model')}, {counted(len(result.tasks), 'task')}. Intervals hold "
        f"{100 * result.level:g} % of {result.resamples} bootstrap draws over examples (seed {result.seed}); "
        f"differences are to {escaped(result.models[0].name)}, on the same examples.{skipped}</p>"
    )


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _summary(result: Result) -> Iterator[str]:
    kept = "the best of each task" if result.reference is None else result.reference
    yield f"<h2>Over all tasks</h2><p class=dim>kept: relative to {escaped(kept)}</p>"
    rows = []
    for row in result.models:
        ranked = [_ranked(result.cell(row.name, task)) for task in result.tasks]
        worst = "" if row.worst is None else f"{percent(row.worst[1])} <small>{escaped(row.worst[0])}</small>"
        rows.append([escaped(row.name), *ranked, percent(row.retention), worst])
    yield grid(["model", *map(escaped, result.tasks), "kept, mean", "worst kept"], rows)


def _ranked(cell: Cell) -> str:
    if cell.figures:
        return number(cell.figures[0].value)
    return "" if cell.error is None else "<span class=bad>failed</span>"


def _task(result: Result, task: str) -> Iterator[str]:
    cells = [result.cell(row.name, task) for row in result.models]
    sound = [cell for cell in cells if cell.figures]
    mark = (result.marks or {}).get(task)
    count = f" · {counted(sound[0].examples)}" if sound else ""
    yield f"<h2>{escaped(task)}<span class=dim>{count}</span></h2>"
    if mark is not None:
        yield f"<p class=bad>* {escaped(mark)}</p>"
    for cell in cells:
        if cell.error is not None:
            yield f"<p class=bad>{escaped(cell.model)} failed: {escaped(cell.error)}</p>"
    if not sound:
        return
    yield _plot(sound)
    whole = sound[0].of().figures
    heads = [f"{escaped(f.metric)} {ARROWS[f.better]}" for f in whole]
    metrics = [f.metric for f in whole]
    rows = [[escaped(c.model), *_cells(c.of(), metrics, mark is not None)] for c in sound]
    yield grid(["model", heads[0], "difference", "kept", *heads[1:]], rows)
    if sound[0].parts:
        rows = [
            [escaped(part), escaped(c.model), *_cells(c.of(part), metrics, mark is not None)]
            for part in sound[0].parts
            for c in sound
        ]
        yield grid(["part", "model", heads[0], "difference", "kept", *heads[1:]], rows)


def _cells(cell: Cell, metrics: Sequence[str], marked: bool) -> list[str]:
    figures = {figure.metric: figure for figure in cell.figures}
    first, *others = [figures.get(metric) for metric in metrics]
    return [
        ("*" if marked and first else "") + _figure(first),
        _difference(first),
        percent(first.retention if first else None),
        *map(_figure, others),
    ]


def _figure(figure: Figure | None) -> str:
    return "" if figure is None else f"{number(figure.value)} <small>{interval(figure.low, figure.high)}</small>"


def _difference(figure: Figure | None) -> str:
    if figure is None or figure.difference is None or figure.difference_low is None or figure.difference_high is None:
        return ""
    return f"{figure.difference:+.3g} <small>{interval(figure.difference_low, figure.difference_high)}</small>"


def _plot(cells: Sequence[Cell]) -> str:
    """The ranking metric's intervals, one line for each model; a figure whose interval is unknown is a dot alone."""
    figures = [cell.figures[0] for cell in cells]
    low, high = min(f.drawn[0] for f in figures), max(f.drawn[1] for f in figures)
    margin = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    low, high = low - margin, high + margin

    def x(value: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - 20) * (value - low) / (high - low), 1)

    height = _TOP + _ROW * len(cells) + 28
    floor = height - 24
    name = escaped(f"{figures[0].metric}, with intervals")
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{name}">']
    parts.append(f'<line class="axis" x1="{_LEFT}" y1="{floor}" x2="{_WIDTH - 20}" y2="{floor}"/>')
    for value in ticks(low, high):
        parts.append(f'<line class="axis" x1="{x(value)}" y1="{_TOP}" x2="{x(value)}" y2="{floor}"/>')
        parts.append(f'<text class="dim" x="{x(value)}" y="{floor + 16}" text-anchor="middle">{number(value)}</text>')
    for i, (cell, figure) in enumerate(zip(cells, figures, strict=True)):
        y = _TOP + _ROW * (i + 0.5)
        label = escaped(_end(shown(cell.model)))
        parts.append(f'<text x="{_LEFT - 10}" y="{y + 4}" text-anchor="end">{label}</text>')
        start, end = map(x, figure.drawn)
        if end > start:
            parts.append(f'<line class="bar" x1="{start}" y1="{y}" x2="{end}" y2="{y}"/>')
        parts.append(f'<circle class="dot" cx="{x(figure.value)}" cy="{y}" r="4"/>')
    return "".join([*parts, "</svg>"])


def _end(words: str) -> str:
    """The last :data:`_LETTERS` of ``words``, which tell paths apart; what is cut off is an ellipsis."""
    return words if len(words) <= _LETTERS else f"…{words[1 - _LETTERS :]}"


def ticks(low: float, high: float) -> list[float]:
    """Round numbers in [low, high], three to eight of them."""
    rough = (high - low) / 6
    scale = 10.0 ** math.floor(math.log10(rough))
    step = scale * min((1, 2, 5, 10), key=lambda times: abs(math.log(times * scale / rough)))
    first, last = math.ceil(low / step), math.floor(high / step)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def _why(triples: Sequence[Triple]) -> Iterator[str]:
    if not triples:
        return
    yield "<h2>Why did it help?</h2><p class=dim>"
    yield "Examples that base, fine-tuned and merged model get right (T) or wrong (F). "
    yield "FFT: only the merged model is right; TTF: only it is wrong.</p>"
    rows = [
        [
            *map(escaped, (t.task, *t.models)),
            *(str(t.cells[cell]) for cell in CELLS),
            *map(percent, (t.only_merged_right, t.only_merged_wrong)),
        ]
        for t in triples
    ]
    yield grid(["task", "base", "fine-tuned", "merged", *CELLS, "FFT, share", "TTF, share"], rows)
    pairs = [
        [escaped(t.task), *map(escaped, p.models), percent(p.agreement), percent(p.error_overlap)]
        for t in triples
        for p in t.pairs
    ]
    yield grid(["task", "model", "and", "same prediction", "errors in common"], _once(pairs))
    errors = [[escaped(t.task), escaped(name), f"{e:.4f}"] for t in triples for name, e in t.calibration.items()]
    if errors:
        yield grid(["task", "model", f"calibration error (ECE, {BINS} bins of equal width)"], _once(errors))


def _once(rows: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Each row once: base and merged model are the same beside every fine-tuned one."""
    return list(dict.fromkeys(map(tuple, rows)))


def sources(result: Result) -> Iterator[str]:
    """The models, their hashes and recipes."""
    yield "<h2>What was evaluated</h2>"
    rows = [[escaped(m.name), escaped(m.reference), f"<code>{escaped(m.hash)}</code>"] for m in result.models]
    yield grid(["model", "as written", "hash of what it is computed from"], rows)
    for model in result.models:
        if model.recipe:
            yield folded(f"recipe of {model.name}", model.recipe)


def about(run: Background | None) -> Iterator[str]:
    """What models were made of, and how the run came about; nothing where nothing is known."""
    if run is None:
        return
    for name, tree in run.lineage.items():
        yield folded(f"lineage of {name}", text_tree(tree))
    if run.suite:
        yield folded("the suite", run.suite)
    told = {"command": run.command, "date": run.when, "seed": "" if run.seed is None else str(run.seed)}
    told |= {"versions": ", ".join(f"{name} {number}" for name, number in run.versions.items())}
    rows = [[name, f"<code>{escaped(words)}</code>"] for name, words in told.items() if words]
    if rows:
        yield "<h2>The run</h2>"
        yield grid(["", ""], rows)


def folded(title: str, text: str) -> str:
    """``text`` as it is, shown when its title is clicked."""
    return f"<details><summary>{escaped(title)}</summary><pre>{escaped(text)}</pre></details>"
