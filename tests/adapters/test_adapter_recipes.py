"""Recipes: model+adapter wherever a model may stand, streamed as if the folded model had been written before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from adapting import factors, write_adapter, write_base

import stockpot as sp
from files import write_model
from reference import same_bytes
from stockpot.expression import Adapted, Leaf, leaves
from stockpot.recipe.parse import parse_recipe
from stockpot.recipe.references import parted

MODULES = ("model.layers.0.q_proj", "model.layers.1.up_proj", "model.layers.1.q_proj")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """base, other, and on base the adapters one and two; folded-one and folded-two hold the same in float64."""
    rng = np.random.default_rng(11)
    base = write_base(tmp_path / "base", dtype=np.float64)
    write_base(tmp_path / "other", seed=4, dtype=np.float64)
    for name in ("one", "two"):
        parts = {k: v for m in MODULES for k, v in factors(rng, m, len(base[f"{m}.weight"]), 12).items()}
        write_adapter(tmp_path / name, parts)
        folded = sp.compute(sp.open(tmp_path / "base", adapter=tmp_path / name))
        write_model(tmp_path / f"folded-{name}", folded, config={"tie_word_embeddings": False})
    monkeypatch.chdir(tmp_path)
    return tmp_path


RECIPES = {
    "models": "merge_method: linear\nmodels: [{model: base+one, parameters: {weight: 0.3}}, {model: other}]",
    "base": "merge_method: task_arithmetic\nbase_model: base+one\nmodels: [{model: other}, {model: base+two}]",
    "ties": "merge_method: ties\nbase_model: base\nmodels: [{model: base+one}, {model: base+two}, {model: other}]\n"
    "parameters: {density: 0.5, weight: 0.7}",
    "slices": "merge_method: passthrough\nslices:\n"
    "- sources: [{model: base+one, layer_range: [0, 2]}]\n- sources: [{model: base+two, layer_range: [1, 2]}]",
    "layers": "merge_method: slerp\nbase_model: base\nparameters: {t: 0.4}\n"
    "slices: [{sources: [{model: base, layer_range: [0, 1]}, {model: base+two, layer_range: [1, 2]}]}]",
    "nested": "merge_method: linear\nmodels:\n- model: base\n- model:\n    merge_method: slerp\n"
    "    base_model: base+one\n    parameters: {t: 0.2}\n    models: [{model: other}]",
    "matrices": "merge_method: tsv_m\nbase_model: base\nmodels: [{model: base+one}, {model: base+two}]",
    "rounded": "merge_method: linear\nmodels: [{model: base+one}, {model: other}]\ndtype: bfloat16",
    "model": "merge_method: ties\nbase_model: base\nmodels: [{model: base+one}, {model: base+two}]\n"
    "parameters: {density: 0.4, scope: model}",
}


@pytest.mark.parametrize("name", RECIPES)
def test_as_if_the_folded_models_had_been_written(place, name):
    """Every method, in every place, gives the bytes of a merge of the folded models (which float64 holds exactly)."""
    text = RECIPES[name]
    plain = text.replace("base+one", "folded-one").replace("base+two", "folded-two")
    assert "+" in text
    assert "+" not in plain
    one, other = (sp.compute(parse_recipe(t, folder=str(place))) for t in (text, plain))
    assert same_bytes(one, other)


def test_random_numbers_are_keyed_by_the_whole_word(place):
    """Two adapters on one base draw different masks; the same word draws the same."""
    text = "merge_method: dare_linear\nbase_model: base\nmodels: [{{model: {}}}]\nparameters: {{density: 0.5}}"
    made = [sp.compute(parse_recipe(text.format(w), folder=str(place))) for w in ("base+one", "base+one", "base+./one")]
    assert same_bytes(made[0], made[1])
    assert not same_bytes(made[0], made[2])


@pytest.mark.parametrize(
    "written",
    [
        "base+one",
        "{model: base, lora: one}",
        "{model: {path: base}, lora: one}",
        "{model: {path: base}, lora: {path: one}}",
    ],
)
def test_every_form_is_the_same_model(place, written):
    """One word, or a mapping as mergekit writes it."""
    recipe = parse_recipe(f"merge_method: linear\nmodels:\n- model: {written}\n", folder=str(place))
    assert [(leaf.reference, leaf.adapter) for leaf in leaves(recipe.expression)] == [("base", False), ("one", True)]
    beside = parse_recipe("merge_method: linear\nmodels:\n- {model: base, lora: one}\n", folder=str(place))
    assert same_bytes(sp.compute(recipe), sp.compute(beside))


def test_revisions_on_both_sides():
    """Hub ids keep their revisions, wherever they are written."""
    forms = ["org/m@v1+org/a@v2", "{model: {path: org/m, revision: v1}, lora: {path: org/a, revision: v2}}"]
    for form in forms:
        recipe = parse_recipe(f"merge_method: linear\nmodels:\n- model: {form}\n")
        assert [leaf.reference for leaf in leaves(recipe.expression)] == ["org/m@v1", "org/a@v2"]
        assert recipe.donor is not None
        assert recipe.donor.reference == "org/m@v1"


def test_paths_with_a_plus(tmp_path):
    """A path that exists is a path; of several +, the one with something on both sides parts them."""
    for name in ("a+b", "c", "d+e"):
        (tmp_path / name).mkdir()
    found = {w: parted(w, str(tmp_path)) for w in ("a+b", "c+d+e", "a+b+c", "a+x", "x+y+z", "a+b+x", "+c", "c+")}
    assert found == {
        "a+b": ("a+b", None),
        "c+d+e": ("c", "d+e"),
        "a+b+c": ("a+b", "c"),
        "a+x": ("a", "x"),
        "x+y+z": None,
        "a+b+x": None,
        "+c": ("+c", None),
        "c+": ("c", None),
    }


def test_a_model_in_a_folder_with_a_plus(place):
    """It merges as before adapters were known."""
    (place / "other").rename(place / "o+ther")
    found = sp.compute(parse_recipe("merge_method: linear\nmodels: [{model: o+ther}]", folder=str(place)))
    assert len(found) > 0


def test_an_adapter_on_a_document(place):
    """The model may be the name of another document of the recipe."""
    text = "name: first\nmerge_method: linear\nmodels: [{model: base}, {model: other}]\n---\n"
    recipe = parse_recipe(text + "merge_method: passthrough\nmodels: [{model: first+one}]", folder=str(place))
    found = sp.compute(recipe)
    mean = 0.5 * sp.open(place / "base") + 0.5 * sp.open(place / "other")
    expected = sp.compute(Adapted(mean, Leaf(str(place / "one"), adapter=True)))
    assert same_bytes(found, expected)
    assert recipe.donor is not None
    assert recipe.donor.reference == "base"


def test_what_is_written_down_says_the_same(place):
    """The resolved recipe parses to the same merge."""
    text = RECIPES["ties"] + "\nseed: 3\n"
    recipe = parse_recipe(text, folder=str(place))
    again = parse_recipe(yaml.safe_dump_all(recipe.resolved["documents"]), folder=str(place))
    assert again.resolved == recipe.resolved
    assert same_bytes(sp.compute(recipe), sp.compute(again))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("{model: a+b, lora: c}", None),
        ("a+b+c", "more than one +"),
        ("{model: a, lora: {merge_method: linear, models: [{model: x}]}}", "lora is not the name of one adapter"),
        ("{model: a, lora: b+c}", "lora is not the name of one adapter"),
    ],
)
def test_adapters_that_are_none(model, says):
    """More than one adapter, or a merge as one, is an error with its line; no part of it is left out."""
    text = f"merge_method: linear\nmodels:\n- model: {model}\n"
    if says is None:
        assert [leaf.reference for leaf in leaves(parse_recipe(text).expression)] == ["a+b", "c"]
        return
    with pytest.raises(sp.RecipeError, match=says.replace("+", r"\+")) as caught:
        parse_recipe(text)
    assert caught.value.problems[0].line == 3


def test_adapters_beside_what_cannot_have_them():
    """Two adapters on one model, or one beside a merge in place, are errors."""
    for text, says in (
        ("- {model: a+b, lora: c}", "two adapters"),
        ("- {model: {merge_method: linear, models: [{model: x}]}, lora: c}", "an adapter beside a merge"),
    ):
        with pytest.raises(sp.RecipeError, match=says):
            parse_recipe(f"merge_method: linear\nmodels:\n{text}\n")


def test_one_model_twice_with_two_adapters_is_two_models(place):
    """They may stand in one merge; the same word twice may not."""
    parse_recipe("merge_method: linear\nmodels: [{model: base+one}, {model: base+two}, {model: base}]")
    with pytest.raises(sp.RecipeError, match=r"base\+one is given twice"):
        parse_recipe("merge_method: linear\nmodels: [{model: base+one}, {model: base, lora: one}]")
    assert Path("base").is_dir()
