"""Layers of every family, stacked: the result loads in transformers, runs and continues text."""

from __future__ import annotations

import json

import pytest
from zoo import FAMILIES

import stockpot as sp
from files import read_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from running import continued, loaded, outputs  # noqa: E402 - needs both

BY_STAGES, BY_PERIODS = ("swin", "resnet"), ("jamba",)
STACKS = [(n, stack) for n, f in FAMILIES.items() if n not in (*BY_STAGES, *BY_PERIODS) for stack in f.stacks]
FROM_TWO = [(0, 0), (0, 1), (1, 1)]
TWICE = [(0, 0), (0, 1), (0, 1)]
MIXED_KINDS = ("deepseek-v3", "qwen3-moe")
"""Their first layer is dense, so that it cannot be averaged with another."""


def ids(case):
    return "-".join(case)


def taken(folders, layers, stack):
    """An expression of (model, layer) in turn, on top of each other."""
    return sp.stack(*(sp.layers(sp.open(folders[m]), i, i + 1, stack=stack) for m, i in layers))


def at(config, path):
    """The entry at a dotted path."""
    for step in path.split("."):
        config = config[step]
    return config


def check_tensors(made, sources, layers, stack):
    """Each layer is its source's, byte for byte; what only a first layer has stays with the first."""
    prefix = stack + "."
    for new, (model, old) in enumerate(layers):
        own = {n.split(".", prefix.count(".") + 1)[-1]: n for n in made if n.startswith(f"{prefix}{new}.")}
        given = {n.split(".", prefix.count(".") + 1)[-1]: n for n in sources[model] if n.startswith(f"{prefix}{old}.")}
        assert {n for n in own if "relative_attention_bias" not in n} == {
            n for n in given if "relative_attention_bias" not in n
        }
        for rest, name in own.items():
            if rest in given:
                assert made[name].tobytes() == sources[model][given[rest]].tobytes()
    elsewhere = [n for n in made if not n.startswith(prefix)]
    assert set(elsewhere) == {n for n in sources[0] if not n.startswith(prefix)}
    for name in elsewhere:
        assert made[name].tobytes() in (sources[0][name].tobytes(), sources[-1][name].tobytes())


@pytest.mark.parametrize("layers", [FROM_TWO, TWICE], ids=["of-two-models", "one-layer-twice"])
@pytest.mark.parametrize("case", STACKS, ids=ids)
def test_three_layers_of_two_load_and_run(case, layers, zoo, tmp_path):
    """Renamed, counted in the config and nowhere else, each with its own tensors; the other stacks stay as they are."""
    family, stack = case
    folders = [zoo.saved(family, seed) for seed in range(2)]
    sp.save(taken(folders, layers, stack), tmp_path / "out", shard_size=40_000)
    check_tensors(read_model(tmp_path / "out"), [read_model(f) for f in folders], layers, stack)
    config, before = (json.loads((f / "config.json").read_text()) for f in (tmp_path / "out", folders[0]))
    for other, path in FAMILIES[family].stacks.items():
        assert at(config, path) == (3 if other == stack else 2)
    for key in ("layer_types", "no_rope_layers", "attention_layers"):
        if key in before:
            assert config[key] == [before[key][i] for _, i in layers]
    model = loaded(family, tmp_path / "out")
    assert torch.isfinite(outputs(family, model)).all()
    if FAMILIES[family].generates:
        continued(family, model)


@pytest.mark.parametrize("case", [c for c in STACKS if c[0] not in MIXED_KINDS], ids=ids)
def test_a_model_merged_with_its_own_other_layers(case, zoo, tmp_path):
    """One layer, on the arc between the model's two; the config counts one."""
    family, stack = case
    model = sp.open(zoo.saved(family))
    merged = sp.slerp(*(sp.layers(model, i, i + 1, stack=stack) for i in range(2)), t=0.5)
    sp.save(merged, tmp_path / "out")
    assert at(json.loads((tmp_path / "out" / "config.json").read_text()), FAMILIES[family].stacks[stack]) == 1
    assert torch.isfinite(outputs(family, loaded(family, tmp_path / "out"))).all()


@pytest.mark.parametrize("case", STACKS, ids=ids)
def test_all_layers_in_order_are_the_model(case, zoo, tmp_path):
    """The same tensors and the same config, whatever it says of layers."""
    family, stack = case
    folder = zoo.saved(family)
    sp.save(sp.passthrough(sp.open(folder)), tmp_path / "whole")
    sp.save(taken([folder], [(0, 0), (0, 1)], stack), tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_bytes() == (tmp_path / "whole" / "config.json").read_bytes()
    made, given = read_model(tmp_path / "out"), read_model(folder)
    assert {n: a.tobytes() for n, a in made.items()} == {n: a.tobytes() for n, a in given.items()}


@pytest.mark.parametrize("family", ["t5", "bart", "whisper", "clip", "llava", "qwen2-vl"])
def test_both_stacks_one_after_the_other(family, zoo, tmp_path):
    """Stack the one, then the layers of the result: both counts are right, and the model runs."""
    folders = [zoo.saved(family, seed) for seed in range(2)]
    first, second = FAMILIES[family].stacks
    once = taken(folders, FROM_TWO, first)
    again = sp.layers(sp.open(folders[1]), 1, 2, stack=second)
    sp.save(sp.stack(sp.layers(once, 0, 2, stack=second), again, again), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert [at(config, path) for path in FAMILIES[family].stacks.values()] == [3, 4]
    assert torch.isfinite(outputs(family, loaded(family, tmp_path / "out"))).all()


@pytest.mark.parametrize("family", [n for n, f in FAMILIES.items() if f.generates])
def test_a_recipe_needs_no_stack_of_a_language_model(family, zoo, tmp_path):
    """layer_range alone means the language model, beside images too; [0, 2] and [0, 2] again is depth up-scaling."""
    ranges = [[0, 2], [1, 2]] if family in MIXED_KINDS else [[0, 2], [0, 2]]
    model = str(zoo.saved(family))
    slices = [{"sources": [{"model": model, "layer_range": r}]} for r in ranges]
    (tmp_path / "recipe.yml").write_text(json.dumps({"merge_method": "passthrough", "slices": slices}))
    sp.merge(tmp_path / "recipe.yml", tmp_path / "out")
    first = next(iter(FAMILIES[family].stacks.values()))
    count = sum(b - a for a, b in ranges)
    assert at(json.loads((tmp_path / "out" / "config.json").read_text()), first) == count
    continued(family, loaded(family, tmp_path / "out"))


@pytest.mark.parametrize("family", ["t5", "bart", "whisper", "clip"])
def test_which_of_several_stacks_is_asked(family, zoo):
    """The error names every stack with its length, and how to say which is meant."""
    stacks = sorted(FAMILIES[family].stacks)
    with pytest.raises(sp.PlanError) as told:
        sp.plan(sp.layers(sp.open(zoo.saved(family)), 0, 1))
    assert all(f"{stack} (2)" in str(told.value) for stack in stacks)
    assert "stack: " in str(told.value)
    with pytest.raises(sp.PlanError, match=f"its stacks are .*{stacks[0]}"):
        sp.plan(sp.layers(sp.open(zoo.saved(family)), 0, 1, stack="nonsense"))


@pytest.mark.parametrize("family", BY_STAGES)
def test_blocks_of_a_stage_are_counted_in_the_list_of_depths(family, zoo, tmp_path):
    """The second stage with a block more: depths say so, and the model runs."""
    stack = list(FAMILIES[family].stacks)[1]
    model = sp.open(zoo.saved(family))
    sp.save(sp.stack(sp.layers(model, 0, 2, stack=stack), sp.layers(model, 1, 2, stack=stack)), tmp_path / "out")
    depths = json.loads((tmp_path / "out" / "config.json").read_text())["depths"]
    assert depths == [FAMILIES[family].config["depths"][0], 3]
    assert torch.isfinite(outputs(family, loaded(family, tmp_path / "out"))).all()


def test_layers_told_apart_by_a_period_keep_their_place_in_it(zoo, tmp_path):
    """Whole periods of Jamba load and run; where a layer's number would change its kind, the plan says so."""
    model = sp.open(zoo.saved("jamba"))
    whole = sp.stack(sp.layers(model, 0, 2), sp.layers(model, 0, 2))
    assert not any("period" in note.message for note in sp.plan(whole).notes)
    sp.save(whole, tmp_path / "out")
    assert torch.isfinite(outputs("jamba", loaded("jamba", tmp_path / "out"))).all()
    shifted = sp.stack(sp.layers(model, 0, 2), sp.layers(model, 1, 2))
    assert any("attn_layer_period = 2" in note.message for note in sp.plan(shifted).notes)


@pytest.mark.parametrize("method", ["linear", "slerp"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "smollm3"])
def test_a_recipe_of_a_models_own_overlapping_layers(family, method, zoo, tmp_path):
    """Layers 0 to 2 with layers 1 to 3 of one model: three, each from two, counted and described in the config."""
    deeper = {"gpt2": {"n_layer": 4}, "qwen3": {"num_hidden_layers": 4, "layer_types": ["full_attention"] * 4}}
    deeper |= {"smollm3": {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]}}
    folder = zoo.saved(family, **deeper.get(family, {"num_hidden_layers": 4}))
    sources = [{"model": str(folder), "layer_range": r} for r in ([0, 3], [1, 4])]
    recipe = {"merge_method": method, "slices": [{"sources": sources}], "parameters": {"t": 0.5}}
    recipe |= {"base_model": str(folder)} if method == "slerp" else {"parameters": {"weight": 0.5}}
    (tmp_path / "recipe.yml").write_text(json.dumps(recipe))
    sp.merge(tmp_path / "recipe.yml", tmp_path / "out")
    (stack,) = FAMILIES[family].stacks
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert at(config, FAMILIES[family].stacks[stack]) == 3
    if family == "smollm3":
        assert config["no_rope_layers"] == [1, 1, 1]
    made, given = read_model(tmp_path / "out"), read_model(folder)
    name = next(
        n.removeprefix(f"{stack}.0")
        for n in given
        if (n.startswith(f"{stack}.0.") and n.endswith("norm.weight")) or ".ln_1.weight" in n
    )
    if method == "linear":
        for i in range(3):
            expected = (given[f"{stack}.{i}{name}"] + given[f"{stack}.{i + 1}{name}"]) / 2
            assert abs(made[f"{stack}.{i}{name}"] - expected).max() < 1e-6
    continued(family, loaded(family, tmp_path / "out"))


def test_depth_up_scaling(zoo, tmp_path):
    """SOLAR's way: the first m layers on the last m of the same model; each is one of its layers, byte for byte."""
    folder = zoo.saved("llama", num_hidden_layers=4)
    slices = [{"sources": [{"model": str(folder), "layer_range": r}]} for r in ([0, 3], [1, 4])]
    (tmp_path / "recipe.yml").write_text(json.dumps({"merge_method": "passthrough", "slices": slices}))
    sp.merge(tmp_path / "recipe.yml", tmp_path / "out")
    made = read_model(tmp_path / "out")
    check_tensors(made, [read_model(folder)], [(0, i) for i in (0, 1, 2, 1, 2, 3)], "model.layers")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 6
    continued("llama", loaded("llama", tmp_path / "out"))
