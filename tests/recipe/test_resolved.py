"""The resolved recipe: plain data, defaults made explicit, and again a recipe with the same meaning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from recipe_cases import TEXTS

from stockpot.errors import StockpotError
from stockpot.methods.registry import METHODS
from stockpot.recipe.parse import parse_recipe


@pytest.mark.parametrize("name", TEXTS)
def test_the_resolved_recipe_is_a_recipe(name: str) -> None:
    """Written as YAML it means the same, and resolves to itself."""
    recipe = parse_recipe(TEXTS[name])
    again_text = yaml.safe_dump_all(recipe.resolved["documents"])
    again = parse_recipe(again_text)
    assert again.resolved == recipe.resolved
    assert again.dtype == recipe.dtype
    assert again.seed == recipe.seed
    assert len(again.unsupported) == len(recipe.unsupported)


@pytest.mark.parametrize("name", TEXTS)
def test_it_is_json(name: str) -> None:
    """It survives JSON unchanged."""
    resolved = parse_recipe(TEXTS[name]).resolved
    assert json.loads(json.dumps(resolved)) == resolved


def test_defaults_are_explicit() -> None:
    """Every parameter that has a default has a value for every tensor."""
    document = parse_recipe(TEXTS["ties"]).resolved["documents"][-1]
    assert document["parameters"] == {
        "lambda": [{"filter": "attn", "value": 2.0}, {"value": 1.0}],
        "int8_mask": True,
        "epsilon": 0.1,
        "weight": 1.0,
        "density": 1.0,
        "normalize": True,
        "rescale": False,
        "scope": "tensor",
    }
    assert document["seed"] == 5
    assert document["models"][1]["parameters"]["weight"] == [
        {"filter": "mlp", "value": [0.0, 1.0]},
        {"value": 0.3},
    ]


def test_the_seed_of_the_caller_is_kept() -> None:
    """A receipt must be able to repeat the merge."""
    document = parse_recipe(TEXTS["documents"], seed=9).resolved["documents"][-1]
    assert document["seed"] == 9


def test_defaults_come_from_the_registry() -> None:
    """For every method whose parameters all have defaults."""
    for method in METHODS.values():
        text = f"merge_method: {method.name}\nbase_model: B\nmodels: [{{model: a}}, {{model: b}}]\n"
        try:
            resolved = parse_recipe(text).resolved
        except StockpotError:
            continue
        for parameter in method.parameters:
            assert resolved["documents"][0]["parameters"][parameter.name] == parameter.default


def test_documents_used_twice_are_written_once() -> None:
    """Names stay names, so the data does not grow with each use."""
    text = "".join(
        f"name: d{i}\nmerge_method: linear\nmodels: [{{model: d{i - 1}}}, {{model: m{i}}}]\n---\n" for i in range(8)
    )
    resolved = parse_recipe(text).resolved
    assert len(resolved["documents"]) == 8
    assert resolved["documents"][-1]["models"][0]["model"] == "d6"


def test_paths_stay_relative() -> None:
    """What was written is kept; where it was is the receipt's to say."""
    recipe = parse_recipe(TEXTS["ties"], folder=str(Path("somewhere")))
    assert recipe.resolved["documents"][-1]["base_model"] == "B"
