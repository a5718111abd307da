"""Everything that is open in a recipe, in the order of its text: parts with dimensions, and slices of layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from stockpot.planning.lowering import apart
from stockpot.recipe.findings import Findings
from stockpot.recipe.yaml_nodes import Node
from stockpot.search.spaces.depths import Depths
from stockpot.search.spaces.dimensions import Dimension, Value
from stockpot.search.spaces.flow import comments_in
from stockpot.search.spaces.layers import Layered, layered_of, with_layers
from stockpot.search.spaces.parts import Part, dimensions_of, spliced
from stockpot.search.spaces.places import label, role
from stockpot.search.spaces.reading import Blank, blanks_of

__all__ = ["Layout", "twice"]


@dataclass(frozen=True)
class Layout:
    """What is open in ``text``, whose documents are ``documents``.

    Args:
        blanks: The holes, but for slices of layers.
        parts: The same with their dimensions.
        layered: The slices whose layers are searched.
    """

    text: str
    documents: tuple[Node, ...]
    blanks: tuple[Blank, ...]
    parts: tuple[Part, ...]
    layered: tuple[Layered, ...]

    @classmethod
    def of(cls, text: str, documents: tuple[Node, ...], findings: Findings) -> Layout:
        """The layout in which holes with groups have one value for all layers; what is wrong goes to ``findings``."""
        blanks = tuple(blanks_of(documents, text, findings))
        layered = layered_of(documents, text, findings)
        for blank in blanks:
            _check_place(blank, bool(layered), findings)
        return cls(text, documents, blanks, _parts(blanks, documents, {}), layered)

    @cached_property
    def comments(self) -> Mapping[int, str]:
        """Those of the text, by line."""
        return comments_in(self.text)

    @property
    def grouped(self) -> tuple[Blank, ...]:
        """The holes with a value for each group of layers."""
        return tuple(blank for blank in self.blanks if blank.open.groups is not None)

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Each once, in the order of the text."""
        at = [(part.blank.found.node.span, group) for part in self.parts for group in part.dimensions]
        at += [(own.found.node.span, own.dimensions) for own in self.layered]
        found: dict[int, Dimension] = {}
        for _, group in sorted(at, key=lambda pair: pair[0]):
            found.update((id(d), d) for d in group)
        return tuple(found.values())

    @property
    def shaping(self) -> frozenset[str]:
        """The dimensions on which the number of layers may depend: those of all but parameters."""
        return frozenset(
            d.name
            for part in self.parts
            if any(role(one.path) == "other" for one in part.blank.places)
            for group in part.dimensions
            for d in group
        )

    def written(self, values: Mapping[str, Value]) -> str:
        """The text with ``values``, which are right, in their places."""
        text = spliced(self.text, self.parts, values)
        return with_layers(text, self.layered, values, self.comments) if self.layered else text

    def with_groups(self, layers: Mapping[int, int]) -> Layout:
        """The layout in which groups have values of their own; ``layers`` has how many there are by number of blank."""
        nodes = {id(self.blanks[number].found.node): count for number, count in layers.items()}
        parts = _parts(self.blanks, self.documents, nodes)
        return Layout(self.text, self.documents, self.blanks, parts, self.layered)

    def layers(self, depths: Depths, findings: Findings) -> dict[int, int]:
        """How many layers each hole with groups is for, by its number; what cannot be told goes to ``findings``."""
        found = {}
        for number, blank in enumerate(self.blanks):
            if blank.open.groups is not None:
                counts = sorted(frozenset().union(*(depths.at(one.key, one.line) for one in blank.places)))
                if not _unclear(blank, counts, findings):
                    found[number] = counts[0]
        return found


def _parts(blanks: Sequence[Blank], documents: Sequence[Node], layers: Mapping[int, int]) -> tuple[Part, ...]:
    """Every hole with its dimensions, which have names of their own."""
    firsts = [blank for blank in blanks if blank.first]
    names = apart(blank.open.name or label(documents, blank.found.path) for blank in firsts)
    own = {
        id(blank.open): dimensions_of(blank.open, name, layers.get(id(blank.found.node)))
        for blank, name in zip(firsts, names, strict=True)
    }
    return tuple(Part(blank, own[id(blank.open)], layers.get(id(blank.found.node))) for blank in blanks)


def _check_place(blank: Blank, layered: bool, findings: Findings) -> None:
    """Groups and filters stand where a parameter's value does; a slice of open layers has no fixed number of them."""
    roles = {role(one.path) for one in blank.places}
    if blank.open.filters and roles != {"value"}:
        fix = "write it as the whole value: weight: {search: [0, 1], filters: [self_attn, mlp, rest]}"
        findings.problem("filters stand in what is not the whole value of a parameter", blank.line, fix)
    if blank.open.groups is None:
        return
    if not roles <= {"value", "case"}:
        fix = "write it as a parameter's value, or as that of one filter: weight: {search: [0, 1], groups: 4}"
        findings.problem("groups of layers stand in what is no value of a parameter", blank.line, fix)
    if layered:
        fix = "search the layers first, then write groups into the recipe that was found"
        findings.problem("groups of layers beside search: layers, which changes their number", blank.line, fix)


def _unclear(blank: Blank, counts: Sequence[int], findings: Findings) -> bool:
    """Whether it cannot be told how many layers ``blank`` is for; says so."""
    groups = blank.open.groups or 1
    if not counts:
        message = "groups of layers, but no merge with layers uses this value"
        findings.problem(message, blank.line, "leave groups out, or write it for a method that takes it")
    elif len(counts) > 1:
        told = " and ".join(map(str, counts))
        fix = "give each slice or part its own value, or write a gradient of holes: [{search: …}, {search: …}]"
        findings.problem(f"groups of layers stand over {told} layers at once", blank.line, fix)
    elif groups > counts[0]:
        findings.problem(f"{groups} groups of {counts[0]} layers", blank.line, f"groups: {counts[0]} at most")
    else:
        return False
    return True


def twice(dimensions: Iterable[Dimension]) -> Dimension | None:
    """A dimension whose name another has too."""
    seen: set[str] = set()
    for one in dimensions:
        if one.name in seen:
            return one
        seen.add(one.name)
    return None
