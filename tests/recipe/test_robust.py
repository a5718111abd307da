"""Whatever the text, parsing ends soon, with a recipe or a StockpotError."""

from __future__ import annotations

import json
import time

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from recipe_cases import CASES, TEXTS

from stockpot.errors import StockpotError
from stockpot.recipe.keys import PLACES
from stockpot.recipe.known import known_parameters, method_names
from stockpot.recipe.model import Recipe
from stockpot.recipe.parse import parse_recipe
from stockpot.recipe.schema import json_schema

RELAXED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
VALIDATOR = Draft202012Validator(json_schema())
SEEDS = [*TEXTS.values(), *(case[0] for case in CASES.values())]


def outcome(text: str) -> Recipe | None:
    """The recipe, or None for an error; anything else than StockpotError escapes."""
    try:
        recipe = parse_recipe(text)
    except StockpotError:
        return None
    assert json.loads(json.dumps(recipe.resolved)) == recipe.resolved
    return recipe


@RELAXED
@given(st.text())
def test_any_text(text: str) -> None:
    """Text of any characters."""
    outcome(text)


@RELAXED
@given(st.text(alphabet="{}[]:,-&*!|>'\"%@`#?<~=\n\t ab01"))
def test_any_punctuation(text: str) -> None:
    """Text of YAML's own characters."""
    outcome(text)


@RELAXED
@given(st.sampled_from(SEEDS), st.data())
def test_damaged_recipes(text: str, data: st.DataObject) -> None:
    """Recipes with a piece cut out, doubled or replaced."""
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 40)))
    piece = data.draw(st.sampled_from(["", text[start:stop] * 2, "\n---\n", "*x", "&x ", "0", "[", "~", "é\u2028"]))
    outcome(text[:start] + piece + text[stop:])


KEYS = sorted({key.name for place in PLACES.values() for key in place.keys} | {"weight", "t", "B"})
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.sampled_from([*method_names(), *known_parameters(), "a", "a+b", "bfloat16", "base", "mergekit", ""])
)
TREES = st.recursive(
    LEAVES,
    lambda node: st.lists(node, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | LEAVES, node, max_size=5),
    max_leaves=25,
)


@RELAXED
@given(st.dictionaries(st.sampled_from(KEYS), TREES, max_size=6))
def test_known_keys_with_any_values(data: dict[str, object]) -> None:
    """Every key with values of every type, keys of every type."""
    outcome(yaml.safe_dump({"merge_method": "ties", **data}))


PARAMETERS = st.dictionaries(st.sampled_from(["weight", "density", "t", "lambda", "epsilon"]), TREES, max_size=3)
MODELS = st.lists(
    st.fixed_dictionaries(
        {"model": st.sampled_from(["a", "b", "c", "B"])},
        optional={"parameters": PARAMETERS, "layer_range": st.lists(st.integers(-1, 4), max_size=3)},
    ),
    max_size=4,
)


@RELAXED
@given(
    st.fixed_dictionaries(
        {"merge_method": st.sampled_from(method_names())},
        optional={
            "base_model": st.sampled_from(["B", "a", {"merge_method": "linear", "models": [{"model": "a"}]}]),
            "models": MODELS,
            "slices": st.lists(st.fixed_dictionaries({"sources": MODELS}), max_size=3),
            "parameters": PARAMETERS,
            "compat": st.sampled_from(["mergekit", "none"]),
        },
    )
)
def test_nearly_right_recipes(data: dict[str, object]) -> None:
    """Every method with any models, ranges and parameters.

    What parses fits the JSON Schema, and resolves to a recipe that resolves to itself.
    """
    recipe = outcome(yaml.safe_dump(data))
    if recipe is not None:
        VALIDATOR.validate(data)
        again = parse_recipe(yaml.safe_dump_all(recipe.resolved["documents"]))
        assert again.resolved == recipe.resolved


def nested(levels: int) -> str:
    """A merge within a merge within a merge."""
    return "{merge_method: linear, models: [{model: " * levels + "a" + "}]}" * levels


def chain(length: int) -> str:
    """Documents that each build on the one before."""
    return "\n---\n".join(
        f"name: d{i}\nmerge_method: linear\nmodels: [{{model: d{i - 1}}}, {{model: m{i}}}]" for i in range(length)
    )


@pytest.mark.parametrize(
    "text",
    [
        nested(5),
        nested(25),
        nested(2000),
        chain(10),
        chain(49),
        chain(300),
        "\n---\n".join(reversed(chain(300).split("\n---\n"))),
        "[" * 50_000,
        "a: &a [x" + ", x" * 1000 + "]\nb: &b [*a" + ", *a" * 1000 + "]",
        "merge_method: linear\nmodels:\n"
        "  - model: &m {merge_method: linear, models: [{model: a}]}\n" + "  - model: *m\n" * 500,
        "merge_method: linear\nmodels: [" + "{model: a}, " * 20_000 + "]",
        "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: " + "9" * 100_000 + "}",
        "merge_method: linear\nmodels: [{model: a}]\nseed: " + "9" * 100_000,
        "merge_method: linear\nmodels: [{model: a}]\n1: 2\n~: 3\n2024-01-01: 4\n? x\n: y\n",
        "merge_method: " + "x" * 500_000 + "\nmodels: [{model: a}]",
        "x" * 999_999 + ": 1",
    ],
    ids=lambda text: f"{len(text)} characters",
)
def test_extremes_end_soon(text: str) -> None:
    """Deep, long, wide and huge recipes are read or refused in seconds."""
    start = time.monotonic()
    outcome(text)
    assert time.monotonic() - start < 20.0
