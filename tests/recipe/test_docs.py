"""The page about recipes is true: its examples parse, and it names every key."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml

import stockpot as sp
from files import write_model
from stockpot.recipe.keys import PLACES
from stockpot.recipe.parse import parse_recipe
from stockpot.recipe.schema import json_schema

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "recipes.md").read_text("utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split("\n", 1)[0])
def test_examples_parse(text: str, tmp_path: Path) -> None:
    """Without problems, notes or missing features, and they fit the schema; the method file is the page's own."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_methods.py").write_text(code)
    recipe = parse_recipe(text, folder=str(tmp_path), allow_code=True)
    assert (recipe.notes, recipe.unsupported) == ((), ())
    for document in yaml.safe_load_all(text):
        jsonschema.validate(document, json_schema())


def test_an_analogy_is_what_it_says(tmp_path: Path) -> None:
    """The page's recipe of an analogy computes c + lambda (b - a) around the base, and negation takes away."""
    rng = np.random.default_rng(0)
    models = {
        n: rng.normal(size=5) for n in ("base", "books-texts", "films-sentiment", "films-texts", "toxic-finetune")
    }
    for name, array in models.items():
        write_model(tmp_path / "org" / name, {"w": array})
    texts = {
        "analogy": next(t for t in EXAMPLES if "films-texts" in t),
        "negation": next(t for t in EXAMPLES if "toxic" in t),
    }
    found = {name: sp.compute(parse_recipe(text, folder=str(tmp_path)))["w"] for name, text in texts.items()}
    base, books, films, plain, toxic = models.values()
    assert np.allclose(found["analogy"], base + 0.8 * (books - base + films - plain), rtol=1e-14)
    assert np.allclose(found["negation"], base - 0.5 * (toxic - base), rtol=1e-14)


@pytest.mark.parametrize(
    "place", ["recipe", "merge", "module", "slice", "source", "entry", "reference", "path", "case", "method_file"]
)
def test_every_key_is_named(place: str) -> None:
    """In code spans or examples."""
    for key in PLACES[place].keys:
        assert re.search(rf"\b{key.name}\b", PAGE), key.name


def test_there_are_examples() -> None:
    """The page has not lost them."""
    assert len(EXAMPLES) >= 17
