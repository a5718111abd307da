"""One figure against another for all that was tried: what nothing else beats in both is the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from stockpot.evaluate.page import escaped
from stockpot.evaluate.table import number
from stockpot.search.plots.frame import Axis, Frame, Label, Scale, key, placed

__all__ = ["Spot", "nondominated", "pareto"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 700, 400, 64, 20, 30, 44

_SIGNS = {
    "trial": ("trial", '<circle class="trial" r="3.5"/>'),
    "front": ("on the front", '<circle class="dot" r="4.5"/>'),
    "model": ("model or baseline", '<path class="model" d="M0 -6L6 0L0 6L-6 0Z"/>'),
    "chosen": ("chosen", '<g><circle class="dot" r="4.5"/><circle class="ring" r="8"/></g>'),
    "edge": ("far worse, at the edge", '<path class="edge" d="M-4 -4L4 4M-4 4L4 -4"/>'),
}
"""Kind → words of the key, sign around its origin."""
_LAYERS = ("edge", "trial", "front", "model", "chosen")
"""What is drawn over what."""


@dataclass(frozen=True)
class Spot:
    """Something that was measured by two figures.

    Args:
        name: As tables call it; different for each.
        x, y: Its figures; infinite ones are drawn at the edge, and one that is not a number leaves the spot out.
        kind: ``trial`` is a dot; ``model`` (a baseline too) and ``chosen`` have their names beside them.
        told: More about it, for the mouse.
    """

    name: str
    x: float
    y: float
    kind: Literal["trial", "model", "chosen"] = "trial"
    told: str = ""


def nondominated(spots: Sequence[Spot], axes: tuple[Axis, Axis]) -> tuple[str, ...]:
    """Names of the trials and the chosen that no other of them beats: as good in both figures and better in one.

    >>> nondominated([Spot("a", 1, 3), Spot("b", 2, 2), Spot("c", 1, 2)], (Axis("x", "higher"), Axis("y", "higher")))
    ('a', 'b')
    """
    signs = [-1 if axis.better == "lower" else 1 for axis in axes]
    worth = {s.name: (signs[0] * s.x, signs[1] * s.y) for s in spots if s.kind != "model" and _drawn(s)}
    best, found = -math.inf, set()
    ordered = sorted(worth.items(), key=lambda item: (-item[1][0], -item[1][1]))
    for i, (name, (x, y)) in enumerate(ordered):
        same = i > 0 and ordered[i - 1][1] == (x, y) and ordered[i - 1][0] in found
        if y > best or same:
            found.add(name)
            best = y
    return tuple(name for name in worth if name in found)


def pareto(spots: Sequence[Spot], axes: tuple[Axis, Axis], front: Collection[str] | None = None) -> str:
    """All trials as dots, the front as a staircase, models and what was chosen with their names; empty without spots.

    The staircase bounds what is reached: a point on its worse side is beaten by one on the front. Spots that are far
    worse than the rest stand at the edge.

    Args:
        axes: Across and up, both with a direction.
        front: Names of the spots on the front; else those that :func:`nondominated` tells.
    """
    drawn = [spot for spot in spots if _drawn(spot)]
    if not drawn:
        return ""
    on_front = frozenset(nondominated(drawn, axes) if front is None else front)
    x = Scale.of([s.x for s in drawn], _LEFT, _WIDTH - _RIGHT, better=axes[0].better)
    y = Scale.of([s.y for s in drawn], _HEIGHT - _BOTTOM, _TOP, better=axes[1].better)
    frame = Frame(x, y, str(axes[0]), str(axes[1]), (_WIDTH, _HEIGHT))
    kinds = {spot.name: _kind(spot, frame, on_front) for spot in drawn}
    line = sorted((s for s in drawn if s.name in on_front), key=lambda spot: (spot.x, spot.y))
    parts = [
        *frame.opened(f"{axes[1].name} against {axes[0].name} of {len(drawn)} models"),
        *_stairs(line, frame, axes),
    ]
    layers = sorted(drawn, key=lambda spot: _LAYERS.index(kinds[spot.name]))
    parts += [_mark(spot, kinds[spot.name], frame) for spot in layers]
    named = [Label(s.name, x(s.x), y(s.y)) for s in drawn if s.kind != "trial"]
    parts += placed(named, frame.area, [(x(s.x), y(s.y)) for s in drawn])
    used = [(sign, words) for kind, (words, sign) in _SIGNS.items() if kind in kinds.values()]
    return "".join([*parts, *key(used, _LEFT, 16), "</svg>"])


def _drawn(spot: Spot) -> bool:
    return not (math.isnan(spot.x) or math.isnan(spot.y))


def _kind(spot: Spot, frame: Frame, front: Collection[str]) -> str:
    if spot.kind != "trial":
        return spot.kind
    if spot.name in front:
        return "front"
    return "trial" if frame.x.holds(spot.x) and frame.y.holds(spot.y) else "edge"


def _mark(spot: Spot, kind: str, frame: Frame) -> str:
    figures = f"{spot.name}: {number(spot.x)}, {number(spot.y)}"
    told = escaped(f"{figures}; {spot.told}" if spot.told else figures)
    at = f"{frame.x(spot.x)} {frame.y(spot.y)}"
    return f'<g class="spot" transform="translate({at})">{_SIGNS[kind][1]}<title>{told}</title></g>'


def _stairs(line: Sequence[Spot], frame: Frame, axes: tuple[Axis, Axis]) -> Iterator[str]:
    """From spot to spot by way of the corner that both reach."""
    if len(line) < 2:
        return
    x, y = frame.x, frame.y
    path = f"M{x(line[0].x)} {y(line[0].y)}"
    for other in line[1:]:
        corner = f"V{y(other.y)}H{x(other.x)}" if axes[0].better != "lower" else f"H{x(other.x)}V{y(other.y)}"
        path += corner
    yield f'<path class="front" d="{path}"/>'
