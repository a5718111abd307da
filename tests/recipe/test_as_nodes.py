"""Recipes as the nodes that a receipt holds: JSON data, from which the same expression is built."""

from __future__ import annotations

import json

import pytest
from recipe_cases import TEXTS

from stockpot.expression import leaves
from stockpot.provenance.expressions import as_records, methods_in, rebuilt
from stockpot.recipe.parse import parse_recipe


@pytest.mark.parametrize("name", TEXTS)
def test_nodes_survive(name: str) -> None:
    """Every feature of the language, lines included, is there again after JSON."""
    expression = parse_recipe(TEXTS[name]).expression
    records = as_records(expression, lambda leaf: leaf.reference)
    assert json.loads(json.dumps(records, allow_nan=False)) == records
    again = rebuilt(records, {leaf.reference: leaf for leaf in leaves(expression)}, "receipt")
    assert as_records(again, lambda leaf: leaf.reference) == records
    assert again.space == expression.space
    assert methods_in(records)
