"""Same recipe and inputs, same bytes: whatever the threads, memory, files and the way there."""

from __future__ import annotations

import numpy as np
import pytest

import stockpot as sp
from files import read_model, write_model
from given import forms, merged, takes
from reference import cast_once, same_bytes, weights, widened
from stockpot.expression import Leaf
from stockpot.methods.declare import Matrix
from stockpot.methods.registry import METHODS
from stockpot.planning import blocks

SHAPES = {
    "model.embed_tokens.weight": (64, 48),
    "model.layers.0.mlp.weight": (601, 499),
    "model.layers.0.norm.weight": (499,),
    "model.layers.1.mlp.weight": (550, 1024),
    "model.layers.1.norm.weight": (1,),
    "model.layers.2.mlp.weight": (3, 7, 5),
    "model.norm.weight": (),
    "lm_head.weight": (0, 48),
}
"""Two tensors of more than one block of 2^18 elements, one of them with a short last block."""

RECIPES = {
    "linear": "merge_method: linear\nmodels: [{model: m0, parameters: {weight: 0.3}}, {model: m1}, {model: m2}]\n",
    "task_arithmetic": "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: m0}, {model: m1}]\n"
    "parameters: {weight: [0.2, 0.9], lambda: 0.7}\n",
    "wise_ft": "merge_method: wise_ft\nbase_model: base\nmodels: [{model: m0}]\nparameters: {alpha: 0.3}\n",
    "slerp": "merge_method: slerp\nbase_model: m0\nmodels: [{model: m0}, {model: m1}]\nparameters: {t: 0.4}\n",
    "nuslerp": "merge_method: nuslerp\nbase_model: base\nmodels: [{model: m0}, {model: m1}]\n"
    "parameters: {weight: 0.5, nuslerp_flatten: false, nuslerp_row_wise: true}\n",
    "model_stock": "merge_method: model_stock\nbase_model: base\nmodels: [{model: m0}, {model: m1}, {model: m2}]\n",
    "ties": "merge_method: ties\nbase_model: base\nmodels: [{model: m0}, {model: m1}, {model: m2}]\n"
    "parameters: {weight: 0.5, density: 0.3, rescale: true}\n",
    "dare_linear": "merge_method: dare_linear\nbase_model: base\nmodels: [{model: m0}, {model: m1}]\n"
    "parameters: {weight: 0.5, density: 0.3}\nseed: 7\n",
    "dare_ties": "merge_method: dare_ties\nbase_model: base\nmodels: [{model: m0}, {model: m1}, {model: m2}]\n"
    "parameters: {weight: 0.5, density: 0.6}\nseed: 11\nout_dtype: float32\n",
    "multislerp": "merge_method: multislerp\nmodels: [{model: m0}, {model: m1}, "
    "{model: m2, parameters: {weight: 2}}]\n",
    "karcher": "merge_method: karcher\nmodels: [{model: m0}, {model: m1}, {model: m2}]\nparameters: {max_iter: 5}\n",
    "warp": "merge_method: warp\nbase_model: base\nmodels: [{model: m0}, {model: m1}]\nparameters: {eta: 0.5}\n",
    "geometric_median": "merge_method: geometric_median\nbase_model: base\n"
    "models: [{model: m0}, {model: m1}, {model: m2}]\n",
    "perpendicular": "merge_method: perpendicular\nbase_model: base\nmodels: [{model: m0}, {model: m1}, {model: m2}]\n",
    "cosine_weighted": "merge_method: cosine_weighted\nbase_model: base\nmodels: [{model: m0}, {model: m1}]\n",
    "lines": "merge_method: lines\nbase_model: base\nmodels: [{model: m0}, {model: m1}]\n"
    "parameters: {alpha: 0.2, beta: 0.6}\n",
    "lm_cocktail": "merge_method: lm_cocktail\nmodels: [{model: m0, parameters: {loss: 1.5}}, "
    "{model: m1, parameters: {loss: 2.5}}]\n",
    "wsm": "merge_method: wsm\nmodels: [{model: base}, {model: m0}, {model: m1}]\n"
    "parameters: {decay: one_minus_sqrt}\n",
    "ema": "merge_method: ema\nmodels: [{model: base}, {model: m0}, {model: m1}]\nparameters: {decay: 0.7}\n",
    "passthrough": "merge_method: passthrough\nmodels: [{model: m1}]\nparameters: {scale: 0.5}\n",
    **{
        method: f"merge_method: {method}\nbase_model: base\n"
        f"models: [{{model: m0}}, {{model: m1}}, {{model: m2}}]\n{rest}"
        for method, rest in {
            "della": "parameters: {density: 0.5, epsilon: 0.2}\nseed: 3\n",
            "della_linear": "parameters: {density: 0.5, weight: 0.4}\nseed: 4\n",
            "breadcrumbs": "parameters: {density: 0.5, gamma: 0.1, rescale: true}\n",
            "breadcrumbs_ties": "parameters: {density: 0.3, scope: model}\n",
            "magnitude_prune": "parameters: {density: 0.4, scope: model}\n",
            "random_prune": "parameters: {density: 0.4}\nseed: 5\n",
            "sce": "parameters: {select_topk: 0.2}\n",
            "pcb": "parameters: {ratio: 0.2}\n",
            "consensus": "parameters: {agreement: 1}\n",
            "emr": "",
            "emr_task": "parameters: {task: 2}\n",
            "ram": "parameters: {epsilon: 0.001}\n",
            "ramplus_tl": "parameters: {epsilon: 0.01}\n",
            "magmax": "parameters: {weight: 0.5}\n",
        }.items()
    },
    "nearswap": "merge_method: nearswap\nbase_model: base\nmodels: [{model: m0}]\nparameters: {t: 0.002}\n",
    "arcee_fusion": "merge_method: arcee_fusion\nbase_model: base\nmodels: [{model: m1}]\n",
    "ties over the model": "merge_method: ties\nbase_model: base\nmodels: [{model: m0}, {model: m1}]\n"
    "parameters: {density: 0.3, scope: model, rescale: true}\n",
    "slerp over the model": "merge_method: slerp\nbase_model: m0\nmodels: [{model: m0}, {model: m1}]\n"
    "parameters: {t: 0.4, scope: model}\n",
    "whole models in rows": "name: first\nmerge_method: ties\nbase_model: base\nmodels: [{model: m0}, {model: m1}]\n"
    "parameters: {density: 0.4, scope: model}\n---\nmerge_method: della\nbase_model: base\n"
    "models: [{model: first}, {model: m2}]\nparameters: {density: 0.5}\ndtype: float32\n",
    "a merge of merges": "name: first\nmerge_method: ties\nbase_model: base\nmodels: [{model: m0}, {model: m1}]\n"
    "parameters: {density: 0.4}\ndtype: bfloat16\n---\nmerge_method: slerp\nbase_model: first\n"
    "models: [{model: first}, {model: m2}]\nparameters: {t: 0.5}\ndtype: float32\n",
}


@pytest.fixture(scope="module")
def models():
    """A base and three fine-tunes as arrays, of several dtypes."""
    rng = np.random.default_rng(0)
    base = {n: weights(rng, s, "BF16") for n, s in SHAPES.items()}
    tuned = [{n: weights(rng, s, c, around=base[n]) for n, s in SHAPES.items()} for c in ("BF16", "F32", "F16")]
    return {"base": base, **{f"m{i}": t for i, t in enumerate(tuned)}}


@pytest.fixture(scope="module")
def places(models, tmp_path_factory):
    """Two folders with the same models and recipes; in the second each model lies in seven files."""
    found = []
    for files in (1, 7):
        place = tmp_path_factory.mktemp(f"files{files}")
        for name, arrays in models.items():
            write_model(place / name, arrays, files=files)
        for name, text in RECIPES.items():
            (place / f"{name}.yml").write_text(text)
        found.append(place)
    return found


def test_there_is_a_recipe_for_every_method():
    """The promise of equal bytes is tested for each registered method; the others follow as expressions."""
    expressions = {n for n, m in METHODS.items() if m.gives or _beside(m) or isinstance(m.family, Matrix)}
    assert set(METHODS) <= set(RECIPES) | expressions


def _beside(method):
    return any(c.required for c in method.companions)


@pytest.mark.parametrize("name", RECIPES)
def test_threads_memory_and_files_change_no_byte(name, places, models, tmp_path):
    """1, 2 or 3 threads, a small or large budget, one or seven files, streamed or in memory: the same bytes.

    The hashes in the receipts agree too, and so do output files cut at other sizes.
    """
    one, seven = places
    runs = [
        (one, {"threads": 1}),
        (one, {"threads": 3, "memory": 300 << 20}),
        (seven, {"threads": 2, "memory": 8 << 30}),
        (seven, {"threads": 3, "shard_size": 500_000}),
    ]
    results = [sp.merge(p / f"{name}.yml", tmp_path / str(i), **limits) for i, (p, limits) in enumerate(runs)]
    made = [read_model(r.folder) for r in results]
    expected = {n: made[0][n] for n in sorted(made[0])}
    assert set(expected) == set(SHAPES)
    for other in made[1:]:
        assert same_bytes(expected, {n: other[n] for n in sorted(other)})
    hashes = [{n: t["hash"] for n, t in r.receipt["tensors"].items()} for r in results]
    assert all(h == hashes[0] for h in hashes)
    recipe = sp.plan(one / f"{name}.yml")
    computed = sp.compute(_in_memory(one / f"{name}.yml", models, recipe.seed))
    assert same_bytes(expected, {n: computed[n] for n in sorted(computed)})


def _in_memory(path, models, seed):
    """The recipe with its leaves replaced by arrays of the same names."""
    from dataclasses import replace

    from stockpot.arrangements import Cast
    from stockpot.expression import Apply, Leaf, Linear, Term
    from stockpot.recipe.parse import load_recipe

    leaves = {name: sp.open(arrays, name=name) for name, arrays in models.items()}

    def swapped(node, known):
        if id(node) not in known:
            if isinstance(node, Leaf):
                known[id(node)] = leaves[node.reference]
            elif isinstance(node, Cast):
                known[id(node)] = Cast(swapped(node.of, known), node.dtype)
            elif isinstance(node, Apply):
                known[id(node)] = replace(
                    node,
                    inputs=tuple(swapped(i, known) for i in node.inputs),
                    companions={c: tuple(swapped(i, known) for i in group) for c, group in node.companions.items()},
                )
            else:
                assert isinstance(node, Linear)
                known[id(node)] = Linear(tuple(Term(t.coefficient, swapped(t.of, known)) for t in node.terms))
        return known[id(node)]

    recipe = load_recipe(path)
    assert recipe.seed == seed
    return replace(recipe, expression=swapped(recipe.expression, {}), donor=None)


SIXTEENTHS = {
    "model.embed_tokens.weight": (13, 11),
    "model.layers.0.mlp.weight": (61, 49),
    "model.layers.0.norm.weight": (50,),
    "model.layers.1.mlp.weight": (3, 7, 5),
    "model.norm.weight": (),
    "lm_head.weight": (0, 11),
}


@pytest.fixture(scope="module")
def simple():
    """A base and three models whose entries are a few whole numbers over 16: no sum of them rounds; many are equal."""
    rng = np.random.default_rng(3)
    return [
        {n: ((rng.integers(-9, 9, s) + (24 if i else 40)) / 16).astype(np.float32) for n, s in SIXTEENTHS.items()}
        for i in range(4)
    ]


def _expression(form, models):
    method = form.method
    base, *others = models
    return merged(method, base, others[: method.at_most or 3], **_sparse(method), **form.parameters)


def _sparse(method):
    return {"density": [0.3, 0.6, 0.5][: method.at_most]} if takes(method, "density") else {}


@pytest.mark.parametrize("form", forms(), ids=str)
def test_blocks_files_and_threads_change_no_byte(form, simple, tmp_path, monkeypatch):
    """Every method in every form: any block size, one or several files, streamed or in memory gives the same bytes.

    With numbers whose sums do not round, since a sum over blocks is rounded block by block.
    """
    names = ["base", "m0", "m1", "m2"]
    opened = [sp.open(arrays, name=name) for name, arrays in zip(names, simple, strict=True)]
    expected = sp.compute(_expression(form, opened), seed=6)
    for size, files, threads in ((1000, 1, 3), (97, 3, 2)):
        monkeypatch.setattr(blocks, "BLOCK", size)
        for name, arrays in zip(names, simple, strict=True):
            write_model(tmp_path / str(size) / name, arrays, files=files)
        stored = [Leaf(name, folder=str(tmp_path / str(size))) for name in names]
        made = sp.save(_expression(form, stored), tmp_path / f"out{size}", seed=6, threads=threads, shard_size=9000)
        written = read_model(made.folder)
        assert same_bytes(expected, {n: written[n] for n in expected})


@pytest.mark.parametrize("form", forms(METHODS[n] for n in ("ties", "pcb", "breadcrumbs", "slerp")), ids=str)
def test_whole_models_inside_methods_on_rows(form, simple, monkeypatch):
    """A merge whose statistics are the whole model's is the same inside one that works on rows, whatever the blocks."""
    base, *others = [sp.open(arrays, name=str(i)) for i, arrays in enumerate(simple)]
    inner = _expression(form, [base, *others])
    made = []
    for size in (97, 1000, 1 << 18):
        monkeypatch.setattr(blocks, "BLOCK", size)
        known = sp.open(sp.compute(inner, dtype="float64"), name="inner")
        rows = [sp.nuslerp(model, base, weight=[1.0, 0.0], nuslerp_flatten=False) for model in (inner, known)]
        made += [sp.compute(merge, dtype="float32") for merge in rows]
    assert all(same_bytes(made[0], other) for other in made[1:])


def test_saving_an_expression_is_computing_it(models, tmp_path):
    """sp.save writes what sp.compute returns, tensor for tensor, in the order of the base."""
    opened = {name: sp.open(arrays, name=name) for name, arrays in models.items()}
    base = opened.pop("base")
    merged = base + 0.8 * sp.dare_ties(*(m - base for m in opened.values()), density=0.5)
    sp.save(merged, tmp_path / "out", seed=4, threads=2)
    written = read_model(tmp_path / "out")
    computed = sp.compute(merged, seed=4, threads=1)
    assert list(computed) == list(SHAPES)
    assert same_bytes({n: written[n] for n in computed}, computed)


def test_merging_twice_gives_the_same_files(places, tmp_path):
    """The whole output folder, file for file, is the same when the merge is repeated."""
    for run in ("first", "second"):
        sp.merge(places[0] / "ties.yml", tmp_path / run, threads=2, shard_size=700_000)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / r).iterdir()} for r in ("first", "second"))
    assert first == second
    assert len(first) > 4


def test_many_small_tensors_are_all_written(tmp_path):
    """A thousand tensors of a few elements each arrive complete with more threads than cores."""
    rng = np.random.default_rng(0)
    arrays = [{f"layers.{i}.w": weights(rng, (i % 7,), "BF16") for i in range(1000)} for _ in range(2)]
    a, b = (sp.open(x, name=str(i)) for i, x in enumerate(arrays))
    sp.save(0.5 * a + 0.5 * b, tmp_path / "out", threads=8)
    made = read_model(tmp_path / "out")
    assert len(made) == 1000
    for name, array in made.items():
        x, y = (widened(model[name]) for model in arrays)
        assert array.tobytes() == cast_once(0.5 * x + 0.5 * y, "BF16").tobytes()
