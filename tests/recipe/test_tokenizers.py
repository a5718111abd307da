"""Tokenizers, chat templates and mixtures of experts: checked in shape, named when they are missing."""

from __future__ import annotations

import pytest
from recipe_cases import EXPERTS

from stockpot.errors import UnsupportedError
from stockpot.recipe.parse import parse_recipe

BASED = "merge_method: linear\nbase_model: a\nmodels: [{model: a}, {model: b}]\n"


@pytest.mark.parametrize(
    "section",
    [
        "tokenizer_source: base",
        "tokenizer_source: a",
        "tokenizer: {source: base}",
        "tokenizer:",
        "tokenizer_source: ./a/",
    ],
)
def test_the_tokenizer_of_the_base_is_what_happens_anyway(section: str) -> None:
    """Nothing is missing."""
    assert parse_recipe(BASED + section).unsupported == ()


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("tokenizer_source: union", "tokenizer_source: union"),
        ("tokenizer_source: b", "tokenizer_source: b"),
        ("tokenizer: {source: union}", "tokenizer source: union"),
        ("tokenizer: {}", "source: union"),
        ("tokenizer: {source: base, pad_to_multiple_of: 64}", "pad_to_multiple_of"),
        ("tokenizer: {source: base, tokens: {x: {source: a, force: true}}}", "tokenizer tokens"),
        (
            "tokenizer:\n  source: base\n  tokens:\n    <x>:\n      source:\n"
            "        {kind: model_token, model: b, token: y}",
            "tokenizer tokens",
        ),
        ("chat_template: auto", "chat_template"),
        ("chat_template: '{% for m in messages %}{{ m }}{% endfor %}'", "chat_template"),
    ],
)
def test_what_is_missing_is_told_beside_the_expression(section: str, name: str) -> None:
    """The rest of the recipe is parsed and checked, so that ``check`` can show both."""
    recipe = parse_recipe(BASED + section)
    assert [name in p.message and "not yet supported" in p.message for p in recipe.unsupported] == [True]
    assert (recipe.unsupported[0].line or 0) >= 4
    assert recipe.expression.children


def test_the_first_model_gives_its_tokenizer_without_a_base() -> None:
    """Its name is as good as ``base``; another model's is not."""
    text = "merge_method: linear\nmodels: [{model: a@r}, {model: b}]\ntokenizer_source: "
    assert parse_recipe(text + "a@r").unsupported == ()
    assert parse_recipe(text + "b").unsupported != ()


def test_sections_of_every_document_count() -> None:
    """A tokenizer section of a document that is only used by others is not lost."""
    text = "name: x\ntokenizer_source: union\n" + BASED + "---\nmerge_method: linear\nmodels: [{model: x}]"
    assert [p.line for p in parse_recipe(text).unsupported] == [2]


def test_mixtures_of_experts_are_recognised() -> None:
    """All their keys are known; the only thing to say is that they are not yet supported."""
    with pytest.raises(UnsupportedError) as caught:
        parse_recipe(EXPERTS)
    assert len(caught.value.problems) == 1
