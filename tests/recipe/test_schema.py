"""The JSON Schema agrees with the parser, so that editors complete and check recipes."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml
from recipe_cases import CASES, EXPERTS, TEXTS

from stockpot.methods.registry import METHODS
from stockpot.recipe.keys import PLACES
from stockpot.recipe.parse import parse_recipe
from stockpot.recipe.schema import json_schema

VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def valid(text: str) -> bool:
    """Whether every document of ``text`` fits the schema."""
    return all(VALIDATOR.is_valid(document) for document in yaml.safe_load_all(text) if document)


def test_the_schema_is_a_schema() -> None:
    """Draft 2020-12, plain JSON."""
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json.loads(json.dumps(json_schema())) == json_schema()


def test_everything_is_described() -> None:
    """Every key, method and parameter carries its line of documentation."""
    schema = json_schema()["$defs"]
    for name, place in PLACES.items():
        assert all(schema[name]["properties"][key.name]["description"] for key in place.keys)
    methods = schema["form_method"]
    assert len(methods["enum"]) == len(methods["enumDescriptions"])
    assert {*METHODS, "average", "sce"} <= set(methods["enum"])
    properties = schema["form_parameters"]["properties"]
    for method in METHODS.values():
        assert {p.name for p in method.parameters} <= properties.keys()
    assert properties["density"]["anyOf"][0]["maximum"] == 1.0


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_parameters_are_described_for_each_method(method) -> None:
    """Where methods mean different things by one name, each method's own line stands in the description."""
    properties = json_schema()["$defs"]["form_parameters"]["properties"]
    for p in method.parameters:
        lines = properties[p.name]["description"].split("\n")
        owners = [line.removesuffix(f": {p.doc}").split(", ") for line in lines if line.endswith(f": {p.doc}")]
        assert lines == [p.doc] or [method.name in names for names in owners] == [True]
    for c in method.companions:
        assert properties[c.name]["description"] == f"{method.name}: {c.doc}"


@pytest.mark.parametrize("text", [*TEXTS.values(), EXPERTS])
def test_good_recipes_fit(text: str) -> None:
    """Gradients, filters, slices, modules, documents, nested merges, experts."""
    for document in yaml.safe_load_all(text):
        VALIDATOR.validate(document)


@pytest.mark.parametrize("text", [*TEXTS.values()])
def test_resolved_recipes_fit(text: str) -> None:
    """What a receipt holds is a recipe for editors too."""
    for document in parse_recipe(text).resolved["documents"]:
        VALIDATOR.validate(document)


BEYOND_THE_SCHEMA = frozenset(
    {
        "empty",
        "a list",
        "blank model",
        "empty path",
        "base is a third model",
        "no base",
        "no base for slerp",
        "three models for slerp",
        "only the base",
        "required parameter",
        "given twice",
        "base given twice",
        "lengths of a slice",
        "a slice without its base",
        "empty range",
        "variant",
        "two seeds",
        "two unnamed documents",
        "two documents of one name",
        "a circle",
        "two pluses",
        "tokenizer twice",
        "infinite",
        "infinite lambda",
        "a time",
        "large seed",
        "a huge number",
    }
)
"""Mistakes that need a method, several places or several documents to be seen."""


@pytest.mark.parametrize("name", sorted(CASES.keys() - BEYOND_THE_SCHEMA))
def test_bad_recipes_do_not_fit(name: str) -> None:
    """Unknown keys, wrong shapes, ranges and words are seen in the editor."""
    assert not valid(CASES[name][0])


@pytest.mark.parametrize("key", ["merge_methiod", "modles", "dtpye", "weight"])
def test_a_misspelled_key_does_not_fit(key: str) -> None:
    """In any recipe."""
    for text in TEXTS.values():
        first = next(iter(yaml.safe_load_all(text)))
        assert not VALIDATOR.is_valid({**first, key: 1})
