"""The results as lines of text: a block for each task, then how much each model keeps over all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stockpot.evaluate.figures import BINS
from stockpot.evaluate.results import Cell, Figure, Result
from stockpot.evaluate.why import CELLS, Triple

__all__ = ["ARROWS", "counted", "interval", "number", "percent", "shown", "table", "why_told"]

ARROWS = {"higher": "↑", "lower": "↓"}
_WIDE = 40


def table(result: Result) -> Iterator[str]:
    """The lines, names not yet made safe to print."""
    for task in result.tasks:
        yield from _block(result, task)
        yield ""
    if len(result.tasks) > 1 and len(result.models) > 1:
        yield from _summary(result)
        yield ""
    if result.skipped:
        yield f"without {result.split} data, not measured: {', '.join(result.skipped)}"
    yield (
        f"[…]: {100 * result.level:g} % intervals over examples ({result.resamples} draws, seed {result.seed}); "
        "↑ higher is better, ↓ lower"
    )


def _block(result: Result, task: str) -> Iterator[str]:
    cells = [result.cell(row.name, task) for row in result.models]
    sound = [cell for cell in cells if cell.figures]
    count = f", {counted(sound[0].examples)}" if sound else ""
    mark = (result.marks or {}).get(task)
    yield f"{task} ({result.split}{count})" + ("" if mark is None else f"  * {mark}")
    if sound:
        yield from _aligned(_head(result, sound[0].of()), [*_rows(result, sound, mark is not None)])
    for cell in cells:
        if cell.error is not None:
            yield f"  {shown(cell.model)}: FAILED: {cell.error}"


def _head(result: Result, cell: Cell) -> list[str]:
    first, *others = [f"{f.metric} {ARROWS[f.better]}" for f in cell.figures]
    compared = [f"- {shown(result.models[0].name)}", "kept"] if len(result.models) > 1 else []
    return ["  model", first, *compared, *others]


def _rows(result: Result, cells: Sequence[Cell], marked: bool) -> Iterator[list[str]]:
    """A row for each model; then, under the name of each part of the task, a row for each model on that part."""
    metrics = [figure.metric for figure in cells[0].of().figures]
    several = len(result.models) > 1
    width = len(metrics) + 1 + (2 if several else 0)
    for cell in cells:
        yield _row(f"  {shown(cell.model)}", cell.of(), metrics, several, marked)
    for part in cells[0].parts:
        if several:
            yield [f"  {shown(part)}", *[""] * (width - 1)]
        for cell in cells:
            name = f"    {shown(cell.model)}" if several else f"    {shown(part)}"
            yield _row(name, cell.of(part), metrics, several, marked)


def _row(name: str, cell: Cell, metrics: Sequence[str], several: bool, marked: bool) -> list[str]:
    figures = {figure.metric: figure for figure in cell.figures}
    first, *others = [figures.get(metric) for metric in metrics]
    compared = [_difference(first), percent(first.retention if first else None)] if several else []
    star = "*" if marked and first else ""
    return [name, star + _figure(first), *compared, *map(_figure, others)]


def _summary(result: Result) -> Iterator[str]:
    kept = "the best of each task" if result.reference is None else result.reference
    yield f"over all tasks, relative to {kept}"
    rows = []
    for row in result.models:
        worst = ["", ""] if row.worst is None else [percent(row.worst[1]), row.worst[0]]
        rows.append([f"  {shown(row.name)}", percent(row.retention), *worst])
    yield from _aligned(["  model", "kept, mean", "worst", "on"], rows)


def why_told(triples: Sequence[Triple]) -> Iterator[str]:
    """The comparisons of base, fine-tuned and merged model."""
    for triple in triples:
        base, tuned, merged = map(shown, triple.models)
        yield f"{triple.task}: base {base}, fine-tuned {tuned}, merged {merged}; {triple.examples} examples"
        yield "  right (T) or wrong (F): " + ", ".join(f"{cell} {triple.cells[cell]}" for cell in CELLS)
        yield (
            f"  only the merged model right (FFT) {percent(triple.only_merged_right)}, "
            f"only it wrong (TTF) {percent(triple.only_merged_wrong)}"
        )
        for pair in triple.pairs:
            overlap = "" if pair.error_overlap is None else f", errors in common {percent(pair.error_overlap)}"
            yield f"  {shown(pair.models[0])} and {shown(pair.models[1])}: agree {percent(pair.agreement)}{overlap}"
        if triple.calibration:
            told = ", ".join(f"{shown(name)} {error:.4f}" for name, error in triple.calibration.items())
            yield f"  calibration error (ECE, {BINS} bins of equal width): {told}"
        yield ""


def shown(name: str) -> str:
    """A name that fits a column, its end kept."""
    return name if len(name) <= _WIDE else f"…{name[-_WIDE + 1 :]}"


def number(value: float) -> str:
    """Four significant digits, at most.

    >>> number(0.93333), number(12345.6), number(0.0)
    ('0.9333', '12346', '0')
    """
    return f"{value:.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def counted(count: int, of: str = "example") -> str:
    """How many, in words.

    >>> counted(1), counted(2, "task")
    ('1 example', '2 tasks')
    """
    return f"{count} {of}" + "s" * (count != 1)


def percent(share: float | None) -> str:
    """A share for people; nothing where it is unknown."""
    return "" if share is None else f"{100 * share:.1f} %"


def interval(low: float, high: float) -> str:
    """An interval in brackets."""
    return f"[{number(low)}, {number(high)}]"


def _figure(figure: Figure | None) -> str:
    return "" if figure is None else f"{number(figure.value)} {interval(figure.low, figure.high)}"


def _difference(figure: Figure | None) -> str:
    if figure is None or figure.difference is None or figure.difference_low is None or figure.difference_high is None:
        return ""
    return f"{figure.difference:+.3g} {interval(figure.difference_low, figure.difference_high)}"


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]
