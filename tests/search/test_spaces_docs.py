"""What docs/search.md says of spaces is true: its recipes are spaces, its tables are complete."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml

from files import write_model
from stockpot.recipe.holes import FORMS
from stockpot.recipe.schema import json_schema
from stockpot.search.spaces.space import Space

PAGE = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
SECTION = PAGE.split("\n## What is searched\n")[1].split("\n## ")[0]
EXAMPLES = re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The models of the page: 32 layers of next to nothing."""
    found = tmp_path_factory.mktemp("models")
    names = [f"model.layers.{i}.{piece}.weight" for i in range(32) for piece in ("self_attn.q_proj", "mlp.up_proj")]
    for name in ("base", "math", "code"):
        write_model(found / "org" / name, {n: np.zeros(2, np.float32) for n in names}, config={"num_hidden_layers": 32})
    return found


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_recipes_of_the_page_are_spaces(number, folder):
    """They fit the schema, and their start is a recipe without problems or notes."""
    space = Space.of(EXAMPLES[number], folder=str(folder))
    assert space.recipe(space.start()).notes == ()
    jsonschema.validate(yaml.safe_load(EXAMPLES[number]), json_schema(search=True))


def test_numbers_of_the_page(folder):
    """The genome has as many numbers as it says, under the names that it says."""
    text = next(t for t in EXAMPLES if "groups" in t)
    names = [d.name for d in Space.of(text, folder=str(folder)).dimensions]
    assert len(names) == int(re.search(r"These are (\d+) numbers", SECTION)[1]) == 16
    assert names[0] == "models[0].weight[self_attn, layers 0-7]"


def test_tables_are_complete():
    """Every form and every key has its row."""
    rows = re.findall(r"^\| `([^`]*)`", SECTION, re.MULTILINE)
    keys = {key.name for form in FORMS.values() for key in form.keys if not key.required}
    assert {row for row in rows if "{" not in row} == keys | {"search: layers"}
    assert [row.strip("{").split(":")[0] for row in rows if "{" in row] == list(FORMS)


def test_python_of_the_page(capsys):
    """It runs as it stands."""
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    exec(code, {})
    shown = capsys.readouterr().out
    assert shown.startswith("['models[0].weight', 'models[1].weight']\n")
    assert "{model: org/math, parameters: {weight: 0.25}}" in shown
