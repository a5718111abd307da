"""Recipes with several modules: what they mean, and what is told of mistakes in any of them."""

from __future__ import annotations

import json

import pytest

from stockpot.arrangements import Assembled, Layers, Stack
from stockpot.errors import RecipeError
from stockpot.expression import Apply, Leaf
from stockpot.provenance.expressions import as_records
from stockpot.recipe.parse import parse_recipe

RECIPE = """
merge_method: linear
base_model: base
parameters: {weight: 4}
modules:
  text_decoder:
    parameters: {weight: 3}
    slices:
      - sources:
          - {model: a, layer_range: [0, 2]}
          - {model: b, layer_range: [1, 3], parameters: {weight: 1}}
  vision_tower:
    models: [{model: a}, {model: c}]
seed: 7
"""


def test_each_module_is_an_expression_and_the_rest_is_the_bases():
    """Modules in order, layers of their module; what belongs to none is the base's."""
    recipe = parse_recipe(RECIPE)
    found = recipe.expression
    assert isinstance(found, Assembled)
    (one, text), (two, vision) = found.parts
    assert (one, two, recipe.seed) == ("text_decoder", "vision_tower", 7)
    assert isinstance(text, Stack)
    assert isinstance(vision, Apply)
    layers = text.parts[0].children
    assert all(isinstance(node, Layers) and node.module == "text_decoder" for node in layers)
    assert isinstance(found.rest, Leaf)
    assert (found.rest.reference, recipe.donor.reference) == ("base", "base")


def test_without_a_base_the_rest_is_the_first_models():
    """The first model of the first module."""
    recipe = parse_recipe(RECIPE.replace("base_model: base\n", ""))
    assert (recipe.expression.rest.reference, recipe.donor.reference) == ("a", "a")


def test_parameters_of_source_module_and_recipe():
    """The nearest counts: source, module, recipe."""
    (_, text), (_, vision) = parse_recipe(RECIPE).expression.parts

    def weights(apply):
        return [(*own.get("weight", ()), *apply.one["weight"])[0].values()[0] for own in apply.each]

    assert weights(text.parts[0]) == [3, 1]
    assert weights(vision) == [4, 4]


def test_written_out_it_means_the_same():
    """The resolved recipe parses to the same expression, defaults apart."""
    first = parse_recipe(RECIPE)
    (document,) = first.resolved["documents"]
    again = parse_recipe(json.dumps(document))
    assert again.resolved == first.resolved

    def records(recipe):
        return [
            {k: v for k, v in node.items() if k not in ("line", "one")}
            for node in as_records(recipe.expression, lambda leaf: leaf.reference)
        ]

    assert records(again) == records(first)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("models: [{model: a}, {model: c}]", "parameters: {weight: 1}", "a module has either models or slices"),
        ("models: [{model: a}, {model: c}]", "models: [{model: a, wieght: 1}]", "wieght"),
        ("weight: 1}}", "wieght: 1}}", "unknown parameter 'wieght'"),
        ("layer_range: [1, 3]", "layer_range: [1, 4]", "2 and 3 layers"),
        ("models: [{model: a}, {model: c}]", "models: [{model: a}, {model: a}]", "given twice"),
    ],
    ids=["neither", "key", "parameter", "lengths", "twice"],
)
def test_mistakes_in_any_module_are_told(old, new, message):
    """Each with its line, as at the top."""
    assert old in RECIPE
    with pytest.raises(RecipeError, match=message) as told:
        parse_recipe(RECIPE.replace(old, new))
    assert all(problem.line is not None for problem in told.value.problems)


def test_a_document_of_modules_is_used_by_another():
    """By its name, and rounded to its dtype as any document is."""
    text = (
        f"name: mixed\ndtype: bfloat16\n{RECIPE}\n---\nmerge_method: slerp\nbase_model: mixed\nmodels: [{{model: d}}]\n"
    )
    recipe = parse_recipe(text + "parameters: {t: 0.5}\n")
    assert isinstance(recipe.expression.inputs[0].of, Assembled)
    assert recipe.donor.reference == "base"
