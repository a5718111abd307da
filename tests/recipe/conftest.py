"""Shared ways of looking at a parsed recipe: its problems, and its expression as one line of text."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stockpot.arrangements import Cast, Layers, Stack
from stockpot.errors import Problem, StockpotError
from stockpot.expression import Apply, Expression, Leaf, Linear
from stockpot.recipe.parse import parse_recipe
from stockpot.settings import Setting


def _number(setting: Setting) -> str:
    cases = [f"{'' if case.filter is None else case.filter + ':'}{_value(case.value)}" for case in setting.cases]
    return cases[0] if len(cases) == 1 else "<" + " ".join(cases) + ">"


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + " ".join(f"{v:g}" for v in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parameters(settings: object) -> str:
    assert isinstance(settings, dict)
    return ",".join(f"{name}={'|'.join(map(_number, values))}" for name, values in settings.items())


def render(node: Expression) -> str:
    """The tree in one line: ``+1*base +0.5*ties(…){one}{each}``."""
    if isinstance(node, Leaf):
        return node.reference
    if isinstance(node, Cast):
        return f"{node.dtype}({render(node.of)})"
    if isinstance(node, Layers):
        return f"{render(node.of)}[{node.start}:{node.stop}]"
    if isinstance(node, Stack):
        return "stack(" + "; ".join(map(render, node.parts)) + ")"
    if isinstance(node, Linear):
        return " ".join(f"{_number(t.coefficient)}*{render(t.of)}" for t in node.terms)
    assert isinstance(node, Apply)
    inputs = "; ".join(
        render(child) + (f" {{{_parameters(dict(own))}}}" if own else "")
        for child, own in zip(node.inputs, node.each or [{}] * len(node.inputs), strict=True)
    )
    mode = (f" variant={node.variant}" if node.variant else "") + (" compat" if node.compat else "")
    return f"{node.method.name}({inputs}){{{_parameters(dict(node.one))}}}{mode}"


@pytest.fixture
def tree() -> Callable[..., str]:
    """Text of a recipe → its expression in one line."""
    return lambda text, **options: render(parse_recipe(text, **options).expression)


@pytest.fixture
def problems() -> Callable[..., tuple[Problem, ...]]:
    """Text of a recipe that must fail → everything that is wrong with it."""

    def collect(text: str, **options: bool) -> tuple[Problem, ...]:
        with pytest.raises(StockpotError) as caught:
            parse_recipe(text, **options)
        return caught.value.problems

    return collect


@pytest.fixture
def render_companions() -> Callable[..., list[dict[str, list[str]]]]:
    """Text of a recipe → the companions of each of its outermost methods."""

    def applied(node: Expression) -> list[Apply]:
        if isinstance(node, Apply):
            return [node]
        return [found for child in node.children for found in applied(child)]

    def collect(text: str) -> list[dict[str, list[str]]]:
        nodes = applied(parse_recipe(text).expression)
        return [{name: list(map(render, own)) for name, own in node.companions.items()} for node in nodes]

    return collect
