"""The page about recipes is true: its examples parse, and it names every key."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from stockpot.recipe.keys import PLACES
from stockpot.recipe.parse import parse_recipe
from stockpot.recipe.schema import json_schema

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "recipes.md").read_text("utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split("\n", 1)[0])
def test_examples_parse(text: str) -> None:
    """Without problems, notes or missing features, and they fit the schema."""
    recipe = parse_recipe(text)
    assert (recipe.notes, recipe.unsupported) == ((), ())
    for document in yaml.safe_load_all(text):
        jsonschema.validate(document, json_schema())


@pytest.mark.parametrize(
    "place", ["recipe", "merge", "module", "slice", "source", "entry", "reference", "path", "case"]
)
def test_every_key_is_named(place: str) -> None:
    """In code spans or examples."""
    for key in PLACES[place].keys:
        assert re.search(rf"\b{key.name}\b", PAGE), key.name


def test_there_are_examples() -> None:
    """The page has not lost them."""
    assert len(EXAMPLES) >= 9
