"""Curves over a number, and figures against each other in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stockpot.evaluate.page import escaped
from stockpot.evaluate.table import number, shown
from stockpot.search.plots.frame import COLOURS, Frame, Label, Scale, apart, placed

__all__ = ["Curve", "curves", "scatter"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 700, 320, 64, 180, 14, 44
_FLOOR, _END = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT


@dataclass(frozen=True)
class Curve:
    """One line of a plot.

    Args:
        name: As its label has it.
        points: (number, figure, low, high), by number; those that failed are absent.
        dashed: Whether it is there to compare the one before it with; it has that one's colour.
    """

    name: str
    points: tuple[tuple[float, float, float, float], ...]
    dashed: bool = False


def curves(given: Sequence[Curve], across: str, up: str, marked: float | None = None) -> str:
    """Lines with their intervals; empty when nothing was measured.

    Args:
        across, up: What the axes are.
        marked: The number that was chosen, if one was.
    """
    lines = [curve for curve in given if curve.points]
    if not lines:
        return ""
    x = Scale.of([p[0] for c in lines for p in c.points], _LEFT, _END)
    y = Scale.of([v for c in lines for p in c.points for v in p[1:]], _FLOOR, _TOP)
    parts = [*Frame(x, y, across, up, (_WIDTH, _HEIGHT)).opened()]
    if marked is not None:
        at = x(marked)
        parts.append(f'<line x1="{at}" y1="{_TOP}" x2="{at}" y2="{_FLOOR}" class="chosen"/>')
    colours = [*_colours(lines)]
    parts += [part for curve, colour in zip(lines, colours, strict=True) for part in _line(curve, x, y, colour)]
    return "".join([*parts, *_labels(lines, colours, y), "</svg>"])


def _colours(lines: Sequence[Curve]) -> Iterator[str]:
    count = -1
    for curve in lines:
        count += not curve.dashed or count < 0
        yield COLOURS[count % len(COLOURS)]


def _line(curve: Curve, x: Scale, y: Scale, colour: str) -> Iterator[str]:
    path = " ".join(f"{x(at)},{y(value)}" for at, value, _, _ in curve.points)
    band = [f"{x(at)},{y(high)}" for at, _, _, high in curve.points]
    band += [f"{x(at)},{y(low)}" for at, _, low, _ in reversed(curve.points)]
    dashes = ' stroke-dasharray="5 4"' if curve.dashed else ""
    yield f'<polygon points="{" ".join(band)}" style="fill: {colour}" fill-opacity="0.12"/>'
    yield f'<polyline points="{path}" fill="none" style="stroke: {colour}" stroke-width="2"{dashes}/>'
    for at, value, _, _ in curve.points:
        told = f"{escaped(curve.name)} at {number(at)}: {number(value)}"
        yield f'<circle cx="{x(at)}" cy="{y(value)}" r="3" style="fill: {colour}"><title>{told}</title></circle>'


def _labels(lines: Sequence[Curve], colours: Sequence[str], y: Scale) -> Iterator[str]:
    """Names beside the ends of their lines, moved apart where they would overlap."""
    places = apart([y(curve.points[-1][1]) for curve in lines], _TOP, _HEIGHT - 8)
    for curve, colour, place in zip(lines, colours, places, strict=True):
        name = escaped(shown(curve.name)[-24:])
        yield f'<text x="{_END + 8}" y="{round(place + 4, 1)}" style="fill: {colour}">{name}</text>'


def scatter(points: Sequence[tuple[str, float, float]], across: str, up: str, marked: str | None = None) -> str:
    """Points (name, x, y) in order, joined by a line, some of them named; empty when there are none.

    Args:
        marked: Name of the point that was chosen, if one was.
    """
    if not points:
        return ""
    x = Scale.of([p[1] for p in points], _LEFT, _END)
    y = Scale.of([p[2] for p in points], _FLOOR, _TOP)
    frame = Frame(x, y, across, up, (_WIDTH, _HEIGHT))
    path = " ".join(f"{x(px)},{y(py)}" for _, px, py in points)
    parts = [*frame.opened(), f'<polyline points="{path}" fill="none" class="axis"/>']
    for name, px, py in points:
        size = 6 if name == marked else 4
        told = f"{escaped(name)}: {number(px)}, {number(py)}"
        parts.append(f'<circle class="dot" cx="{x(px)}" cy="{y(py)}" r="{size}"><title>{told}</title></circle>')
    wanted = {points[0][0], points[-1][0], marked}
    named = [Label(name, x(px), y(py)) for name, px, py in points if name in wanted]
    parts += placed(named, frame.whole, [(x(px), y(py)) for _, px, py in points])
    return "".join([*parts, "</svg>"])
