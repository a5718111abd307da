"""Tokenizer sections, chat templates and mixtures of experts: what they mean, and what is said of wrong ones."""

from __future__ import annotations

import numpy as np
import pytest
from recipe_cases import EXPERTS

from files import write_model
from stockpot.cli.main import main
from stockpot.errors import RecipeError, UnsupportedError
from stockpot.expression import Leaf
from stockpot.recipe.parse import parse_recipe
from stockpot.tokens import Retokenized

BASED = "merge_method: linear\nbase_model: a\nmodels: [{model: a}, {model: b}]\n"


def decided(section: str, recipe: str = BASED) -> Retokenized:
    """The node that ``section`` gives."""
    node = parse_recipe(recipe + section).expression
    assert isinstance(node, Retokenized)
    return node


@pytest.mark.parametrize(
    ("section", "source"),
    [
        ("tokenizer_source: union", "union"),
        ("tokenizer_source: base", "base"),
        ("tokenizer: {source: union}", "union"),
        ("tokenizer: {source: base}", "base"),
        ("tokenizer: {}", "union"),
        ("tokenizer: {pad_to_multiple_of: 8}", "union"),
    ],
)
def test_union_and_base(section: str, source: str) -> None:
    """An empty section means the union, as it does for mergekit."""
    node = decided(section)
    assert node.source == source
    assert isinstance(node.base, Leaf)
    assert node.base.reference == "a"


@pytest.mark.parametrize("section", ["tokenizer_source: b", "tokenizer: {source: b}", "tokenizer_source: ./b/"])
def test_a_model_gives_its_tokenizer(section: str) -> None:
    """By the same name, or another spelling of it, it is the model that is merged."""
    node = decided(section)
    assert isinstance(node.source, Leaf)
    assert node.source.reference == "b"


@pytest.mark.parametrize("section", ["tokenizer:", "tokenizer_source:", ""])
def test_an_empty_key_says_nothing(section: str) -> None:
    """YAML's null leaves the vocabularies alone."""
    assert not isinstance(parse_recipe(BASED + section).expression, Retokenized)


def test_every_kind_of_source_of_a_token() -> None:
    """A model, another token by text or number, zeros; forced or not."""
    node = decided("""
tokenizer:
  source: union
  tokens:
    <a>: {source: b}
    <b>: {source: {kind: model_token, model: b, token: y}, force: true}
    <c>: {source: {kind: model_token, model: c, token_id: 7}}
    <d>: {source: {kind: zero}, force: true}
  pad_to_multiple_of: 64
""")
    found = {
        text: (t.model.reference if isinstance(t.model, Leaf) else t.model, t.token, t.force, t.line)
        for text, t in node.tokens.items()
    }
    assert found == {
        "<a>": ("b", None, False, 8),
        "<b>": ("b", "y", True, 9),
        "<c>": ("c", 7, False, 10),
        "<d>": (None, None, True, 11),
    }
    assert node.pad_to_multiple_of == 64


@pytest.mark.parametrize(
    ("section", "message", "line"),
    [
        ("tokenizer_source: base\ntokenizer: {}", "both given", 4),
        ("tokenizer: {tokens: {x: {force: true}}}", "no source", 4),
        ("tokenizer:\n  tokens:\n    x: {source: {kind: model_token, model: a}}", "names no token", 6),
        ("tokenizer: {tokens: {x: {source: {kind: model_token, token: y}}}}", "names no token", 4),
        ("tokenizer: {pad_to_multiple_of: 0}", "a whole number from 1", 4),
        ("tokenizer: {source: {merge_method: linear, models: [{model: a}]}}", "not the name of a model", 4),
        ("tokenizer: {tokens: {x: {source: {kind: mean}}}}", "one of model_token, zero", 4),
        ("chat_template: llama2", "unknown chat template", 4),
    ],
)
def test_wrong_sections(section: str, message: str, line: int) -> None:
    """Each is told with its line."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(BASED + section)
    assert [p.line for p in caught.value.problems if message in p.message] == [line]


def test_sections_of_every_document_count() -> None:
    """A document has a vocabulary of its own, which its result brings into the documents that use it."""
    text = "name: x\ntokenizer_source: union\n" + BASED + "---\nmerge_method: linear\nmodels: [{model: x}]"
    inner = parse_recipe(text).expression
    while not isinstance(inner, Retokenized):
        inner = inner.children[0]
    assert inner.source == "union"


@pytest.mark.parametrize("template", ["auto", "chatml", "{% for m in messages %}{{ m }}{% endfor %}"])
def test_chat_templates_are_kept_as_written(template: str) -> None:
    """What they are is decided when the models are known."""
    assert parse_recipe(BASED + f"chat_template: '{template}'").chat_template == template


def test_mixtures_of_experts_are_recognised() -> None:
    """All their keys are known; the only thing to say is that they are not yet supported."""
    with pytest.raises(UnsupportedError) as caught:
        parse_recipe(EXPERTS)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("section", "meant"),
    [
        ("tokenizer_source: unoin", "union"),
        ("tokenizer: {source: unions}", "union"),
        ("tokenizer_source: bse", "base"),
        ("tokenizer_source: union", None),
        ("tokenizer_source: other", None),
        ("tokenizer_source: bases  # a model\nname: bases", None),
    ],
    ids=["swapped", "section", "base", "right", "a model", "named elsewhere"],
)
def test_a_misspelt_source(section: str, meant: str | None) -> None:
    """It may be a model: a note that says what was probably meant, on its line; the recipe is read as it stands."""
    notes = parse_recipe(BASED + section).notes
    assert [(note.line, note.fix) for note in notes] == ([(4, f"did you mean {meant}?")] if meant else [])


def test_a_misspelt_source_that_is_no_model(tmp_path, monkeypatch, capsys) -> None:
    """The error that it cannot be found says what was probably meant."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_model(tmp_path / "a", {"w": np.ones(2, np.float32)})
    (tmp_path / "r.yml").write_text("merge_method: linear\nmodels: [{model: a}]\ntokenizer_source: unoin\n")
    assert main(["plan", "r.yml"]) == 4
    assert "fix: did you mean union?; " in capsys.readouterr().err
