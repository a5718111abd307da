"""Recipes of adapters: which of their models are adapters, which is the base, and how options become a recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stockpot.arrangements import Layers, Stack
from stockpot.checkpoint.model import Checkpoint
from stockpot.checkpoint.places import existing_path
from stockpot.errors import CheckpointError, ExpressionError, Problem, StockpotError, UnsupportedError
from stockpot.expression import Adapted, Apply, Expression, Leaf
from stockpot.lora.opening import Given, adapter_at, is_adapter_at, model_at
from stockpot.methods.declare import Blockwise, Method
from stockpot.methods.registry import method_named
from stockpot.recipe.model import Recipe

__all__ = ["CONCAT", "ORIGIN", "Opened", "opened", "recipe_text"]

ORIGIN = "(no change)"
"""What stands for the base: adapters are differences from it, so it is zero."""

CONCAT = "concat"
"""The weighted sum of the changes with factors side by side: exact, of the sum of the ranks."""


def recipe_text(adapters: Sequence[str], method: str, values: Mapping[str, Sequence[Any]]) -> str:
    """A recipe that merges ``adapters``.

    Args:
        method: Its name, or ``concat``.
        values: Parameter → one value, or one for each adapter.

    Raises:
        ExpressionError: for an unknown method, or a number of values that fits neither.
    """
    if method == CONCAT:
        method, values = "linear", {**values, "normalize": [False]}
    found = method_named(method)
    known = {p.name for p in found.parameters} | {c.name for c in found.companions} | _scaled(found)
    if surplus := [name for name in values if name not in known]:
        fix = f"it takes: {', '.join(sorted(known)) or 'none'}"
        raise ExpressionError(Problem(f"{method} has no parameter {surplus[0]!r}", fix=fix))
    per_model = {p.name for p in found.parameters if p.per_model}
    models: list[dict[str, Any]] = [{"model": _reference(a)} for a in adapters]
    shared: dict[str, Any] = {}
    for name, given in values.items():
        if len(given) == 1:
            shared[name] = given[0]
        elif len(given) != len(adapters) or name not in per_model:
            wanted = f"one value, or one for each of {len(adapters)} adapters" if name in per_model else "one value"
            raise ExpressionError(Problem(f"{method}: {name} takes {wanted}, not {len(given)}"))
        else:
            for model, value in zip(models, given, strict=True):
                model.setdefault("parameters", {})[name] = value
    recipe: dict[str, Any] = {"merge_method": method, "models": models}
    if found.base.name == "MEMBER":
        recipe["base_model"] = models[0]["model"]
    return json.dumps(recipe | ({"parameters": shared} if shared else {}), indent=1, ensure_ascii=False) + "\n"


def _scaled(method: Method) -> set[str]:
    return {"lambda"} if method.scaled else set()


def _reference(adapter: str) -> Any:
    """An adapter as a recipe names it: a ``+`` or ``@`` in a path is none of the dialect's."""
    return {"path": adapter} if set("+@") & set(adapter) and existing_path(adapter, None) is not None else adapter


@dataclass(frozen=True)
class Opened:
    """The models of a recipe, opened.

    Args:
        adapters: Label → adapter, in the order of the recipe.
        places: For each node that stands for an adapter, by ``id``, its number.
        origins: The nodes, by ``id``, that stand for the base.
        others: The nodes that stand for checkpoints that a method reads beside its models.
        base: The model that the adapters are on, where the recipe names one.
    """

    adapters: tuple[tuple[str, Checkpoint], ...]
    places: Mapping[int, int]
    origins: frozenset[int]
    others: Mapping[int, Checkpoint]
    base: Leaf | None = None


def opened(recipe: Recipe, given: Given = None) -> Opened:
    """Open every adapter of ``recipe``; its base is named, not opened.

    Raises:
        UnsupportedError: for what makes no adapter: layers, stacks, masks, functions of models' weights.
        CheckpointError: with all that cannot be opened.
    """
    nodes = list(_nodes(recipe.expression, set()))
    _check(nodes)
    found = _Opening(nodes, *_named(recipe.resolved), given)
    for node in nodes:
        found.take(node)
    return found.result()


class _Opening:
    """Opens the models of a recipe, one node at a time."""

    def __init__(self, nodes: Sequence[Expression], models: set[str], bases: set[str], given: Given) -> None:
        self._given = given
        self._beside = {id(leaf) for node in nodes if isinstance(node, Apply) for leaf in _companions(node)}
        self._origins_named = (bases - models) | {ORIGIN}
        self._adapters: dict[Any, tuple[int, str, Checkpoint]] = {}
        self._places: dict[int, int] = {}
        self._origins: set[int] = set()
        self._others: dict[int, Checkpoint] = {}
        self._bases: dict[Any, Leaf] = {}
        self._problems: list[Problem] = []

    def take(self, node: Expression) -> None:
        """Open what ``node`` names, if it names something."""
        try:
            if isinstance(node, Adapted) and isinstance(node.of, Leaf):
                self._bases[node.of.key] = node.of
                self._adapter(node, node.adapter, f"{node.of.reference}+{node.adapter.reference}")
            elif isinstance(node, Leaf):
                self._leaf(node)
        except StockpotError as error:
            self._problems += error.problems

    def _leaf(self, leaf: Leaf) -> None:
        if leaf.reference in self._origins_named:
            self._origins.add(id(leaf))
            if leaf.reference != ORIGIN:
                self._bases[leaf.key] = leaf
        elif id(leaf) in self._beside and not is_adapter_at(self._given, leaf.reference, leaf.folder):
            self._others[id(leaf)] = model_at(self._given, leaf.reference, leaf.folder, leaf.line)
        else:
            self._adapter(leaf, leaf, leaf.reference)

    def _adapter(self, node: Expression, leaf: Leaf, label: str) -> None:
        if leaf.key not in self._adapters:
            adapter = adapter_at(self._given, leaf.reference, leaf.folder, leaf.line)
            self._adapters[leaf.key] = (len(self._adapters), label, adapter)
        self._places[id(node)] = self._adapters[leaf.key][0]

    def result(self) -> Opened:
        """Everything, opened."""
        if len(self._bases) > 1:
            one, other, *_ = self._bases.values()
            message = f"adapters on different bases, {one.reference} and {other.reference}, cannot be merged"
            self._problems.append(Problem(message, line=other.line, fix="merge adapters of one base"))
        if self._problems:
            raise CheckpointError(*self._problems)
        adapters = tuple((label, adapter) for _, label, adapter in self._adapters.values())
        base = next(iter(self._bases.values()), None)
        return Opened(adapters, self._places, frozenset(self._origins), self._others, base)


def _nodes(node: Expression, seen: set[int]) -> Iterator[Expression]:
    """Every node once, an adapter's base left out."""
    if id(node) in seen:
        return
    seen.add(id(node))
    yield node
    for child in () if isinstance(node, Adapted) else node.children:
        yield from _nodes(child, seen)


def _check(nodes: Sequence[Expression]) -> None:
    problems = []
    for node in nodes:
        if isinstance(node, Layers | Stack):
            problems.append(Problem("layers that are taken or stacked make no adapter", line=node.line))
        elif isinstance(node, Adapted) and not isinstance(node.of, Leaf):
            fix = "name the adapters alone"
            problems.append(Problem("an adapter on a merge has no base of its own", line=node.line, fix=fix))
        elif isinstance(node, Apply) and (told := _refused(node.method)):
            problems.append(Problem(f"{node.method.name} {told}", line=node.line))
    if problems:
        raise UnsupportedError(*problems)


def _refused(method: Method) -> str | None:
    """Why a method cannot merge changes; None where it can.

    Those of the registry that take models are means of them with weights that sum to 1, so that they may as well be
    taken of differences. Of a user's function nothing is known.
    """
    if method.gives is not None:
        return "gives masks, which no adapter holds"
    if method.on == "weights" and isinstance(method.family, Blockwise):
        return "is a function of models, not of changes: fold the adapters into their base and merge the models"
    return None


def _companions(node: Apply) -> Iterator[Leaf]:
    for group in node.companions.values():
        for child in group:
            yield from (n for n in _nodes(child, set()) if isinstance(n, Leaf))


def _named(data: Any) -> tuple[set[str], set[str]]:
    """References that stand as models, and as bases, anywhere in a recipe as plain data."""
    models: set[str] = set()
    bases: set[str] = set()
    if isinstance(data, dict):
        for key, value in data.items():
            if key in ("model", "base_model"):
                is_model = key == "model" and "lora" not in data  # beside an adapter stands what it is on
                (models if is_model else bases).update(_text(value))
            below = _named(value)
            models |= below[0]
            bases |= below[1]
    elif isinstance(data, list):
        for item in data:
            below = _named(item)
            models |= below[0]
            bases |= below[1]
    return models, bases


def _text(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        revision = value.get("revision")
        return [value["path"] if revision is None else f"{value['path']}@{revision}"]
    return []
