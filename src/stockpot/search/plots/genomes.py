"""Numbers by model and tensor, as squares of more or less colour."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from stockpot.evaluate.page import escaped
from stockpot.evaluate.table import number
from stockpot.search.plots.frame import width_of

__all__ = ["genome"]

_WIDTH, _LEFT, _RIGHT, _ROW = 700, 150, 12, 20
_WIDEST, _NARROWEST = 36.0, 3.0
_DARK = 0.65
"""From this much colour on, numbers are written in the colour of the paper."""


def genome(
    rows: Sequence[str],
    columns: Sequence[tuple[str, str]],
    values: Sequence[Sequence[float | None]],
    about: str,
) -> str:
    """A square for each number; more colour is a larger one, another colour is below 0. Empty without numbers.

    >>> genome(["a"], [], [[]], "weight")
    ''

    Args:
        rows: What each row is, such as a model.
        columns: (group, name) of each column, such as ("self_attn", "layer 3"); those of a group follow each other.
        values: [row][column]; None where there is none.
        about: What the numbers are.
    """
    known = [v for row in values for v in row if v is not None and math.isfinite(v)]
    if not known:
        return ""
    most = max(abs(v) for v in known) or 1.0
    blocks = [[i for i, _ in own] for _, own in groupby(enumerate(columns), key=lambda item: item[1][0])]
    cell = max(_NARROWEST, min(_WIDEST, (_WIDTH - _LEFT - _RIGHT) / max(map(len, blocks))))
    most_in_line = int((_WIDTH - _LEFT - _RIGHT) / cell)
    blocks = [block[i : i + most_in_line] for block in blocks for i in range(0, len(block), most_in_line)]
    parts: list[str] = []
    top = 8.0
    for line in _lines(blocks, columns, cell):
        parts += _rows_of(rows, top)
        for block, left in line:
            parts += _block(rows, columns, values, block, (left, top, cell, most))
        top += 20 + _ROW * len(rows) + 26
    parts += _key(known, most, top, about)
    told = escaped(f"{about}: {len(rows)} rows, {len(columns)} columns")
    return "".join([f'<svg viewBox="0 0 {_WIDTH} {round(top + 26)}" role="img" aria-label="{told}">', *parts, "</svg>"])


def _lines(
    blocks: Sequence[Sequence[int]], columns: Sequence[tuple[str, str]], cell: float
) -> Iterator[list[tuple[Sequence[int], float]]]:
    """Blocks and where they begin, as many in a line as fit with their names."""
    line: list[tuple[Sequence[int], float]] = []
    left = float(_LEFT)
    for block in blocks:
        wide = max(len(block) * cell, width_of(_cut(columns[block[0]][0])))
        if line and left + wide > _WIDTH - _RIGHT:
            yield line
            line, left = [], float(_LEFT)
        line.append((block, left))
        left += wide + 12
    yield line


def _rows_of(rows: Sequence[str], top: float) -> Iterator[str]:
    for i, name in enumerate(rows):
        y = round(top + 20 + _ROW * (i + 0.5) + 4, 1)
        words = name if width_of(name) <= _LEFT - 14 else "…" + name[-18:]
        yield (f'<text x="{_LEFT - 8}" y="{y}" text-anchor="end">{escaped(words)}<title>{escaped(name)}</title></text>')


def _block(
    rows: Sequence[str],
    columns: Sequence[tuple[str, str]],
    values: Sequence[Sequence[float | None]],
    block: Sequence[int],
    place: tuple[float, float, float, float],
) -> Iterator[str]:
    left, top, cell, most = place
    yield f'<text class="dim" x="{round(left, 1)}" y="{top + 13}">{escaped(_cut(columns[block[0]][0]))}</text>'
    for j, column in enumerate(block):
        x = left + j * cell
        for i, row in enumerate(rows):
            at = (x, top + 20 + i * _ROW, cell)
            yield _square(values[i][column], most, at, f"{row}, {' '.join(filter(None, columns[column]))}")
    yield from _names([columns[i][1] for i in block], (left, top + 20 + len(rows) * _ROW + 13, cell))


def _square(value: float | None, most: float, at: tuple[float, float, float], told: str) -> str:
    x, y, wide = round(at[0], 2), at[1], round(at[2] - (1 if at[2] > 6 else 0), 2)
    high = _ROW - 1
    if value is None or not math.isfinite(value):
        why = "none" if value is None else str(value)
        return (
            f'<rect class="absent" x="{x}" y="{y}" width="{wide}" height="{high}">'
            f"<title>{escaped(f'{told}: {why}')}</title></rect>"
        )
    share = round(abs(value) / most, 3)
    sign = "below" if value < 0 else "heat"
    found = (
        f'<rect class="{sign}" x="{x}" y="{y}" width="{wide}" height="{high}" fill-opacity="{share}">'
        f"<title>{escaped(f'{told}: {number(value)}')}</title></rect>"
    )
    words = f"{value:.2f}" if most >= 0.1 else f"{value:.1g}"
    if width_of(words) + 2 <= wide:
        look = "on" if share > _DARK else "off"
        middle = round(x + wide / 2, 1)
        found += f'<text class="{look}" x="{middle}" y="{y + 14}" text-anchor="middle">{escaped(words)}</text>'
    return found


def _names(names: Sequence[str], place: tuple[float, float, float]) -> Iterator[str]:
    """Names under the squares, as many as do not touch, within the block."""
    left, y, cell = place
    room = len(names) * cell
    wide = max(map(width_of, names))
    if not wide or wide > room:
        return
    every = max(1, math.ceil((wide + 6) / cell))
    every = every if every == 1 else math.ceil((1.5 * wide + 6) / cell)  # the ends move inwards
    for j in range(0, len(names), every):
        x = left + (j + 0.5) * cell
        half = width_of(names[j]) / 2
        x = min(max(x, left + half), left + room - half) if every > 1 else x
        yield f'<text class="dim" x="{round(x, 1)}" y="{round(y, 1)}" text-anchor="middle">{escaped(names[j])}</text>'


def _key(known: Sequence[float], most: float, y: float, about: str) -> Iterator[str]:
    """What the colours mean."""
    low = -most if min(known) < 0 else 0.0
    yield f'<text class="dim" x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{escaped(_cut(about))}</text>'
    shades = [low + (most - low) * i / 6 for i in range(7)]
    first, last = number(low), number(most)
    x = _LEFT + width_of(first) + 6
    yield f'<text class="dim" x="{_LEFT}" y="{y + 13}">{first}</text>'
    for i, value in enumerate(shades):
        sign = "below" if value < 0 else "heat"
        yield (
            f'<rect class="{sign} shade" x="{round(x + 18 * i, 1)}" y="{y + 2}" width="18" height="14" '
            f'fill-opacity="{round(abs(value) / most, 3)}"/>'
        )
    yield f'<text class="dim" x="{round(x + 18 * 7 + 6, 1)}" y="{y + 13}">{last}</text>'


def _cut(words: str) -> str:
    return words if len(words) <= 40 else f"…{words[-39:]}"
