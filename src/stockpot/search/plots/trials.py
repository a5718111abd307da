"""How a search went: the value of each trial, and against each dimension."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from stockpot.evaluate.page import escaped
from stockpot.evaluate.table import number
from stockpot.search.plots.frame import APART, Axis, Frame, Scale, apart, key, shortened, spaced, squeezed, width_of

__all__ = ["Dot", "Slice", "Trial", "history", "slices"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 700, 340, 64, 20, 30, 44
_PANEL, _TALL, _PER_LINE, _GAP = 176, 130, 3, 44
_NAMED = 235
"""Pixels for names at the right of a plot, at most."""

_SIGNS = {
    "done": ("measured", '<circle class="trial" r="3.5"/>'),
    "stopped": ("stopped early", '<circle class="stopped" r="3.5"/>'),
    "failed": ("failed", '<path class="lost" d="M-4 -4L4 4M-4 4L4 -4"/>'),
    "edge": ("beyond the edge", '<path class="edge" d="M-4 -4L4 4M-4 4L4 -4"/>'),
    "best": ("best so far", '<path class="front" d="M-7 2H0V-3H7"/>'),
}


@dataclass(frozen=True)
class Trial:
    """One trial of a search.

    Args:
        number: In the order of their start.
        value: Its figure; of one that was stopped, the last one known; None where there is none.
        state: ``done``, ``stopped`` (early, so that its value is of a part of the data) or ``failed``.
        told: More about it, for the mouse.
    """

    number: int
    value: float | None
    state: Literal["done", "stopped", "failed"] = "done"
    told: str = ""


def history(trials: Sequence[Trial], axis: Axis, levels: Sequence[tuple[str, float]] = ()) -> str:
    """The value of each trial by its number, and the best so far of those that were done; empty without trials.

    Trials without a value, and those that are far worse than the rest, stand at the worse edge.

    Args:
        axis: What the value is, with a direction.
        levels: (name, value) to compare with, drawn across.
    """
    if not trials:
        return ""
    values = [v for t in trials if (v := _value(t)) is not None]
    right = _WIDTH - min(_NAMED, max((width_of(name) + 14 for name, _ in levels), default=_RIGHT))
    x = Scale.of([float(t.number) for t in trials], _LEFT, right)
    y = Scale.of([*values, *(v for _, v in levels)], _HEIGHT - _BOTTOM, _TOP, better=axis.better)
    frame = Frame(x, y, "trial", str(axis), (_WIDTH, _HEIGHT))
    ordered = sorted(trials, key=lambda trial: trial.number)
    kinds = [_kind(trial, y) for trial in ordered]
    line = [*_best(ordered, axis, frame)]
    worst = y.end if axis.better == "lower" else y.start
    parts = [*frame.opened(f"{axis} of {len(trials)} trials"), *_levels(levels, frame), *line]
    for trial, kind in zip(ordered, kinds, strict=True):
        value = _value(trial)
        at = f"{x(trial.number)} {worst if value is None else y(value)}"
        parts.append(_dot(at, kind, _told(trial)))
    present = {*kinds, *(["best"] if line else [])}
    used = [(sign, words) for kind, (words, sign) in _SIGNS.items() if kind in present]
    return "".join([*parts, *key(used, _LEFT, 16), "</svg>"])


def _value(trial: Trial) -> float | None:
    """The value where there is one to draw."""
    return None if trial.state == "failed" or trial.value is None or math.isnan(trial.value) else trial.value


def _kind(trial: Trial, y: Scale) -> str:
    value = _value(trial)
    if trial.state != "done":
        return trial.state
    if value is None:
        return "failed"
    return "done" if y.holds(value) else "edge"


def _dot(at: str, kind: str, told: str) -> str:
    return f'<g class="spot" transform="translate({at})">{_SIGNS[kind][1]}<title>{escaped(told)}</title></g>'


def _told(trial: Trial) -> str:
    value = _value(trial)
    figure = "failed" if value is None else number(value) + (" (stopped early)" if trial.state == "stopped" else "")
    return f"trial {trial.number}: {figure}" + (f"; {trial.told}" if trial.told else "")


def _best(trials: Sequence[Trial], axis: Axis, frame: Frame) -> Iterator[str]:
    """The best of the trials up to each, as a line of steps."""
    sign = -1 if axis.better == "lower" else 1
    best: float | None = None
    path = ""
    for trial in trials:
        value = _value(trial)
        if value is None or trial.state != "done" or (best is not None and sign * value <= sign * best):
            continue
        x, y = frame.x(trial.number), frame.y(value)
        path += f"H{x}V{y}" if path else f"M{x} {y}"
        best = value
    if path:
        yield f'<path class="front" d="{path}H{frame.x(trials[-1].number)}"/>'


def _levels(levels: Sequence[tuple[str, float]], frame: Frame) -> Iterator[str]:
    area = frame.area
    places = apart([frame.y(value) for _, value in levels], area.top, area.bottom)
    for (name, value), place in zip(levels, places, strict=True):
        at = frame.y(value)
        told = escaped(f"{name}: {number(value)}")
        yield f'<line class="level" x1="{area.left}" y1="{at}" x2="{area.right}" y2="{at}"><title>{told}</title></line>'
        yield f'<line class="lead" x1="{area.right}" y1="{at}" x2="{area.right + 8}" y2="{place}"/>'
        yield f'<text x="{area.right + 11}" y="{place + 4}">{escaped(shortened(name, _WIDTH - area.right - 13))}</text>'


@dataclass(frozen=True)
class Dot:
    """A trial in a slice: where along the dimension, its value, and whether it is the one that was chosen."""

    at: float | str | bool
    value: float
    chosen: bool = False
    told: str = ""


@dataclass(frozen=True)
class Slice:
    """One dimension of a search.

    Args:
        name: Of the dimension.
        dots: Of the trials that have a value.
        log: Whether it was searched by ratio; then all places are positive.
        choices: Where it is a choice: all of them, in order; then each dot is at one of these.
    """

    name: str
    dots: tuple[Dot, ...]
    log: bool = False
    choices: tuple[float | str | bool, ...] = ()


def slices(given: Sequence[Slice], axis: Axis) -> str:
    """The value against each dimension alone, a small plot for each, all of them by one scale; empty without dots."""
    drawn = [one for one in given if one.dots]
    if not drawn:
        return ""
    values = [dot.value for one in drawn for dot in one.dots if not math.isnan(dot.value)]
    lines = math.ceil(len(drawn) / _PER_LINE)
    height = 24 + lines * (_TALL + _GAP)
    told = escaped(f"{axis} against {len(drawn)} dimensions")
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{told}">']
    parts.append(f'<text class="dim" x="0" y="12">{escaped(str(axis))}</text>')
    for i, one in enumerate(drawn):
        left = 52 + (i % _PER_LINE) * (_PANEL + 48)
        top = 34 + (i // _PER_LINE) * (_TALL + _GAP)
        y = Scale.of(values, top + _TALL - 20, top + 10, better=axis.better)
        parts += _panel(one, _across(one, left, left + _PANEL), y)
    return "".join([*parts, "</svg>"])


def _across(one: Slice, left: float, right: float) -> Scale:
    if one.choices:
        return Scale(-0.5, len(one.choices) - 0.5, left, right)
    return Scale.of([float(dot.at) for dot in one.dots], left, right, log=one.log)


def _panel(one: Slice, x: Scale, y: Scale) -> Iterator[str]:
    floor = y.start
    words = escaped(squeezed(one.name, _PANEL + 20))
    yield f'<text x="{x.start}" y="{y.end - 8}">{words}<title>{escaped(one.name)}</title></text>'
    yield f'<path class="axis" fill="none" d="M{x.start} {y.end}V{floor}H{x.end}"/>'
    for value in spaced(y.ticks, abs(y.start - y.end), APART + 4):
        yield f'<line class="axis" x1="{x.start}" y1="{y(value)}" x2="{x.end}" y2="{y(value)}"/>'
        yield f'<text class="dim" x="{x.start - 6}" y="{y(value) + 4}" text-anchor="end">{number(value)}</text>'
    yield from _choices(one, x, floor) if one.choices else _numbers(x, floor)
    for dot in sorted(one.dots, key=lambda dot: dot.chosen):
        if math.isnan(dot.value):
            continue
        at = float(one.choices.index(dot.at)) if one.choices else float(dot.at)
        told = escaped(f"{_worded(dot.at)}: {number(dot.value)}" + (f"; {dot.told}" if dot.told else ""))
        look = 'class="dot" r="5"' if dot.chosen else 'class="trial" r="3"'
        yield f'<circle {look} cx="{x(at)}" cy="{y(dot.value)}"><title>{told}</title></circle>'


def _numbers(x: Scale, floor: float) -> Iterator[str]:
    widest = max((width_of(number(value)) for value in x.ticks), default=0.0)
    for value in spaced(x.ticks, abs(x.end - x.start), widest + 10):
        yield f'<text class="dim" x="{x(value)}" y="{floor + 14}" text-anchor="middle">{number(value)}</text>'


def _choices(one: Slice, x: Scale, floor: float) -> Iterator[str]:
    """Their words, on two lines in turn where one has no room for them."""
    room = (x.end - x.start) / len(one.choices) - 4
    lines = 1 if all(width_of(_worded(choice)) <= room for choice in one.choices) else 2
    room = lines * (room + 4) - 4
    for i, choice in enumerate(one.choices):
        words, y = shortened(_worded(choice), room), floor + 14 + APART * (i % lines)
        told = f"<title>{escaped(_worded(choice))}</title>"
        if width_of(words) <= room:
            yield f'<text class="dim" x="{x(i)}" y="{y}" text-anchor="middle">{escaped(words)}{told}</text>'


def _worded(value: float | str | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else number(value)
