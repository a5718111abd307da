"""The text of a hole, given the values of its dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from stockpot.search.spaces.dimensions import Dimension, Value
from stockpot.search.spaces.reading import REST, Blank, Open
from stockpot.search.spaces.writing import number_text, word_text

__all__ = ["Part", "dimensions_of", "group_of", "spliced"]


def group_of(layer: int, groups: int, layers: int) -> int:
    """Which of ``groups`` groups layer number ``layer`` of ``layers`` is in: they follow one another, alike in size.

    >>> [group_of(layer, 2, 5) for layer in range(5)]
    [0, 0, 0, 1, 1]
    """
    return layer * groups // layers


@dataclass(frozen=True)
class Part:
    """A place in the text that a value takes.

    Args:
        blank: The hole.
        dimensions: For each filter (or all tensors) those of its groups (or of all layers).
        layers: How many layers a value for each group is for; None for one value.
    """

    blank: Blank
    dimensions: tuple[tuple[Dimension, ...], ...]
    layers: int | None = None

    def text(self, values: Mapping[str, Value]) -> str:
        """The value as YAML on one line."""
        written = [self._along([values[d.name] for d in own]) for own in self.dimensions]
        if not self.blank.open.filters:
            return written[0]
        cases = (
            f"{{value: {value}}}" if where == REST else f"{{filter: {word_text(where)}, value: {value}}}"
            for where, value in zip(self.blank.open.filters, written, strict=True)
        )
        return f"[{', '.join(cases)}]"

    def _along(self, values: Sequence[Value]) -> str:
        """One value, or as many as there are layers, each that of its group."""
        texts = [_text(self.blank.open, self.dimensions[0][0], value) for value in values]
        if self.layers is None:
            return texts[0]
        return f"[{', '.join(texts[group_of(i, len(texts), self.layers)] for i in range(self.layers))}]"


def dimensions_of(open_: Open, name: str, layers: int | None) -> tuple[tuple[Dimension, ...], ...]:
    """The dimensions of a hole: for each filter those of its groups of ``layers`` layers."""
    groups = ("",) if open_.groups is None or layers is None else _groups(open_.groups, layers)
    return tuple(
        tuple(_dimension(open_.like, name, where, group) for group in groups) for where in open_.filters or ("",)
    )


def _dimension(like: Dimension, name: str, where: str, group: str) -> Dimension:
    cell = (name, where, group) if where or group else None
    return replace(like, name=name + _bracketed(where, group), cell=cell)


def _groups(groups: int, layers: int) -> tuple[str, ...]:
    starts = [next(i for i in range(layers) if group_of(i, groups, layers) == g) for g in range(groups)]
    ends = [*(start - 1 for start in starts[1:]), layers - 1]
    pairs = zip(starts, ends, strict=True)
    return tuple(f"layer {start}" if start == end else f"layers {start}-{end}" for start, end in pairs)


def _bracketed(*words: str) -> str:
    told = ", ".join(filter(None, words))
    return f"[{told}]" if told else ""


def _text(open_: Open, dimension: Dimension, value: Value) -> str:
    if open_.like.kind == "choice":
        return open_.texts[dimension.index(value)]
    return number_text(int(value) if dimension.kind == "int" else float(value))


def spliced(text: str, parts: Sequence[Part], values: Mapping[str, Value]) -> str:
    """``text`` with each part's value in its place; what follows stays on its line."""
    found: list[str] = []
    done = 0
    for part in parts:
        start, end = part.blank.found.node.span
        found += [text[done:start], " " if text[start - 1 : start] == ":" else "", part.text(values), part.blank.after]
        done = end
    return "".join([*found, text[done:]])
