"""Real recipes from public repositories: each parses, or fails for the reason that it should.

The other tests of this folder cover the same ground with recipes of their own.
"""

from __future__ import annotations

import pytest
import yaml
from jsonschema import Draft202012Validator

from corpus_index import FOLDER, ROWS, Row, needs_corpus
from stockpot.errors import RecipeError, UnsupportedError
from stockpot.expression import Expression, leaves
from stockpot.methods.declare import Space
from stockpot.recipe.parse import load_recipe, parse_recipe
from stockpot.recipe.schema import json_schema
from stockpot.tokens import Retokenized

VALIDATOR = Draft202012Validator(json_schema())


@needs_corpus
def test_the_index_is_complete() -> None:
    """Every file of the corpus is tested."""
    assert {row.file for row in ROWS} == {path.name for path in FOLDER.glob("*.yml")}


COUNTS = {
    "as it is": 109,
    "a feature is missing": 17,
    "a method is missing": 16,
    "mistake": 27,
}
"""Of 169 recipes: those that merge, those that need experts, those of other tools' methods, and those with a mistake
in the text."""


@needs_corpus
def test_how_many_recipes_of_others_run() -> None:
    """The share of recipes in the wild that work, counted, not guessed."""
    found = dict.fromkeys(COUNTS, 0)
    for row in ROWS:
        error, message = row.expected
        if error is None:
            assert not load_recipe(FOLDER / row.file).unsupported
            kind = "as it is"
        elif error is UnsupportedError:
            kind = "a feature is missing"
        else:
            kind = "a method is missing" if message.startswith("unknown method") else "mistake"
        found[kind] += 1
    assert found == COUNTS


def nodes(expression: Expression) -> list[Expression]:
    """All nodes of a tree."""
    return [expression, *(node for child in expression.children for node in nodes(child))]


@needs_corpus
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.file)
def test_every_recipe_has_its_outcome(row: Row) -> None:
    """Valid recipes are type-checked without a model on disk; the others say why not, with lines."""
    error, message = row.expected
    if error is None:
        recipe = load_recipe(FOLDER / row.file)
        assert recipe.expression.space is Space.WEIGHTS
        assert recipe.donor is not None
        assert leaves(recipe.expression)
        assert not recipe.unsupported
        decided = [node for node in nodes(recipe.expression) if isinstance(node, Retokenized)]
        assert bool(decided) == ("tokenizer" in row.features)
        assert (recipe.chat_template is not None) == ("chat_template" in row.features)
        return
    with pytest.raises(error) as caught:
        load_recipe(FOLDER / row.file)
    assert type(caught.value) is error
    assert any(message in p.message for p in caught.value.problems)
    assert all(p.line is not None for p in caught.value.problems)


@needs_corpus
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.file)
def test_the_schema_agrees(row: Row) -> None:
    """Documents of valid recipes fit the JSON Schema, missing features included; wrong keys do not."""
    error, message = row.expected
    if "not valid YAML" in message or "given twice" in message:
        return
    documents = list(yaml.safe_load_all((FOLDER / row.file).read_text("utf-8")))
    fits = all(VALIDATOR.is_valid(d) for d in documents)
    if error is not RecipeError:
        assert fits
    elif "unknown" in message:
        assert not fits


@needs_corpus
@pytest.mark.parametrize("row", [r for r in ROWS if r.expected[0] is None], ids=lambda row: row.file)
def test_resolved_recipes_parse_to_themselves(row: Row) -> None:
    """The receipt's recipe repeats the merge."""
    resolved = load_recipe(FOLDER / row.file).resolved
    assert parse_recipe(yaml.safe_dump_all(resolved["documents"])).resolved == resolved
