"""``scope: model``: statistics over all tensors of a model, as if they were one vector in the order of their names."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import stockpot as sp
from files import write_model
from given import companion_values, merged, takes
from reference import weights
from stockpot.methods.declare import REQUIRED
from stockpot.methods.registry import METHODS

SHAPES = {
    "b.weight": (601, 499),
    "a.norm": (50,),
    "d.weight": (3, 7, 5),
    "c.scalar": (),
    "e.empty": (0, 4),
    "f.weight": (512, 550),
}
"""Two tensors of more than one block; not in the order of their names."""

SCOPED = [m for m in METHODS.values() if takes(m, "scope")]


def joined(arrays):
    """All tensors in the order of their names, as one vector in one tensor."""
    return {"w": np.concatenate([arrays[n].reshape(-1) for n in sorted(arrays)])}


def exact(shape, rng, scale):
    """A few whole numbers over 16, times a power of two: sums do not round, and many magnitudes are equal."""
    return (rng.integers(-9, 10, shape) / 16 * scale + 2.5).astype(np.float64)


def drawn(kind, count):
    rng = np.random.default_rng(4)
    scales = dict(zip(SHAPES, (1.0, 0.25, 4.0, 1.0, 1.0, 0.5), strict=True))
    if kind == "exact":
        return [{n: exact(s, rng, scales[n]) for n, s in SHAPES.items()} for _ in range(count)]
    base = {n: rng.normal(1.0, 0.1, s) for n, s in SHAPES.items()}
    apart = {n: 0.01 * scale for n, scale in scales.items()}
    return [base, *({n: x + rng.normal(0.0, apart[n], x.shape) for n, x in base.items()} for _ in range(count - 1))]


def given(method, n):
    """Parameters that make statistics matter, one per model."""
    found = {"density": [0.31, 0.62, 0.05][:n]} if takes(method, "density") else {}
    found |= {"gamma": [0.013, 0.2, 0.0][:n]} if takes(method, "gamma") else {}
    weighs = any(p.name == "weight" and p.default is not REQUIRED for p in method.parameters)
    return found | ({"weight": [0.5, 1.0, 0.25][:n]} if weighs else {})


@pytest.mark.parametrize("kind", ["exact", "random"])
@pytest.mark.parametrize("method", SCOPED, ids=lambda m: m.name)
def test_a_whole_model_is_one_vector(method, kind):
    """Every method: over the whole model it gives what it gives for a single tensor that holds all the others.

    With many equal magnitudes, scales that differ between tensors, tensors of several blocks and empty ones.
    """
    n = min(method.at_most or 3, 3)
    models = drawn(kind, n + 1)
    rng = np.random.default_rng(8)
    beside = {
        c.name: [{m: companion_values(c, s, rng) for m, s in SHAPES.items()} for _ in range(n)]
        for c in method.companions
        if c.required
    }

    def opened(change):
        base, *others = [sp.open(change(m), name=f"m{i}") for i, m in enumerate(models)]
        more = {k: [sp.open(change(c), name=f"{k}{i}") for i, c in enumerate(v)] for k, v in beside.items()}
        return base, others, more

    base, others, more = opened(lambda m: m)
    whole = joined(sp.compute(merged(method, base, others, scope="model", **more, **given(method, n))))["w"]
    base, others, more = opened(joined)
    single = sp.compute(merged(method, base, others, scope="tensor", **more, **given(method, n)))["w"]
    largest = max(float(np.max(np.abs(x))) for m in models for x in m.values() if x.size)
    assert np.allclose(whole, single, rtol=1e-13, atol=1e-12 * largest)
    if kind == "exact" and method.name in ("ties", "magnitude_prune", "breadcrumbs", "breadcrumbs_ties"):
        assert np.array_equal(whole, single)


@pytest.mark.parametrize("density", [0.0, 0.1, 0.37, 1.0])
def test_exactly_that_many_of_all_entries_stay(density):
    """Of all n entries of the model round(density × n) stay, whichever tensors they are in; none need stay in one."""
    base, model = drawn("exact", 2)
    b, m = sp.open({n: np.zeros_like(x) for n, x in base.items()}, name="b"), sp.open(model, name="m")
    made = joined(sp.compute(b + sp.magnitude_prune(m - b, density=density, scope="model")))["w"]
    values = joined(model)["w"]
    assert np.array_equal(made, np.where(ref.trim_mask(values, density), values, 0.0))


def test_shares_that_differ_between_tensors_add_up(tmp_path):
    """A density given by filters makes one threshold, which keeps as many entries as the tensors' shares add up to."""
    rng = np.random.default_rng(0)
    shapes = {"model.layers.0.mlp.w": (40, 30), "model.layers.0.attn.w": (50, 20), "model.layers.1.mlp.w": (30, 30)}
    model = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    write_model(tmp_path / "base", {n: 0.0 * x for n, x in model.items()})
    write_model(tmp_path / "m", model)
    (tmp_path / "r.yml").write_text(
        "merge_method: magnitude_prune\nbase_model: ./base\nmodels: [{model: ./m}]\nparameters:\n"
        "  scope: model\n  density: [{filter: mlp, value: 0.2}, {value: 0.6}]\n"
    )
    made = sp.compute(tmp_path / "r.yml")
    kept = int(0.2 * 2100 + 0.6 * 1000 + 0.5)
    values = joined(model)["w"]
    assert np.array_equal(joined(made)["w"], np.where(ref.trim_mask(values, kept / 3100), values, 0.0))


@pytest.mark.parametrize("stored", [False, True])
def test_a_tied_head_counts_once(tmp_path, stored):
    """A head that is the embedding is no further tensor of the model, whether a copy of it is stored or not."""
    embed, head, layer = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.w"
    config = {"model_type": "llama", "num_hidden_layers": 1, "tie_word_embeddings": True}
    models = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        models.append({embed: weights(rng, (30, 8), "F32"), layer: weights(rng, (20, 20), "F32")})
        arrays = models[-1] | ({head: models[-1][embed]} if stored else {})
        write_model(tmp_path / str(seed), arrays, config=config)
    b, x, y = (sp.open(tmp_path / str(i)) for i in range(3))
    made = sp.compute(b + sp.ties(x - b, y - b, density=0.3, scope="model"))
    b, x, y = (sp.open(joined(m), name=str(i)) for i, m in enumerate(models))
    single = sp.compute(b + sp.ties(x - b, y - b, density=0.3))
    assert np.array_equal(joined({n: made[n] for n in (embed, layer)})["w"], single["w"])
    if head in made:
        assert np.array_equal(made[head], made[embed])


def test_a_mask_of_infinities_is_no_statistic():
    """-inf that all models share is left out of sums and angles of the whole model, and survives in its tensor."""
    rng = np.random.default_rng(2)
    arrays = [rng.normal(1.0, 0.1, 200) for _ in range(3)]
    mask = np.full((4, 4), -np.inf)
    with_mask = [sp.open({"a.mask": mask, "w": x}, name=str(i)) for i, x in enumerate(arrays)]
    without = [sp.open({"w": x}, name=str(i)) for i, x in enumerate(arrays)]
    for method in ("slerp", "emr_task", "fisher", "multislerp"):
        n = METHODS[method].at_most or 2
        expected = sp.compute(
            merged(METHODS[method], without[0], without[1 : n + 1], scope="model", **_even(method, without))
        )
        made = sp.compute(
            merged(METHODS[method], with_mask[0], with_mask[1 : n + 1], scope="model", **_even(method, with_mask))
        )
        assert np.array_equal(made["a.mask"], mask)
        assert np.allclose(made["w"], expected["w"], rtol=1e-14)


def _even(method, models):
    """Fisher information of 1 everywhere."""
    ones = {n: np.ones(t.shape, np.float32) for n, t in models[0].checkpoint.tensors.items()}
    return {"fisher": [sp.open(ones, name=f"f{i}") for i in range(2)]} if method == "fisher" else {}


def test_what_decides_on_passes_cannot_differ_between_tensors(tmp_path):
    """Statistics over the whole model need one answer to whether to rescale; the plan says so."""
    for name in ("base", "m"):
        write_model(tmp_path / name, {"a.mlp": np.ones((3, 2), np.float32), "a.attn": np.ones(4, np.float32)})
    (tmp_path / "r.yml").write_text(
        "merge_method: ties\nbase_model: ./base\nmodels: [{model: ./m}]\nparameters:\n"
        "  scope: model\n  density: 0.5\n  rescale: [{filter: mlp, value: true}, {value: false}]\n"
    )
    with pytest.raises(sp.PlanError, match="cannot differ between tensors"):
        sp.plan(tmp_path / "r.yml")


def test_a_plan_counts_the_passes():
    """The plan of a merge over the whole model says how often its tensors are read before any is written."""
    base, *tuned = [sp.open(m, name=str(i)) for i, m in enumerate(drawn("random", 3))]
    plan = sp.plan(base + sp.pcb(*(m - base for m in tuned)))
    assert any("statistics over the whole model: 2 passes" in str(note) for note in plan.notes)
