"""Slices whose layers are searched: each layer of the range is in or out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from stockpot.errors import Problem, RecipeError
from stockpot.recipe.findings import Findings
from stockpot.recipe.holes import LAYERS, Found, found_in
from stockpot.recipe.scalars import integer_of
from stockpot.recipe.yaml_nodes import Entry, Node, Scalar, compose
from stockpot.recipe.yaml_nodes import Mapping as Keys
from stockpot.recipe.yaml_nodes import Sequence as Items
from stockpot.search.spaces.dimensions import Dimension, Value
from stockpot.search.spaces.flow import anchors_in, in_flow
from stockpot.search.spaces.places import label, node_at

__all__ = ["Layered", "layered_of", "with_layers"]

_MOST = 1000
"""Most layers of one slice that are searched."""


@dataclass(frozen=True)
class Layered:
    """A slice, with one dimension for each of its layers: true where the layer is in."""

    found: Found
    dimensions: tuple[Dimension, ...]


def layered_of(documents: Sequence[Node], text: str, findings: Findings) -> tuple[Layered, ...]:
    """Every slice whose layers are searched, in the order of the text. At the start the first of each list is whole."""
    slices = _slices(documents)
    starts: set[int] = set()
    found = []
    for one in slices:
        holder = node_at(documents, one.path[:-1])
        first = id(holder) not in starts
        starts.add(id(holder))
        count = _checked(one, findings)
        name = label(documents, one.path)
        numbers = range(count[0], count[1]) if count else ()
        like = Dimension(name, one.node.line, "choice", choices=(False, True), start=first)
        cells = ((name, "", f"layer {number}") for number in numbers)
        found.append(Layered(one, tuple(replace(like, name=f"{name}.{cell[2]}", cell=cell) for cell in cells)))
    for holder in _holders(documents, slices):
        anchors = anchors_in(text, holder)
        if anchors:
            fix = "write out what its aliases repeat, or give the anchor before the slices"
            findings.problem(f"an anchor, &{anchors[0]}, stands in slices whose layers are searched", holder.line, fix)
    return tuple(found)


def with_layers(text: str, layered: Sequence[Layered], values: Mapping[str, Value], comments: Mapping[int, str]) -> str:
    """``text``, which has no other holes, with the layers that are in; lines keep their numbers.

    Raises:
        RecipeError: when a list of slices has no layer left.
    """
    documents, _ = compose(text)
    slices = _slices(documents)
    taken = {
        id(found.node): tuple(_runs([bool(values[d.name]) for d in own.dimensions]))
        for found, own in zip(slices, layered, strict=True)
    }

    def change(item: Node) -> tuple[Node, ...] | None:
        runs = taken.get(id(item))
        return None if runs is None or not isinstance(item, Keys) else tuple(_cut(item, *run) for run in runs)

    _check_left(documents, slices, taken)
    written: list[str] = []
    done = 0
    for holder in _holders(documents, slices):
        written += [text[done : holder.span[0]], in_flow(text, holder, change, comments)]
        done = holder.span[1]
    return "".join([*written, text[done:]])


def _slices(documents: Sequence[Node]) -> list[Found]:
    """Each slice once, in the order of the text."""
    found = {id(one.node): one for one in reversed(list(found_in(documents))) if one.form == LAYERS}
    return sorted(found.values(), key=lambda one: one.node.span)


def _holders(documents: Sequence[Node], slices: Sequence[Found]) -> list[Items]:
    """The lists of slices that are written anew, none inside another."""
    paths = {one.path[:-1] for one in slices}
    outer = [path for path in paths if not any(path[: len(other)] == other for other in paths if other != path)]
    nodes = {id(node): node for path in outer if isinstance(node := node_at(documents, path), Items)}
    return sorted(nodes.values(), key=lambda node: node.span)


def _checked(found: Found, findings: Findings) -> tuple[int, int] | None:
    """First layer and the one after the last of the slice's first source; None where it is wrong, which is told."""
    node = found.node
    asked = node.get("search")
    if asked is None or not isinstance(asked.value, Scalar) or asked.value.text != LAYERS:
        fix = f"search: {LAYERS}, which decides for each layer; numbers are searched where they stand"
        findings.problem(f"a slice takes search: {LAYERS}", node.line, fix)
        return None
    ranges = [_range_of(source) for source in _sources(node)]
    fix = "layer_range: [first, last + 1], in whole numbers, as long for every source"
    if not ranges or None in ranges:
        findings.problem(f"search: {LAYERS} needs a layer_range of every source", node.line, fix)
        return None
    whole = [span for span in ranges if span is not None]
    if len({last - first for first, last in whole}) > 1:
        findings.problem("sources of one slice have different numbers of layers", node.line, fix)
        return None
    if whole[0][1] - whole[0][0] > _MOST:
        findings.problem(f"more than {_MOST} layers are searched in one slice", node.line, "shorten layer_range")
        return None
    return whole[0]


def _sources(node: Keys) -> tuple[Keys, ...]:
    entry = node.get("sources")
    items = entry.value.items if entry is not None and isinstance(entry.value, Items) else ()
    return tuple(item for item in items if isinstance(item, Keys))


def _range_of(source: Keys) -> tuple[int, int] | None:
    entry = source.get("layer_range")
    items = entry.value.items if entry is not None and isinstance(entry.value, Items) else ()
    numbers = [integer_of(item) for item in items]
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None or not 0 <= numbers[0] < numbers[1]:
        return None
    return numbers[0], numbers[1]


def _runs(taken: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """The runs of layers that are in, as (first, last + 1).

    >>> list(_runs([True, True, False, True]))
    [(0, 2), (3, 4)]
    """
    start = None
    for index, one in enumerate([*taken, False]):
        if one and start is None:
            start = index
        if not one and start is not None:
            yield start, index
            start = None


def _cut(node: Keys, start: int, stop: int) -> Keys:
    """The slice with some of its layers, counted from the first of its range."""
    entries = []
    for entry in node.entries:
        if entry.key == "sources" and isinstance(entry.value, Items):
            sources = tuple(_cut_source(s, start, stop) if isinstance(s, Keys) else s for s in entry.value.items)
            entries.append(replace(entry, value=replace(entry.value, items=sources)))
        elif entry.key != "search":
            entries.append(entry)
    return replace(node, entries=tuple(entries))


def _cut_source(node: Keys, start: int, stop: int) -> Keys:
    span = _range_of(node)
    assert span is not None
    return replace(node, entries=tuple(_ranged(e, span[0] + start, span[0] + stop) for e in node.entries))


def _ranged(entry: Entry, first: int, last: int) -> Entry:
    if entry.key != "layer_range":
        return entry
    line = entry.value.line
    numbers = (Scalar(str(first), "int", line), Scalar(str(last), "int", line))
    return replace(entry, value=Items(numbers, line))


def _check_left(documents: Sequence[Node], slices: Sequence[Found], taken: Mapping[int, tuple[object, ...]]) -> None:
    for path in {one.path[:-1]: None for one in slices}:
        holder = node_at(documents, path)
        assert isinstance(holder, Items)
        if all(taken.get(id(item)) == () for item in holder.items):
            fix = "take at least one layer of one slice"
            raise RecipeError(Problem("no layer of any slice is taken", line=holder.line, fix=fix))
