"""An expression written down as JSON and built again is planned to the same steps."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from merged_models import arrays, model, recipe

import stockpot as sp
from given import forms
from given import merged as merge_of
from stockpot.arrangements import Cast
from stockpot.errors import CheckpointError, UnsupportedError
from stockpot.execute.receipt import labels_of
from stockpot.expression import Leaf, leaves
from stockpot.provenance.expressions import as_records, methods_in, rebuilt
from stockpot.settings import as_plain, as_setting

LEAVES = {name: sp.open(arrays(seed), name=name) for seed, name in enumerate(("base", "a", "b"))}
BASE, A, B = LEAVES.values()


def again(expression, given=None):
    """``expression`` after it went through JSON."""
    found = {leaf.reference: leaf for leaf in leaves(expression)} if given is None else given
    records = as_records(expression, lambda leaf: leaf.reference)
    return rebuilt(json.loads(json.dumps(records, allow_nan=False)), found, "receipt")


def assert_same(expression):
    assert sp.plan(again(expression), seed=3).steps == sp.plan(expression, seed=3).steps


@pytest.mark.parametrize("form", forms(), ids=str)
def test_every_method_is_built_again(form):
    """Each method of the registry, in each of its forms, with its companions, has the same plan."""
    models = [A] if form.method.at_most == 1 else [A, B]
    if form.method.at_least > 2:
        models = [A, B, *(sp.open(arrays(9 + i), name=f"m{i}") for i in range(form.method.at_least - 2))]
    assert_same(merge_of(form.method, BASE, models, **form.parameters))


@pytest.mark.parametrize(
    "expression",
    [
        A,
        0.25 * A + 0.75 * B,
        BASE + 0.3 * (A - BASE) - 0.1 * (B - BASE),
        Cast(0.5 * A + 0.5 * B, "bfloat16"),
        sp.stack(sp.layers(A, 0, 1), sp.layers(B, 0, 2)),
        BASE + sp.ties(A - BASE, B - BASE, density=[0.2, [0.1, 0.9]], weight=[1.0, 0.3]),
        sp.slerp(A, B, t=[{"filter": "embed", "value": 0.1}, {"value": [0.0, 0.5, 1.0]}]),
        BASE + (sp.trim(density=0.5) >> sp.scale() >> sp.elect() >> sp.mean())(A - BASE, B - BASE, weight=[0.7, 0.3]),
        BASE + (sp.drop(density=0.3) >> sp.trim(density=0.9, scope="model"))(A - BASE),
        0.5 * (BASE + sp.dare_ties(A - BASE, B - BASE, density=0.5)) + 0.5 * sp.slerp(A, B, t=0.5),
    ],
    ids=lambda e: type(e).__name__,
)
def test_every_kind_of_node_is_built_again(expression):
    """Leaves, sums, roundings, layers, stacks, settings of all forms, chains of steps, merges of merges."""
    assert_same(expression)


RECIPES = {
    "slices": (
        "slices:\n- sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]\n"
        "- sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]\n"
        "merge_method: slerp\nbase_model: a\nparameters: {t: [{filter: w, value: [0, 1]}, {value: 0.5}]}\n"
        "dtype: float16\n"
    ),
    "documents": (
        "name: one\nmerge_method: dare_ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\n"
        "parameters: {density: 0.5, int8_mask: true, lambda: 0.7}\nseed: 8\n---\n"
        "merge_method: linear\nmodels: [{model: one}, {model: b, parameters: {weight: 2}}]\ndtype: bfloat16\nseed: 8\n"
    ),
    "steps": (
        "merge_method: steps\nbase_model: base\nsteps: [{trim: {density: 0.2}}, elect, {mean: {by: count}}]\n"
        "models: [{model: a, parameters: {weight: 0.3}}, {model: b}]\n"
    ),
    "compat": (
        "merge_method: ties\nbase_model: base\ncompat: mergekit\ndtype: bfloat16\n"
        "models: [{model: a}, {model: b, parameters: {density: 0.5}}]\nparameters: {weight: 1}\n"
    ),
    "fisher": (
        "merge_method: fisher\nmodels:\n- {model: a, parameters: {fisher: b}}\n- {model: b, parameters: {fisher: a}}\n"
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_built_again(tmp_path, name):
    """The tree of a recipe, lines included, has the same plan with models opened anew."""
    for seed, one in enumerate(("base", "a", "b")):
        folder = model(tmp_path / one, seed)
        if name == "fisher":
            from files import write_model

            write_model(folder, {n: np.abs(v) for n, v in arrays(seed).items()})
    plan = sp.plan(recipe(tmp_path, RECIPES[name]))
    labels = labels_of(plan)
    found = {label: Leaf(c.label, c) for label, c in plan.sources.items()}
    records = as_records(plan.recipe.expression, lambda leaf: labels[leaf.key])
    expression = rebuilt(json.loads(json.dumps(records)), found, "receipt")
    assert sp.plan(expression, seed=plan.seed, dtype=plan.recipe.dtype).steps == plan.steps


def test_data_grows_with_nodes_not_with_uses():
    """A node that is used twice at each of 30 levels is written 30 times, not 2^30 times."""
    tree = A
    for _ in range(30):
        tree = sp.nuslerp(tree, tree, weight=[0.5, 0.5])
    assert len(as_records(tree, lambda leaf: leaf.reference)) == 31


def test_numbers_that_json_lacks_are_words():
    """Infinity in a parameter that changes nothing is written as a word and read as a number again."""
    setting = as_setting([{"filter": "x", "value": [math.inf, 1.0]}, {"value": -math.inf}])
    text = json.dumps(as_plain(setting), allow_nan=False)
    assert as_setting(json.loads(text)) == setting


def test_methods_are_told_outermost_first():
    """A sum has no method of its own; in a merge of merges the outer method comes first."""
    ties = BASE + sp.ties(A - BASE, B - BASE, density=0.5)
    told = [
        methods_in(as_records(e, lambda leaf: leaf.reference)) for e in (0.5 * A + 0.5 * B, sp.slerp(ties, A, t=0.5))
    ]
    assert told == [("sum",), ("slerp", "ties")]
    assert methods_in("nonsense") == methods_in([3, None]) == ()


def test_methods_of_ones_own_are_named():
    """Code is not data: the name and hash are written down, building it again says which method and what to do."""

    @sp.elementwise
    def halved(deltas, share: float = 0.5):
        return share * deltas[0]

    expression = BASE + halved(A - BASE)
    (record,) = [r for r in as_records(expression, lambda leaf: leaf.reference) if "apply" in r]
    assert record["own"]["file"] == __file__
    assert len(record["own"]["sha256"]) == 64
    with pytest.raises(UnsupportedError, match="halved") as caught:
        again(expression)
    assert "fix:" in str(caught.value)


LEAF, ONE = {"leaf": "a"}, {"apply": "linear", "inputs": [0], "one": {}, "each": [{}]}


@pytest.mark.parametrize(
    "records",
    [
        None,
        [],
        {},
        [3],
        [{}],
        [{"leaf": 3}],
        [{"leaf": "unknown"}],
        [{"cast": 0, "dtype": "float16"}],
        [LEAF, {"cast": 1, "dtype": "float16"}],
        [LEAF, {"cast": -1, "dtype": "float16"}],
        [LEAF, {"cast": 0, "dtype": "no"}],
        [LEAF, {"cast": True, "dtype": "float16"}],
        [LEAF, {"sum": []}],
        [LEAF, {"sum": [{"times": "much", "of": 0}]}],
        [LEAF, {"sum": [{"times": {"a": [[]]}, "of": 0}]}],
        [LEAF, {"sum": [{"times": [], "of": 0}]}],
        [LEAF, {"layers": 0, "start": 3, "stop": 1}],
        [LEAF, {**ONE, "apply": "\x1b[2J"}],
        [LEAF, {**ONE, "inputs": [0, 0]}],
        [LEAF, {**ONE, "inputs": []}],
        [LEAF, {**ONE, "one": {"weight": 3}}],
        [LEAF, {**ONE, "steps": [{"step": "jump", "given": []}]}],
        [LEAF, {**ONE, "steps": []}],
        [LEAF, {**ONE, "variant": "none"}],
        [LEAF, {**ONE, "companions": {"mask": [5]}}],
        [LEAF, *({"cast": i, "dtype": "float16"} for i in range(3000))],
        [LEAF, *({"stack": [i, i]} for i in range(200))],
    ],
    ids=lambda r: str(r)[:60],
)
def test_damaged_data_is_refused(records):
    """Wrong types, circles, unknown names, depth and growth end in one error that names the receipt."""
    with pytest.raises(CheckpointError) as caught:
        rebuilt(records, {"a": A}, "the receipt")
    assert all(p.file == "the receipt" for p in caught.value.problems)
    assert "\x1b" not in str(caught.value)
