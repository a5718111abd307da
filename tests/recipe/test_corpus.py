"""Real recipes from public repositories: each parses, or fails for the reason that it should.

The corpus is not part of this repository. STOCKPOT_SHARED names the folder that holds ``recipes/``;
without it, ``shared/`` beside the checkout is tried. The other tests of this folder cover the same
ground with recipes of their own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from stockpot.errors import RecipeError, StockpotError, UnsupportedError
from stockpot.expression import Expression, leaves
from stockpot.methods.declare import Space
from stockpot.methods.registry import METHODS
from stockpot.recipe.parse import load_recipe, parse_recipe
from stockpot.recipe.schema import json_schema
from stockpot.tokens import Retokenized

ENVIRONMENT = "STOCKPOT_SHARED"
CHECKOUT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get(ENVIRONMENT) or CHECKOUT.parent / "shared") / "recipes"
VALIDATOR = Draft202012Validator(json_schema())

MISTAKES = {
    "052": "unknown parameter 'use_magic'",
    "084": "not a list of texts",
    "097": "unknown key 'yamlbase_model'",
    "107": "unknown key 'tokenizer'",
    "111": "unknown parameter 'geodesic'",
    "146": "slerp takes exactly 2 models, not 5",
    "153": "is neither of the two models",
    "160": "unknown key 'pattern'",
    "165": "{Model_1} is a placeholder",
    "174": "unknown key 't'",
    "177": "is neither of the two models",
    "179": "is neither of the two models",
    "180": "is neither of the two models",
    "181": "is neither of the two models",
    "182": "is neither of the two models",
    "189": "slerp takes exactly 2 models, not 4",
    "193": "slerp needs base_model",
    "194": "slerp needs base_model",
    "210": "key 'merge_method' is given twice, on lines 9 and 16",
    "215": "unknown key 'weight' in an entry of models",
    "226": "unknown key 'merge_methiod'",
    "227": "unknown key 'merge_methiod'",
    "231": "unknown parameter 'nomalize'",
    "245": "unknown key 'align_weights'",
    "247": "'<|finetune_right_pad_id|>' is given twice",
    "248": "needs merge_method",
    "249": "not valid YAML",
}
"""Recipes with a mistake in the text, by number, and what is said about it.

mergekit refuses all of them too, but for 107, 160, 210, 231 and 245: there it silently ignores a key,
or the first of two recipes in one document.
"""


@dataclass(frozen=True)
class Row:
    """One line of the corpus' index: file, method as it calls it, features."""

    file: str
    method: str
    features: str

    @property
    def number(self) -> str:
        return self.file[:3]

    @property
    def expected(self) -> tuple[type[StockpotError] | None, str]:
        """What must be raised, with what in its text; None for a recipe that parses."""
        if self.number in MISTAKES:
            return RecipeError, MISTAKES[self.number]
        methods = self.method.split("+")
        if methods == ["moe"]:
            return UnsupportedError, "mixtures of experts"
        forks = [m for m in methods if m not in METHODS]
        return (RecipeError, f"unknown method {forks[0]!r}") if forks else (None, "")


def rows() -> list[Row]:
    """The index, one row for each file; empty without the corpus."""
    index = FOLDER / "INDEX.md"
    if not index.is_file():
        return []
    cells = [[c.strip() for c in line.split("|")] for line in index.read_text("utf-8").splitlines()]
    return [Row(c[1], c[2], c[3]) for c in cells if len(c) > 4 and c[1].endswith(".yml")]


ROWS = rows()
needs_corpus = pytest.mark.skipif(
    not ROWS, reason=f"the recipe corpus is absent: set {ENVIRONMENT} to the folder that holds recipes/"
)


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
