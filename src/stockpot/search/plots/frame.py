"""What plots share: scales from values to pixels, axes, a key, and labels that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from stockpot.evaluate.page import escaped, ticks
from stockpot.evaluate.protocol import Direction
from stockpot.evaluate.table import ARROWS, number, shown

__all__ = [
    "APART",
    "COLOURS",
    "Axis",
    "Box",
    "Frame",
    "Label",
    "Scale",
    "apart",
    "key",
    "placed",
    "shortened",
    "spaced",
    "squeezed",
    "width_of",
]

COLOURS = tuple(f"var(--c{i})" for i in range(8))
"""Of lines and groups; the page's style has each for light and for dark."""
APART = 15
"""Pixels between the baselines of two labels."""
_LETTER, _NARROW = 7.6, frozenset(".,:;-'|()[]/ ilj")
"""Pixels of a letter at 12 px, on the wide side of the fonts of common systems; and those that take little more than
half of it."""
_LONGEST = 28
_REACH = 4.0
"""An axis ends at this many times the distance of the median from the best; what is worse stands at its edge."""


@dataclass(frozen=True)
class Axis:
    """A direction of a plot.

    >>> str(Axis("quiz.loss", "lower")), str(Axis("size"))
    ('quiz.loss ↓ lower is better', 'size')

    Args:
        name: What is drawn.
        better: Which is better; None where neither is.
    """

    name: str
    better: Direction | None = None

    def __str__(self) -> str:
        return self.name if self.better is None else f"{self.name} {ARROWS[self.better]} {self.better} is better"


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two overlap."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def within(self, other: Box) -> bool:
        """Whether this one lies in ``other``."""
        across = other.left <= self.left and self.right <= other.right
        return across and other.top <= self.top and self.bottom <= other.bottom


@dataclass(frozen=True)
class Scale:
    """From values to pixels along one axis. What is beyond an end, or infinite, is at that end.

    Args:
        low, high: Values at ``start`` and ``end``; positive where ``log``.
        start, end: Pixels.
        log: Whether equal ratios are equal distances.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def of(
        cls,
        values: Iterable[float],
        start: float,
        end: float,
        *,
        better: Direction | None = None,
        log: bool = False,
    ) -> Scale:
        """One that holds the finite ``values``, with a margin; with ``better``, not those that are far worse."""
        low, high = _limits([v for v in values if math.isfinite(v) and (v > 0 or not log)], better)
        if log:
            ratio = (high / low) ** 0.05 if high > low else 1.1
            return cls(low / ratio, high * ratio, start, end, log=True)
        margin = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
        return cls(low - margin, high + margin, start, end)

    def __call__(self, value: float) -> float:
        """Where ``value`` is, in pixels."""
        if not math.isfinite(value):
            return self.end if value > 0 else self.start
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + (self.end - self.start) * share, 1)

    def holds(self, value: float) -> bool:
        """Whether ``value`` is where it is drawn, not beyond an end."""
        return self.low <= value <= self.high

    @property
    def ticks(self) -> list[float]:
        """Round numbers along it."""
        if not self.log:
            return ticks(self.low, self.high)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        every = max(1, (last - first) // 6)
        found = [10.0**i for i in range(first, last + 1, every) if self.holds(10.0**i)]
        return found if len(found) > 1 else ticks(self.low, self.high)


def _limits(values: Sequence[float], better: Direction | None) -> tuple[float, float]:
    if not values:
        return 1.0, 1.0
    low, high = min(values), max(values)
    if better is None:
        return low, high
    best = high if better == "higher" else low
    reach = _REACH * abs(median(values) - best)
    if reach == 0:
        return low, high
    return (max(low, best - reach), high) if better == "higher" else (low, min(high, best + reach))


@dataclass(frozen=True)
class Frame:
    """A plot's area with two axes.

    Args:
        x, y: Scales; y runs upwards.
        across, up: What the axes are.
        size: Width and height of the whole picture.
    """

    x: Scale
    y: Scale
    across: str
    up: str
    size: tuple[int, int]

    @property
    def area(self) -> Box:
        """Between the axes."""
        return Box(self.x.start, self.y.end, self.x.end, self.y.start)

    @property
    def whole(self) -> Box:
        """The picture right of its numbers, above its names."""
        return Box(self.x.start, self.y.end, self.size[0], self.y.start)

    def opened(self, told: str | None = None) -> Iterator[str]:
        """The opening tag, both axes with their numbers, and what they are.

        Args:
            told: What the picture is, for those who do not see it.
        """
        width, height = self.size
        name = escaped(told or f"{self.up} over {self.across}")
        yield f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}">'
        yield from self.axes()

    def axes(self) -> Iterator[str]:
        """Grid, numbers and names."""
        area, x, y = self.area, self.x, self.y
        for value in x.ticks:
            yield f'<line class="axis" x1="{x(value)}" y1="{area.top}" x2="{x(value)}" y2="{area.bottom}"/>'
            yield f'<text class="dim" x="{x(value)}" y="{area.bottom + 16}" text-anchor="middle">{number(value)}</text>'
        for value in y.ticks:
            yield f'<line class="axis" x1="{area.left}" y1="{y(value)}" x2="{area.right}" y2="{y(value)}"/>'
            yield f'<text class="dim" x="{area.left - 8}" y="{y(value) + 4}" text-anchor="end">{number(value)}</text>'
        centre, middle = (area.left + area.right) / 2, (area.top + area.bottom) / 2
        low, words = area.bottom + 36, escaped(shortened(self.across, area.right - area.left))
        yield f'<text class="dim" x="{centre}" y="{low}" text-anchor="middle">{words}</text>'
        at = area.left - 50
        yield (
            f'<text class="dim" x="{at}" y="{middle}" text-anchor="middle" transform="rotate(-90 {at} {middle})">'
            f"{escaped(shortened(self.up, area.bottom - area.top + 30))}</text>"
        )


def key(entries: Sequence[tuple[str, str]], x: float, y: float) -> Iterator[str]:
    """What signs mean, in one line that begins at ``x``.

    Args:
        entries: (SVG of a sign around its origin, words).
    """
    for sign, words in entries:
        yield f'<g transform="translate({round(x + 6, 1)} {y - 4})">{sign}</g>'
        yield f'<text class="dim key" x="{round(x + 18, 1)}" y="{y}">{escaped(words)}</text>'
        x += 18 + width_of(words) + 14


def width_of(words: str) -> float:
    """Pixels that a label takes, on the wide side."""
    return _LETTER * sum(0.6 if c in _NARROW else 1.0 if c < "\u1100" and c not in "mwMW" else 1.6 for c in words)


def shortened(words: str, wide: float) -> str:
    """``words``, their end kept, in as many pixels."""
    while len(words) > 2 and width_of(words) > wide:
        words = "…" + words.lstrip("…")[1:]
    return words


def squeezed(words: str, wide: float) -> str:
    """``words``, both ends kept, in as many pixels: names of one search often differ at their beginnings and ends.

    >>> squeezed("models[0].weight[mlp, layers 0-7]", 150)
    'models[0… layers 0-7]'
    """
    found, left = words, len(words) - 1
    while left > 1 and width_of(found) > wide:
        head = left * 2 // 5
        found, left = f"{words[:head]}…{words[head - left :]}", left - 1
    return found


def spaced(values: Sequence[float], length: float, gap: float) -> Sequence[float]:
    """As many of ``values``, evenly, as stand ``gap`` pixels apart on ``length`` of them."""
    every = max(1, math.ceil(len(values) * gap / length)) if values else 1
    return values[::every]


def apart(wanted: Sequence[float], low: float, high: float, gap: float = APART) -> list[float]:
    """Places nearest to ``wanted`` that are ``gap`` apart, in the order of those, and in [low, high] where they fit.

    >>> apart([10, 12, 40], 0, 100)
    [10, 25, 40]
    >>> apart([95, 96], 0, 100)
    [85, 100]
    """
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    places: list[float] = []
    for i in order:
        places.append(max(low, wanted[i], *(place + gap for place in places[-1:])))
    ceiling = high
    for j in range(len(places) - 1, -1, -1):
        places[j] = min(places[j], ceiling)
        ceiling = places[j] - gap
    found = dict(zip(order, places, strict=True))
    return [found[i] for i in range(len(wanted))]


@dataclass(frozen=True)
class Label:
    """Words that belong to a point.

    Args:
        words: Cut where they are long.
        x, y: The point.
    """

    words: str
    x: float
    y: float
    _away: float = field(default=10.0, repr=False)

    @property
    def text(self) -> str:
        """What is written."""
        return shown(self.words) if len(self.words) <= _LONGEST else f"…{self.words[-_LONGEST + 1 :]}"

    def places(self) -> Iterator[tuple[str, float, float, Box]]:
        """Anchor, x, baseline, and what is covered, the nearest ones first."""
        wide = width_of(self.text)
        for step in range(40):
            for sign in (1, -1) if step else (1,):
                y = self.y + 4 + sign * step * APART / 2
                for anchor, x in (("start", self.x + self._away), ("end", self.x - self._away)):
                    left = x if anchor == "start" else x - wide
                    yield anchor, x, y, Box(left, y - 11, left + wide, y + 3)


def placed(labels: Sequence[Label], area: Box, marks: Sequence[tuple[float, float]] = ()) -> Iterator[str]:
    """Labels beside their points: within ``area``, over no other, and over none of ``marks`` where that can be.

    One for which there is no room is left out; its point tells its name still.
    """
    taken: list[Box] = []
    signs = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in marks]
    for label in sorted(labels, key=lambda one: (one.y, one.x, one.words)):
        free = [p for p in label.places() if p[3].within(area) and not any(p[3].meets(other) for other in taken)]
        if not free:
            continue
        best = next((p for p in free if not any(p[3].meets(sign) for sign in signs)), free[0])
        anchor, x, y, box = best
        taken.append(box)
        if abs(y - 4 - label.y) > APART:
            yield (
                f'<line class="lead" x1="{round(label.x, 1)}" y1="{round(label.y, 1)}" x2="{round(x, 1)}" '
                f'y2="{round(y - 4, 1)}"/>'
            )
        yield f'<text x="{round(x, 1)}" y="{round(y, 1)}" text-anchor="{anchor}">{escaped(label.text)}</text>'
