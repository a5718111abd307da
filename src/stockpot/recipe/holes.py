"""Values of a recipe that are left open for search: how they are written, and where they stand.

``{search: [0, 1]}`` is a number of a range, ``{choice: [ties, linear]}`` one of a few values, ``{same: NAME}`` what
another hole of that name gets, and ``search: layers`` in a slice leaves open which of its layers are taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from stockpot.errors import Problem
from stockpot.recipe.keys import Flag, Integer, Key, ListOf, Named, Number, Place, Text
from stockpot.recipe.yaml_nodes import Mapping, Node
from stockpot.recipe.yaml_nodes import Sequence as Items

__all__ = ["FORMS", "LAYERS", "Found", "Path", "found_in", "not_for_merging"]

LAYERS = "layers"
"""What stands after ``search:`` in a slice whose layers are searched."""

Path = tuple[str | int, ...]
"""Keys and places in lists that lead from a document to a node; the number of the document comes first."""

_NAME = Key("name", Text(), "a name, by which {same: NAME} takes the same value elsewhere")
_FILTERS = Key("filters", ListOf(Text(), "filters", at_least=1), "one value for each filter; rest: for other tensors")

FORMS = MappingProxyType(
    {
        "search": Place(
            "a range to search",
            (
                Key("search", ListOf(Number(), "ends", at_least=1), "[lowest, highest] value", required=True),
                Key("log", Flag(), "whether values are spread by their magnitude; the lowest is then above 0"),
                Key("step", Number(), "values are this far apart, from the lowest on"),
                Key("int", Flag(), "whether values are whole numbers"),
                Key("start", Number(), "the first guess; the middle of the range by default"),
                _NAME,
                Key("groups", Integer(1), "one value for each of so many groups of layers that follow one another"),
                _FILTERS,
            ),
        ),
        "choice": Place(
            "a choice",
            (
                Key("choice", ListOf(Named("later"), "values", at_least=1), "the values to choose from", required=True),
                Key("start", Text(), "the first guess; the first value by default"),
                _NAME,
                _FILTERS,
            ),
        ),
        "same": Place("a repeated value", (Key("same", Text(), "name of a range or choice", required=True),)),
    }
)
"""The forms of a hole, by the key that tells them apart."""

_NAMES_OF_USERS = frozenset({"parameters", "tokens", "modules", "steps"})
"""Keys over mappings whose keys are names of users' choice, so that none of them makes a hole."""


@dataclass(frozen=True)
class Found:
    """A hole: its form (``search``, ``choice``, ``same``, or ``layers`` of a slice), node and place.

    ``key`` and ``line`` are those of the key whose value it is or in whose value, a list or cases, it stands.
    """

    form: str
    node: Mapping
    path: Path
    key: str
    line: int


def found_in(documents: Sequence[Node]) -> Iterator[Found]:
    """Every hole in the order of the text; what aliases repeat is found at each of its places."""
    for number, node in enumerate(documents):
        yield from _within(node, (number,), "", node.line)


def not_for_merging(documents: Sequence[Node]) -> Iterator[Problem]:
    """A problem for each hole, for those who cannot fill them in."""
    for found in {id(one.node): one for one in found_in(documents)}.values():
        what = f"search: {LAYERS}" if found.form == LAYERS else f"{found.form}: …"
        fix = "run stockpot search on this recipe, which tries values, or write a value here"
        if found.form == LAYERS:
            fix = "run stockpot search on this recipe, which tries them, or leave this key out to take all layers"
        yield Problem(f"{what} is for stockpot search", line=found.node.line, fix=fix)


def _within(node: Node, path: Path, key: str, line: int) -> Iterator[Found]:
    if isinstance(node, Items):
        for index, item in enumerate(node.items):
            yield from _within(item, (*path, index), key, line)
    if not isinstance(node, Mapping):
        return
    form = _form(node, path)
    if form is not None:
        yield Found(form, node, path, key, line)
    if form not in FORMS:
        for entry in node.entries:
            case = entry.key == "value" and path[-1] != "parameters"
            own = (key, line) if case else (entry.key, entry.line)
            yield from _within(entry.value, (*path, entry.key), *own)


def _form(node: Mapping, path: Path) -> str | None:
    if len(path) == 1 or path[-1] in _NAMES_OF_USERS:
        return None
    keys = {entry.key for entry in node.entries}
    if "search" in keys and len(path) > 1 and path[-2] == "slices":
        return LAYERS
    return next((form for form in FORMS if form in keys), None)
