"""An adapter alone is a difference: added to a model, merged with others, or written where a model may stand."""

from __future__ import annotations

import numpy as np
import pytest
from adapting import factors, ordered_product, write_adapter, write_base
from single_files import lora, normal, write_table

import stockpot as sp
from files import read_model, write_file, write_model
from reference import same_bytes
from stockpot.arrangements import Cast
from stockpot.cli.main import main
from stockpot.expression import Adapted, Leaf, leaves
from stockpot.recipe.parse import parse_recipe

MODULES = ("model.layers.0.q_proj", "model.layers.1.up_proj", "model.layers.1.q_proj")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """base, other, and the adapters one and two on base; returns the folder."""
    rng = np.random.default_rng(11)
    base = write_base(tmp_path / "base", dtype=np.float64)
    write_base(tmp_path / "other", seed=4, dtype=np.float64)
    for name in ("one", "two"):
        parts = {k: v for m in MODULES for k, v in factors(rng, m, len(base[f"{m}.weight"]), 12).items()}
        write_adapter(tmp_path / name, parts, base_model_name_or_path="org/base")
        write_model(
            tmp_path / f"folded-{name}", sp.compute(sp.open(tmp_path / "base", adapter=tmp_path / name)), config={}
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changes(place, name):
    """Tensor → what the adapter ``name`` adds, in float64."""
    parts = read_model(place / name)
    found = {}
    for module in MODULES:
        a, b = (parts[f"base_model.model.{module}.lora_{k}.weight"] for k in "AB")
        found[f"{module}.weight"] = 2 * ordered_product(b, a)
    return found


def close(found, expected):
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-14, atol=1e-14, err_msg=name)


def test_sums(place):
    """base + Σ cᵢ · adapterᵢ, as numbers; on tensors that no adapter changes, the base's own."""
    base, one, two = sp.open("base"), sp.open_adapter("one"), sp.open_adapter("two")
    weights, d1, d2 = read_model("base"), changes(place, "one"), changes(place, "two")
    total = {n: w + 0.5 * d1.get(n, 0) + 0.25 * d2.get(n, 0) for n, w in weights.items()}
    close(sp.compute(base + 0.5 * one + 0.25 * two), total)
    close(sp.compute(0.25 * two + (base + 0.5 * one)), total)
    close(sp.compute(base - one), {n: w - d1.get(n, 0) for n, w in weights.items()})
    close(sp.compute(base + one), {n: w + d1.get(n, 0) for n, w in weights.items()})
    untouched = {n: w for n, w in weights.items() if n not in d1}
    found = sp.compute(base + 0.5 * one + 0.25 * two, dtype="float32")
    assert untouched
    assert all(np.array_equal(found[n], w.astype(np.float32)) for n, w in untouched.items())


def test_on_mixes(place):
    """Added to a mix of models, the change is that of the adapter all the same."""
    d1, base, other = changes(place, "one"), read_model("base"), read_model("other")
    mix = 0.75 * sp.open("base") + 0.25 * sp.open("other")
    close(sp.compute(mix + sp.open_adapter("one")), {n: 0.75 * base[n] + 0.25 * other[n] + d1.get(n, 0) for n in base})
    task = sp.open("other") - sp.open("base")
    total = sp.open("base") + 0.5 * (task + sp.open_adapter("one"))
    close(sp.compute(total), {n: w + 0.5 * (other[n] - w + d1.get(n, 0)) for n, w in base.items()})


@pytest.mark.parametrize("method", ["ties", "dare_linear", "tsv_m"])
def test_methods(place, method):
    """A method of adapters alone gives the bytes that it gives of the folded models' differences."""
    base, merge = sp.open("base"), getattr(sp, method)
    given = {} if method == "tsv_m" else {"density": 0.5}
    alone = base + 0.7 * merge(sp.open_adapter("one"), sp.open_adapter("two"), **given)
    adapted = [sp.open("base", adapter=name) for name in ("one", "two")]
    expected = base + 0.7 * merge(*(a - base for a in adapted), **given)
    assert same_bytes(sp.compute(alone), sp.compute(expected))


def test_beside_differences(place):
    """Among differences to a base, an adapter is one to that base."""
    base = sp.open("base")
    alone = base + sp.ties(sp.open_adapter("one"), sp.open("other") - base, density=0.5)
    expected = base + sp.ties(sp.open("base", adapter="one") - base, sp.open("other") - base, density=0.5)
    assert same_bytes(sp.compute(alone), sp.compute(expected))


def test_layers_and_casts(place):
    """Layers of an adapter belong to the same layers of a model; a cast rounds the difference."""
    base = sp.layers(sp.open("base"), 1, 2)
    found = sp.compute(base + sp.layers(sp.open_adapter("one"), 1, 2))
    expected = sp.compute(sp.layers(sp.open("base", adapter="one"), 1, 2))
    close(found, expected)
    rounded = sp.compute(sp.open("base") + Cast(sp.open_adapter("one"), "bfloat16"))
    name = f"{MODULES[0]}.weight"
    change = rounded[name] - read_model("base")[name]
    np.testing.assert_allclose(change, changes(place, "one")[name], rtol=2**-8)
    with pytest.raises(sp.PlanError, match="one is an adapter"):
        sp.plan(base + sp.layers(sp.open_adapter("one"), 0, 1))


def test_without_a_base(place):
    """Alone, or where models are wanted, it is an error that tells which base its settings name."""
    for expression in (
        sp.open_adapter("one"),
        0.5 * sp.open_adapter("one"),
        sp.ties(sp.open_adapter("one"), density=1),
    ):
        with pytest.raises(sp.PlanError, match="one is an adapter, not a whole model") as caught:
            sp.plan(expression)
        assert "its settings name org/base" in str(caught.value.problems[0].fix)
    with pytest.raises(sp.ExpressionError):
        sp.linear(sp.open_adapter("one"), sp.open("base"), weight=0.5)
    with pytest.raises(sp.ExpressionError):
        sp.stack(sp.open_adapter("one"))


RECIPES = {
    "ties": "merge_method: ties\nbase_model: base\nmodels: [{model: one}, {model: two}, {model: other}]\n"
    "parameters: {density: 0.5, weight: 0.7}",
    "linear": "merge_method: linear\nbase_model: base\nmodels: [{model: one}, {model: other}]\n"
    "parameters: {weight: 0.5}",
    "slerp": "merge_method: slerp\nbase_model: base\nparameters: {t: 0.4}\nmodels: [{model: base}, {model: two}]",
    "slices": "merge_method: slerp\nbase_model: base\nparameters: {t: 0.4}\n"
    "slices: [{sources: [{model: base, layer_range: [0, 1]}, {model: two, layer_range: [1, 2]}]}]",
    "nested": "merge_method: linear\nmodels:\n- model: other\n- model:\n    merge_method: task_arithmetic\n"
    "    base_model: base\n    models: [{model: one}]\n",
    "rounded": "merge_method: ties\nbase_model: base\nmodels: [{model: one}]\n"
    "parameters: {density: 0.4}\ndtype: bfloat16",
    "compat": "merge_method: ties\ncompat: mergekit\nbase_model: base\nmodels: [{model: one}, {model: other}]\n"
    "parameters: {density: 0.4, weight: 1.0}\ndtype: float32",
}


@pytest.mark.parametrize("name", RECIPES)
def test_where_a_model_may_stand(place, name):
    """In a recipe that has a base, an adapter's path means base+adapter."""
    text = RECIPES[name]
    written = text.replace("model: one", "model: base+one").replace("model: two", "model: base+two")
    assert written != text
    assert same_bytes(sp.compute(parse_recipe(text)), sp.compute(parse_recipe(written)))


def test_recipes_without_a_base(place):
    """The error names adapter, line and the base that its settings name."""
    text = "merge_method: linear\nmodels:\n- model: other\n- model: one\n"
    with pytest.raises(sp.UnsupportedError, match="one is an adapter") as caught:
        sp.plan(parse_recipe(text))
    (problem,) = caught.value.problems
    assert problem.line == 4
    assert "org/base" in problem.fix


def test_a_base_that_is_an_adapter(place):
    """It is told, and not put on itself."""
    text = "merge_method: ties\nbase_model: one\nmodels: [{model: two}]\nparameters: {density: 0.5}\n"
    with pytest.raises(sp.UnsupportedError, match="one is an adapter"):
        sp.plan(parse_recipe(text))
    text = text.replace("base_model: one", "base_model: base+one")
    found = sp.compute(parse_recipe(text))
    both = Adapted(sp.open("base", adapter="one"), Leaf("two", adapter=True))
    base = sp.open("base", adapter="one")
    assert same_bytes(found, sp.compute(base + sp.ties(both - base, density=0.5)))


def test_a_single_file_alone(place):
    """A file of kohya's scripts may stand there too, as path or in Python."""
    rng = np.random.default_rng(1)
    write_component = {"a.w.weight": normal(rng, 12, 8, dtype=np.float64)}
    write_file(place / "unet" / "model.safetensors", write_component)
    write_table(place / "s.safetensors", {"lora_unet_a_w": lora(rng, 12, 8)})
    text = (
        "merge_method: task_arithmetic\nbase_model: unet\nmodels: [{model: s.safetensors, parameters: {weight: 1.0}}]\n"
    )
    expected = sp.compute(sp.open("unet", adapter="s.safetensors"))
    close(sp.compute(parse_recipe(text)), expected)
    close(sp.compute(sp.open("unet") + sp.open_adapter("s.safetensors")), expected)


def test_a_folder_with_both_is_a_model(place):
    """Where a folder holds weights and an adapter, its path means the model."""
    for file in (place / "one").iterdir():
        (place / "other" / file.name).write_bytes(file.read_bytes())
    recipe = parse_recipe("merge_method: linear\nbase_model: base\nmodels: [{model: other}, {model: base}]\n")
    plan = sp.plan(recipe)
    assert plan.recipe is not None
    assert [leaf.adapter for leaf in leaves(plan.recipe.expression)] == [False, False]


def test_receipts(place):
    """A merge of adapters alone is made again from its receipt, and takes its small files from the base."""
    (place / "r.yml").write_text(RECIPES["ties"])
    assert main(["merge", "r.yml", "out", "--quiet"]) == 0
    assert main(["reproduce-merge", "out", "again"]) == 0
    assert same_bytes(read_model(place / "out"), read_model(place / "again"))
    sp.save(0.5 * sp.open_adapter("one") + sp.open("base"), place / "python")
    assert (place / "python" / "config.json").is_file()
    assert main(["reproduce-merge", "python", "repeated"]) == 0
    assert same_bytes(read_model(place / "python"), read_model(place / "repeated"))
