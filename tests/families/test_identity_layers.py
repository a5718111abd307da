"""Layers used again as the identity: the deeper model computes what the model did."""

from __future__ import annotations

import json

import pytest
from zoo import FAMILIES

import stockpot as sp
from files import read_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from running import loaded, outputs  # noqa: E402 - needs both

NORM_LAST = ("bert", "roberta", "distilbert", "bart", "wav2vec2", "swin", "resnet", "clip")
"""Layers that normalise what they give, and models whose stacks must be named."""

PLAIN = [n for n, f in FAMILIES.items() if n not in NORM_LAST and n not in ("jamba", "t5", "whisper")]


def deeper(folder, *, identity, stack=None):
    """The model with its first layer between its two."""
    model = sp.open(folder)
    again = sp.layers(model, 0, 1, stack=stack, identity=identity)
    return sp.stack(sp.layers(model, 0, 1, stack=stack), again, sp.layers(model, 1, 2, stack=stack))


def close(a, b):
    return torch.allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", PLAIN)
def test_an_identity_layer_changes_no_logit(family, zoo, tmp_path):
    """Three layers of two, the second one silent: the same logits; not silent, others."""
    folder = zoo.saved(family)
    before = outputs(family, loaded(family, folder))
    stack = next(iter(FAMILIES[family].stacks))
    for identity in (True, False):
        sp.save(deeper(folder, identity=identity, stack=stack), tmp_path / str(identity))
        found = outputs(family, loaded(family, tmp_path / str(identity)))
        assert close(found, before) is identity


@pytest.mark.parametrize("case", [(f, s) for f in ("t5", "whisper", "clip") for s in FAMILIES[f].stacks], ids="-".join)
def test_an_identity_layer_of_either_stack(case, zoo, tmp_path):
    """Encoder or decoder, one tower or the other."""
    family, stack = case
    folder = zoo.saved(family)
    sp.save(deeper(folder, identity=True, stack=stack), tmp_path / "out")
    assert close(outputs(family, loaded(family, tmp_path / "out")), outputs(family, loaded(family, folder)))


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "bart", "wav2vec2"])
def test_layers_that_normalise_last_are_refused(family, zoo):
    """No layer of BERT is the identity: the error says so, and names model and layer."""
    stack = next(iter(FAMILIES[family].stacks))
    folder = zoo.saved(family)
    with pytest.raises(sp.PlanError, match=r"layer 0 of .* cannot be made the identity: it normalises"):
        sp.plan(deeper(folder, identity=True, stack=stack))


def test_what_is_not_known_is_refused_by_name():
    """An attention whose output has a name of its own: the error names it."""
    import numpy as np

    layer = {".attn.wombat.weight": (2, 2), ".mlp.down_proj.weight": (2, 2), ".norm.weight": (2,)}
    model = sp.open({f"h.{i}{rest}": np.ones(s, np.float32) for i in range(2) for rest, s in layer.items()}, name="odd")
    with pytest.raises(sp.PlanError, match="layer 1 of odd cannot be made the identity: nothing is known of attn"):
        sp.plan(sp.layers(model, 1, 2, identity=True))


def test_in_a_recipe_with_its_receipt(zoo, tmp_path):
    """``identity: true`` beside layer_range; the merge is made again byte for byte from its receipt."""
    from stockpot.execute.reproduce import reproduce

    folder = str(zoo.saved("llama"))
    sources = [([0, 1], {}), ([0, 1], {"identity": True}), ([1, 2], {})]
    slices = [{"sources": [{"model": folder, "layer_range": r, **more}]} for r, more in sources]
    (tmp_path / "recipe.yml").write_text(json.dumps({"merge_method": "passthrough", "slices": slices}))
    sp.merge(tmp_path / "recipe.yml", tmp_path / "out")
    made = read_model(tmp_path / "out")
    silent = {n for n, a in made.items() if not a.any()}
    assert silent == {f"model.layers.1.{n}.weight" for n in ("self_attn.o_proj", "mlp.down_proj")}
    assert reproduce(tmp_path / "out", tmp_path / "again").differences == ()


def test_identity_without_layers_is_a_mistake(tmp_path):
    """The error tells the line and what is missing."""
    text = "merge_method: passthrough\nslices:\n- sources:\n  - model: a\n    identity: true\n"
    (tmp_path / "recipe.yml").write_text(text)
    with pytest.raises(sp.RecipeError, match=r"identity says something of layers(.|\n)*layer_range"):
        sp.plan(tmp_path / "recipe.yml")
