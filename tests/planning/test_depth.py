"""Gradients over depth, filters by name, and which of several values counts."""

from __future__ import annotations

import numpy as np
import pytest

import stockpot as sp
from files import write_model
from stockpot.recipe.parse import parse_recipe

LAYERS = 5
NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{part}" for i in range(LAYERS) for part in ("self_attn.w", "mlp.w")),
    "model.norm.weight",
    "lm_head.weight",
]


def arrays(names=NAMES):
    return {n: np.ones(2, np.float32) for n in names}


def opened(names=NAMES, count=2):
    return [sp.open(arrays(names), name=f"m{i}") for i in range(count)]


def resolved(plan, parameter):
    """Tensor name → the parameter's value in a plan."""
    return {s.name: s.source.resolved[parameter] for s in plan.steps}


def interpolated(values, share):
    """Piecewise linear over [0, 1], by NumPy."""
    return float(np.interp(share, np.linspace(0, 1, len(values)), values))


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 0.5, 0.1], [1.0, 0.0, 0.25, 0.5, 0.75], [0.3], [0.2] * 7])
def test_a_gradient_is_piecewise_linear_over_depth(values):
    """The first entry is the first layer's, the last entry the last layer's; between them it is linear."""
    a, b = opened()
    found = resolved(sp.plan(sp.slerp(a, b, t=values)), "t")
    for i in range(LAYERS):
        for part in ("self_attn.w", "mlp.w"):
            assert found[f"model.layers.{i}.{part}"] == pytest.approx(interpolated(values, i / (LAYERS - 1)), abs=1e-12)


def test_embeddings_are_before_the_first_layer_and_the_head_after_the_last():
    """Embeddings take a gradient's first entry; final norm and head its last."""
    a, b = opened()
    found = resolved(sp.plan(sp.slerp(a, b, t=[0.2, 0.5, 0.9])), "t")
    assert found["model.embed_tokens.weight"] == 0.2
    assert found["model.norm.weight"] == 0.9
    assert found["lm_head.weight"] == 0.9


def test_compat_gives_the_head_the_first_entry():
    """mergekit evaluates everything outside the layers at the first entry; compat: mergekit does so too."""
    a, b = opened()
    found = resolved(sp.plan(sp.slerp(a, b, t=[0.2, 0.5, 0.9], compat="mergekit")), "t")
    outside = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    assert [found[n] for n in outside] == [0.2] * 3
    assert found[f"model.layers.{LAYERS - 1}.mlp.w"] == 0.9


def test_a_single_layer_takes_the_last_entry():
    """Depth of the only layer is 1, as in mergekit."""
    names = ["model.embed_tokens.weight", "model.layers.0.w", "lm_head.weight"]
    found = resolved(sp.plan(sp.slerp(*opened(names), t=[0.1, 0.8])), "t")
    assert list(found.values()) == [0.1, 0.8, 0.8]


@pytest.mark.parametrize(
    ("name", "early"),
    [
        ("transformer.wte.weight", True),
        ("transformer.wpe.weight", True),
        ("bert.embeddings.word_embeddings.weight", True),
        ("vit.embeddings.cls_token", True),
        ("visual.conv1.weight", True),
        ("transformer.ln_f.weight", False),
        ("gpt_neox.embed_in.weight", True),
        ("embed_out.weight", False),
        ("classifier.weight", False),
        ("pooler.dense.weight", False),
        ("0.weight", False),
    ],
)
def test_what_lies_before_the_layers_is_told_by_name(name, early):
    """Token, position and patch embeddings come first in any architecture; what is not known comes last."""
    names = [name, "h.0.w", "h.1.w"]
    found = resolved(sp.plan(sp.slerp(*opened(names), t=[0.0, 1.0])), "t")
    assert found[name] == (0.0 if early else 1.0)


def test_each_stack_has_a_depth_of_its_own():
    """Encoder and decoder of different lengths both run from 0 to 1."""
    names = [*(f"encoder.block.{i}.w" for i in range(3)), *(f"decoder.block.{i}.w" for i in range(5))]
    found = resolved(sp.plan(sp.slerp(*opened(names), t=[0.0, 1.0])), "t")
    assert [found[n] for n in names] == [0.0, 0.5, 1.0, 0.0, 0.25, 0.5, 0.75, 1.0]


def test_filters_take_the_first_entry_whose_text_occurs_in_the_name():
    """Entries count in order; one without a filter (or with *) takes the rest; a filter may hold a gradient."""
    a, b = opened()
    setting = [
        {"filter": "layers.0.mlp", "value": 0.9},
        {"filter": "mlp", "value": [0.0, 1.0]},
        {"filter": "embed", "value": 0.3},
        {"filter": "*", "value": 0.5},
        {"value": 0.7},
    ]
    found = resolved(sp.plan(sp.slerp(a, b, t=setting)), "t")
    assert found["model.layers.0.mlp.w"] == 0.9
    assert found["model.layers.1.mlp.w"] == pytest.approx(0.25)
    assert found["model.layers.4.mlp.w"] == 1.0
    assert found["model.layers.2.self_attn.w"] == 0.5
    assert found["model.embed_tokens.weight"] == 0.3
    assert found["lm_head.weight"] == 0.5


def test_a_required_parameter_without_a_match_is_an_error():
    """A tensor that no filter matches has no value of a required parameter: the tensor is named, with the fix."""
    a, b = opened()
    with pytest.raises(sp.PlanError) as caught:
        sp.plan(sp.slerp(a, b, t=[{"filter": "mlp", "value": 0.5}]))
    assert "model.embed_tokens.weight" in str(caught.value)
    assert "without a filter" in str(caught.value)


def test_an_optional_parameter_without_a_match_is_its_default():
    """A tensor that no filter matches has the declared default of any other parameter."""
    a, base = opened()
    plan = sp.plan(base + sp.ties(a - base, density=[[{"filter": "mlp", "value": 0.25}]]))
    found = resolved(plan, "density")
    assert found["model.layers.3.mlp.w"] == (0.25,)
    assert found["lm_head.weight"] == (1.0,)


def test_per_model_values_belong_to_their_models():
    """A list of settings gives each model its own, each of them a number, a gradient or filters."""
    a, b, base = opened(count=3)
    weight = [0.25, [0.0, 1.0]]
    found = resolved(sp.plan(base + sp.task_arithmetic(a - base, b - base, weight=weight)), "weight")
    assert found["model.layers.0.mlp.w"] == (0.25, 0.0)
    assert found["model.layers.2.mlp.w"] == (0.25, 0.5)
    assert found["model.layers.4.mlp.w"] == (0.25, 1.0)


def test_a_models_own_value_goes_before_the_common_one(tmp_path):
    """A value at a model counts over one for all; where its filters match nothing, the common one counts."""
    for name in ("a", "b", "base"):
        write_model(tmp_path / name, arrays())
    (tmp_path / "r.yml").write_text(
        "merge_method: task_arithmetic\nbase_model: base\nmodels:\n"
        "- model: a\n  parameters:\n    weight: [{filter: mlp, value: 0.3}]\n- model: b\n"
        "parameters:\n  weight: [{filter: embed, value: 0.1}, {value: 0.8}]\n"
    )
    found = resolved(sp.plan(tmp_path / "r.yml"), "weight")
    assert found["model.layers.1.mlp.w"] == (0.3, 0.8)
    assert found["model.layers.1.self_attn.w"] == (0.8, 0.8)
    assert found["model.embed_tokens.weight"] == (0.1, 0.1)


def test_lambda_may_be_a_gradient(tmp_path):
    """lambda of a recipe varies over depth and by name like any other parameter."""
    for name in ("a", "base"):
        write_model(tmp_path / name, arrays())
    (tmp_path / "r.yml").write_text(
        "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: a}]\n"
        "parameters:\n  lambda:\n  - {filter: self_attn, value: 0.5}\n  - {value: [0.0, 1.0]}\n"
    )
    plan = sp.plan(tmp_path / "r.yml")
    found = {s.name: s.source.scale for s in plan.steps}
    assert found["model.layers.1.self_attn.w"] == 0.5
    assert found["model.layers.1.mlp.w"] == 0.25
    assert found["lm_head.weight"] == 1.0


def test_depth_in_slices_is_that_of_the_slice(tmp_path):
    """Within a slice of three layers a gradient runs from its first to its last, as in mergekit."""
    for name in ("a", "b"):
        write_model(tmp_path / name, arrays(), config={"num_hidden_layers": LAYERS})
    recipe = (
        "merge_method: slerp\nbase_model: a\nslices:\n"
        "- sources: [{model: a, layer_range: [0, 3]}, {model: b, layer_range: [0, 3]}]\n"
        "- sources: [{model: a, layer_range: [3, 5]}, {model: b, layer_range: [3, 5]}]\n"
        "parameters:\n  t: [0.0, 1.0]\n"
    )
    plan = sp.plan(parse_recipe(recipe, folder=str(tmp_path)))
    found = resolved(plan, "t")
    assert [found[f"model.layers.{i}.mlp.w"] for i in range(LAYERS)] == [0.0, 0.5, 1.0, 0.0, 1.0]


def test_a_tied_head_goes_by_its_embedding(tmp_path):
    """Where head and embedding are one tensor, both take the value at the embedding's place."""
    names = [n for n in NAMES if n != "lm_head.weight"]
    for name, own in (("a", names), ("b", NAMES)):
        write_model(tmp_path / name, arrays(own), config={"model_type": "x", "tie_word_embeddings": True})
    plan = sp.plan(sp.slerp(sp.open(tmp_path / "b"), sp.open(tmp_path / "a"), t=[0.1, 0.9]))
    found = resolved(plan, "t")
    assert found["lm_head.weight"] == found["model.embed_tokens.weight"] == 0.1
