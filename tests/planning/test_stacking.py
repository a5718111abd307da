"""Layers and stacks: names are mapped as said, and copies are copies to the byte."""

from __future__ import annotations

import json

import numpy as np
import pytest

import stockpot as sp
from files import read_model, write_model
from reference import FLOATS, weights

PARTS = ("self_attn.q_proj.weight", "mlp.experts.5.w1.weight", "input_layernorm.weight")


def model(seed, layers=4, stack="model.layers", code="BF16", **more):
    """A language model's tensors by name, each with values of its own."""
    rng = np.random.default_rng(seed)
    names = ["model.embed_tokens.weight"]
    names += [f"{stack}.{i}.{part}" for i in range(layers) for part in PARTS]
    names += ["model.norm.weight", "lm_head.weight"]
    return {n: weights(rng, (3, 4), code) for n in names} | more


def config(layers=4, **more):
    return {"model_type": "llama", "num_hidden_layers": layers, **more}


@pytest.fixture
def place(tmp_path):
    """Two models a and b of four layers, on disk."""
    for seed, name in enumerate("ab"):
        write_model(tmp_path / name, model(seed), config=config())
    return tmp_path


def sources(plan):
    """Name in the output → (model, name there) of a plan that only copies."""
    return {s.name: (s.source.model.rsplit("/", 1)[-1], s.source.ref.name) for s in plan.steps}


def test_layers_are_renumbered_from_zero(place):
    """layers(m, 1, 3) has layers 1 and 2 as 0 and 1; a second number in a name (an expert's) is left alone."""
    found = sources(sp.plan(sp.layers(sp.open(place / "a"), 1, 3)))
    expected = {"model.embed_tokens.weight": ("a", "model.embed_tokens.weight")}
    for new, old in ((0, 1), (1, 2)):
        expected |= {f"model.layers.{new}.{p}": ("a", f"model.layers.{old}.{p}") for p in PARTS}
    expected |= {n: ("a", n) for n in ("model.norm.weight", "lm_head.weight")}
    assert found == expected


def test_a_stack_takes_its_ends_from_its_ends(place):
    """Embeddings come from the first part, norm and head from the last, layers from all in turn, in order."""
    a, b = sp.open(place / "a"), sp.open(place / "b")
    found = sources(sp.plan(sp.stack(sp.layers(a, 0, 3), sp.layers(b, 1, 4), sp.layers(a, 3, 4))))
    places = [("a", 0), ("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3), ("a", 3)]
    expected = {"model.embed_tokens.weight": ("a", "model.embed_tokens.weight")}
    for new, (name, old) in enumerate(places):
        expected |= {f"model.layers.{new}.{p}": (name, f"model.layers.{old}.{p}") for p in PARTS}
    expected |= {n: ("a", n) for n in ("model.norm.weight", "lm_head.weight")}
    assert found == expected
    assert next(iter(found)) == "model.embed_tokens.weight"


def test_a_recipe_of_slices_copies_bytes(place):
    """A passthrough of slices is byte for byte the stored layers, and the config counts them."""
    recipe = place / "franken.yml"
    recipe.write_text(
        "merge_method: passthrough\nslices:\n"
        "- sources: [{model: a, layer_range: [0, 3]}]\n- sources: [{model: b, layer_range: [2, 4]}]\n"
    )
    sp.merge(recipe, place / "out")
    made, a, b = (read_model(place / n) for n in ("out", "a", "b"))
    assert len(made) == 5 * len(PARTS) + 3
    for i in range(5):
        for part in PARTS:
            source = a[f"model.layers.{i}.{part}"] if i < 3 else b[f"model.layers.{i - 1}.{part}"]
            assert made[f"model.layers.{i}.{part}"].tobytes() == source.tobytes()
    assert made["model.embed_tokens.weight"].tobytes() == a["model.embed_tokens.weight"].tobytes()
    assert made["lm_head.weight"].tobytes() == b["lm_head.weight"].tobytes()
    assert '"num_hidden_layers": 5' in (place / "out" / "config.json").read_text()


def test_nan_and_every_bit_survive_a_copy(tmp_path):
    """What is only copied is not looked at: payloads of NaN, negative zeros and integers keep their bits."""
    bits = np.arange(65536, dtype=np.uint16)
    arrays = model(0) | {"model.layers.0.mlp.experts.5.w1.weight": bits.view(FLOATS["BF16"])}
    arrays["position_ids"] = np.arange(7)
    write_model(tmp_path / "a", arrays, config=config())
    sp.save(sp.layers(sp.open(tmp_path / "a"), 0, 2), tmp_path / "out")
    made = read_model(tmp_path / "out")
    assert made["model.layers.0.mlp.experts.5.w1.weight"].tobytes() == bits.tobytes()
    assert made["position_ids"].tobytes() == arrays["position_ids"].tobytes()


def test_merging_slices_of_different_depths(place):
    """Each slice merges the layers that it names, whatever their numbers in their own models."""
    recipe = place / "slices.yml"
    recipe.write_text(
        "merge_method: linear\nslices:\n"
        "- sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [2, 4]}]\n"
        "- sources: [{model: a, layer_range: [1, 3]}, {model: b, layer_range: [0, 2]}]\n"
        "parameters: {weight: 1.0}\n"
    )
    sp.merge(recipe, place / "out")
    made, a, b = (read_model(place / n) for n in ("out", "a", "b"))
    pairs = [(0, 2), (1, 3), (1, 0), (2, 1)]
    for new, (x, y) in enumerate(pairs):
        for part in PARTS:
            first, second = (m[f"model.layers.{i}.{part}"].astype(np.float64) for m, i in ((a, x), (b, y)))
            found = made[f"model.layers.{new}.{part}"].astype(np.float64)
            assert np.allclose(found, (first + second) / 2, rtol=2**-8)


def test_a_range_beyond_the_model_is_refused(place):
    """A layer that does not exist is named with the last one that does."""
    with pytest.raises(sp.PlanError, match=r"(?s)beyond the 4 layers.*the last layer is 3"):
        sp.plan(sp.layers(sp.open(place / "a"), 2, 5))
    with pytest.raises(sp.ExpressionError, match="empty layer range"):
        sp.layers(sp.open(place / "a"), 2, 2)


def test_two_stacks_need_a_config_that_tells_them_apart(tmp_path):
    """Of two stacks the one with the config's number of layers is meant; without that, it is an error."""
    vision = {f"vision.blocks.{i}.w": np.full((2,), i, np.float32) for i in range(3)}
    write_model(tmp_path / "told", model(0, **vision), config=config(4))
    write_model(tmp_path / "untold", model(0, **vision), config={})
    found = sources(sp.plan(sp.layers(sp.open(tmp_path / "told"), 2, 4)))
    assert found["model.layers.0.input_layernorm.weight"] == ("told", "model.layers.2.input_layernorm.weight")
    assert [n for n in found if n.startswith("vision")] == list(vision)
    with pytest.raises(sp.PlanError, match="single stack"):
        sp.plan(sp.layers(sp.open(tmp_path / "untold"), 0, 2))


def test_stacking_the_layers_of_one_stack_leaves_another_alone(tmp_path):
    """In a model of two towers, slices of the one do not double the other: it is the first part's."""
    vision = {f"vision.blocks.{i}.w": np.full((2,), i, np.float32) for i in range(3)}
    for seed, name in enumerate("ab"):
        write_model(tmp_path / name, model(seed, **vision), config=config(4))
    a, b = sp.open(tmp_path / "a"), sp.open(tmp_path / "b")
    found = sources(sp.plan(sp.stack(sp.layers(a, 0, 3), sp.layers(b, 2, 4))))
    assert {n: s for n, s in found.items() if n.startswith("vision")} == {n: ("a", n) for n in vision}
    assert found["model.layers.4.input_layernorm.weight"] == ("b", "model.layers.3.input_layernorm.weight")
    assert not any(n.startswith("model.layers.5") for n in found)


def test_lists_with_one_entry_per_layer_follow_their_layers(tmp_path):
    """What a config says of each layer by position or number is said of that layer in the result too."""
    told = {
        "a": {"layer_types": ["a0", "a1", "a2", "a3"], "no_rope_layers": [1, 1, 0, 1], "mlp_only_layers": [0, 3]},
        "b": {"layer_types": ["b0", "b1", "b2", "b3"], "no_rope_layers": [0, 0, 1, 0], "mlp_only_layers": []},
    }
    for seed, name in enumerate("ab"):
        write_model(tmp_path / name, model(seed), config=config(**told[name]))
    a, b = sp.open(tmp_path / "a"), sp.open(tmp_path / "b")
    merged = sp.stack(sp.layers(a, 2, 4), sp.linear(sp.layers(b, 1, 3), sp.layers(a, 0, 2)), sp.layers(a, 3, 4))
    sp.save(merged, tmp_path / "out")
    made = json.loads((tmp_path / "out" / "config.json").read_text())
    assert made["num_hidden_layers"] == 5
    assert made["layer_types"] == ["a2", "a3", "b1", "b2", "a3"]
    assert made["no_rope_layers"] == [0, 1, 0, 1, 1]
    assert made["mlp_only_layers"] == [1, 4]


def test_lists_of_a_model_that_is_not_sliced_are_left_alone(tmp_path):
    """Without slices the config is the donor's, lists and all."""
    for seed, name in enumerate("ab"):
        write_model(tmp_path / name, model(seed), config=config(layer_types=["x", "y", "z", "x"]))
    sp.save(0.5 * sp.open(tmp_path / "a") + 0.5 * sp.open(tmp_path / "b"), tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_text().count("layer_types") == 1
    assert json.loads((tmp_path / "out" / "config.json").read_text())["layer_types"] == ["x", "y", "z", "x"]


@pytest.mark.parametrize(
    "names",
    [
        ["w"],
        ["0.weight", "2.weight"],
        ["blocks.0.w", "blocks.7.w"],
        ["encoder.layer.0.層.w", "encoder.layer.1.層.w", "x y.w"],
    ],
)
def test_any_names_can_be_merged(names):
    """Merging needs no known architecture: any names, numbered with gaps or not at all, come out as they went in."""
    rng = np.random.default_rng(0)
    arrays = [{n: rng.normal(size=3) for n in names} for _ in range(2)]
    a, b = (sp.open(x, name=str(i)) for i, x in enumerate(arrays))
    made = sp.compute(0.5 * a + 0.5 * b)
    assert list(made) == names
    for n in names:
        assert np.array_equal(made[n], 0.5 * arrays[0][n] + 0.5 * arrays[1][n])


def test_a_head_with_embed_in_its_name_is_a_head(tmp_path):
    """GPT-NeoX calls its head embed_out: a stack takes it from the last part, like every head."""
    for seed, name in enumerate("ab"):
        rng = np.random.default_rng(seed)
        names = ["gpt_neox.embed_in.weight", "gpt_neox.layers.0.w", "gpt_neox.layers.1.w", "embed_out.weight"]
        write_model(tmp_path / name, {n: rng.normal(size=2) for n in names}, config=config(2))
    a, b = sp.open(tmp_path / "a"), sp.open(tmp_path / "b")
    found = sources(sp.plan(sp.stack(sp.layers(a, 0, 2), sp.layers(b, 1, 2))))
    assert found["gpt_neox.embed_in.weight"][0] == "a"
    assert found["embed_out.weight"][0] == "b"


def test_differences_of_other_layers_are_other_differences(place):
    """Task vectors taken at different depths of one base stay what they are: each less its own layers."""
    a, b, base = (sp.open(place / n) for n in ("a", "b", "a"))
    early, late = sp.layers(base, 0, 2), sp.layers(base, 2, 4)
    delta = sp.task_arithmetic(sp.layers(b, 0, 2) - early, sp.layers(b, 1, 3) - late, weight=[1.0, 2.0])
    made = sp.compute(sp.layers(a, 0, 2) + delta, dtype="float64")
    x, y = ({n: v.astype(np.float64) for n, v in read_model(place / m).items()} for m in "ab")
    for i in range(2):
        for part in PARTS:
            first, second, third = (f"model.layers.{i + k}.{part}" for k in range(3))
            expected = x[first] + (y[first] - x[first]) + 2.0 * (y[second] - x[third])
            assert np.allclose(made[first], expected, rtol=1e-12, atol=1e-15)
