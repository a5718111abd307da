"""Elementwise methods in special cases: companions, zeros, equal and opposed models, parameters by depth and name."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import reference_elementwise as paper
import stockpot as sp
from files import write_model
from given import forms, merged, takes
from reference import between, weights, widened
from stockpot.methods.declare import Elementwise, Law

FORMS = [f for f in forms() if isinstance(f.method.family, Elementwise)]
CODES = ("F64", "F32", "BF16", "F16", "F8_E4M3")
SHAPES = ((), (0,), (1,), (211,), (31, 37), (5, 4, 3, 3), (601, 499))


def drawn(code, shape, count):
    rng = np.random.default_rng(0)
    base = weights(rng, shape, code)
    return base, [weights(rng, shape, code, around=base, apart=0.02) for _ in range(count)]


def opened(base, tuned):
    return sp.open({"w": base}, name="base"), [sp.open({"w": x}, name=f"m{i}") for i, x in enumerate(tuned)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("normalize", [True, False])
def test_fisher_is_the_weighted_mean(shape, code, normalize):
    """Σ c F x / Σ c F with c = w / |F| (or w), F at least the floor; Fisher information in float32."""
    rng = np.random.default_rng(1)
    _, tuned = drawn(code, shape, 3)
    found = [(rng.gamma(0.3, 1e-4, shape) * 10.0**i).astype(np.float32) for i in range(3)]
    weight = (1.0, 0.25, 2.0)
    _, models = opened(np.zeros(shape), tuned)
    fishers = [sp.open({"w": f}, name=f"f{i}") for i, f in enumerate(found)]
    made = sp.compute(sp.fisher(*models, fisher=fishers, weight=list(weight), normalize=normalize, floor=1e-5))["w"]
    values = [widened(x) for x in tuned]
    expected = paper.fisher(values, [widened(f) for f in found], weight, normalize=normalize, floor=1e-5)
    assert np.all(between(made, expected, 1e-13 * sum(np.abs(x) for x in values)))


def test_fisher_of_one_number_is_the_weighted_mean_of_the_paper():
    """Fisher information 3 and 1 weigh models 3 : 1; where none has any, all weigh the same."""
    a, b = sp.open({"w": np.array([1.0, 1.0])}, name="a"), sp.open({"w": np.array([5.0, 3.0])}, name="b")
    fishers = [sp.open({"w": np.array([f, 0.0])}, name=str(f)) for f in (3.0, 1.0)]
    made = sp.compute(sp.fisher(a, b, fisher=fishers, normalize=False))["w"]
    assert np.allclose(made, [2.0, 2.0], rtol=1e-15)


def test_fisher_weights_are_refused_where_they_make_no_mean():
    """Weights that are all 0 have no mean; the plan says so."""
    a, b = sp.open({"w": np.ones(2)}, name="a"), sp.open({"w": np.ones(2)}, name="b")
    with pytest.raises(sp.PlanError, match="not all 0"):
        sp.plan(sp.fisher(a, b, fisher=[a, b], weight=0.0))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("code", CODES)
def test_masked_multiplies(shape, code):
    """base + λ Σ w mask d, with masks of any factors."""
    rng = np.random.default_rng(1)
    base, tuned = drawn(code, shape, 3)
    masks = [rng.integers(0, 2, shape) * np.float32(1.25) for _ in range(3)]
    masks = [np.asarray(m, np.float32) for m in masks]
    b, models = opened(base, tuned)
    beside = [sp.open({"w": m}, name=f"mask{i}") for i, m in enumerate(masks)]
    weight = (0.5, -1.0, 2.0)
    made = sp.compute(b + 0.8 * sp.masked(*(m - b for m in models), mask=beside, weight=list(weight)))["w"]
    ds = ref.deltas(tuned, base)
    value = widened(base) + 0.8 * sum(w * widened(m) * d for w, m, d in zip(weight, masks, ds, strict=True))
    assert np.all(between(made, value, 1e-13 * (np.abs(widened(base)) + sum(np.abs(d) for d in ds))))


@pytest.mark.parametrize("code", ["F64", "F32"])
def test_masks_restore_a_task(code):
    """masked with emr_mask on the unified model is emr_task; with tall_mask it is mask × Σ d."""
    base, tuned = drawn(code, (31, 37), 3)
    b, models = opened(base, tuned)
    ds = [m - b for m in models]
    unified = sp.open(sp.compute(b + sp.emr(*ds), dtype="float64"), name="unified")
    for task in (1, 2, 3):
        mask = sp.open(sp.compute(sp.emr_mask(*ds, task=task), dtype="float64"), name="mask")
        restored = sp.compute(b + sp.masked(unified - b, mask=mask), dtype="float64")["w"]
        assert np.allclose(restored, sp.compute(b + sp.emr_task(*ds, task=task), dtype="float64")["w"], rtol=1e-13)
        tall = sp.compute(sp.tall_mask(*ds, task=task), dtype="float64")["w"]
        assert set(np.unique(tall)) <= {0.0, 1.0}


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("code", CODES)
def test_signs_may_come_from_a_model(code, normalize, scope):
    """sign_from: entries stay whose sign is that of the other model's change (0 counts as +); no election."""
    base, tuned = drawn(code, (601, 499), 4)
    *tuned, leader = tuned
    leader = np.where(np.arange(leader.size).reshape(leader.shape) % 5 == 0, base, leader).astype(leader.dtype)
    b, models = opened(base, tuned)
    made = sp.compute(
        b
        + sp.ties(
            *(m - b for m in models),
            weight=[0.5, 1.0, 0.25],
            density=0.4,
            normalize=normalize,
            scope=scope,
            sign_from=sp.open({"w": leader}, name="leader"),
        )
    )["w"]
    positive = widened(leader) - widened(base) >= 0.0
    total, below = 0.0, 0.0
    for w, d in zip((0.5, 1.0, 0.25), ref.deltas(tuned, base), strict=True):
        part = w * paper.trimmed(d, 0.4)
        part = np.where((part > 0.0) == positive, part, 0.0)
        total, below = total + part, below + w * (part != 0.0)
    value = widened(base) + (total / np.where(below == 0.0, 1.0, below) if normalize else total)
    assert np.all(between(made, value, 1e-13 * (np.abs(widened(base)) + 1.0)))


def test_what_compares_with_the_base_needs_one():
    """Rows of softmax and signs of another model have no meaning for differences without a common base."""
    a, b, c = (sp.open({"w": np.ones((2, 2))}, name=n) for n in "abc")
    for build in (
        lambda: sp.arcee_fusion(0.5 * (a - b)),
        lambda: sp.ties(a - b, a - c, sign_from=c),
    ):
        with pytest.raises(sp.PlanError, match="differences to one base"):
            sp.plan(c + build())


@pytest.mark.parametrize("form", [f for f in FORMS if f.method.on == "delta"], ids=str)
def test_zeros_equal_and_opposed_models(form):
    """Models like the base, copies of one model and models that cancel: always finite, and nothing where all is 0."""
    rng = np.random.default_rng(0)
    base = weights(rng, (40, 30), "F32")
    one = (base + rng.normal(0.0, 0.02, base.shape)).astype(np.float32)
    opposed = (base - (one - base)).astype(np.float32)
    density = {"density": 0.5} if takes(form.method, "density") else {}
    for tuned in ([base, base, base], [one, one, one], [one, opposed], [base, one], [opposed, one, base]):
        b, models = opened(base, tuned[: form.method.at_most])
        made = sp.compute(merged(form.method, b, models, **density, **form.parameters), seed=1)["w"]
        assert np.all(np.isfinite(made))
        if all(t is base for t in tuned):
            expected = base if Law.ZERO_DELTA in form.method.laws else np.zeros_like(base)
            assert np.array_equal(made, expected)


def test_sce_knows_equal_models():
    """Where any number of models agree exactly their variance is 0, and select_topk below 1 drops the change."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=1000)
    shared = base + rng.normal(size=1000)
    apart = np.arange(1000) < 100
    for n in range(2, 9):
        tuned = [np.where(apart, shared + 0.1 * i, shared) for i in range(n)]
        b, models = opened(base, tuned)
        made = sp.compute(b + sp.sce(*(m - b for m in models), select_topk=0.5))["w"]
        assert np.count_nonzero(made != base) == 50


@pytest.mark.parametrize("density", [0.0, 0.2, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 101])
def test_breadcrumbs_keeps_exactly_that_many(density, gamma, n):
    """round(density × n) entries stay whatever gamma is: fewer of the largest are dropped where it leaves too few."""
    values = np.random.default_rng(n).permutation(np.arange(1.0, n + 1.0))
    b, m = sp.open({"w": np.zeros(n)}, name="b"), sp.open({"w": values}, name="m")
    made = sp.compute(b + sp.breadcrumbs(m - b, density=density, gamma=gamma))["w"]
    kept = int(density * n + 0.5)
    assert np.count_nonzero(made) == kept
    assert np.array_equal(made, paper.band(values, density, gamma))


LAYERS = 5
DEPTHED = {
    "magnitude_prune": ("density: [0.1, 0.9]", "density"),
    "breadcrumbs": ("density: 0.5, gamma: [0.0, 0.4]", "gamma"),
    "della_linear": ("density: 0.5, epsilon: [0.0, 0.4]", "epsilon"),
    "consensus": ("threshold: [0.1, 0.9]", "threshold"),
    "pcb": ("scope: tensor, ratio: [0.1, 0.5]", "ratio"),
    "sce": ("select_topk: [0.1, 0.9]", "select_topk"),
    "ram": ("epsilon: [0.0, 0.04]", "epsilon"),
    "ramplus_tl": ("epsilon: 0.02, alpha: 5, r: [0.0, 1.0]", "r"),
    "magmax": ("weight: [0.0, 1.0]", "weight"),
    "random_prune": ("density: [0.2, 0.8]", "density"),
}


@pytest.fixture(scope="module")
def layered(tmp_path_factory):
    """A base and two models of five layers with an MLP and an attention tensor each."""
    place = tmp_path_factory.mktemp("layered")
    rng = np.random.default_rng(0)
    names = [f"model.layers.{i}.{part}.weight" for i in range(LAYERS) for part in ("mlp", "attn")]
    base = {n: weights(rng, (20, 15), "F32") for n in names}
    models = {"base": base} | {
        f"m{k}": {n: weights(rng, x.shape, "F32", around=x, apart=0.02) for n, x in base.items()} for k in range(2)
    }
    for name, arrays in models.items():
        write_model(place / name, arrays)
    return place, models


def _one_tensor(layered, method, name, parameters):
    """The method on one tensor with constants."""
    _, models = layered
    opened_ = {k: sp.open({name: a[name]}, name=k) for k, a in models.items()}
    base = opened_.pop("base")
    function = getattr(sp, method)
    return sp.compute(base + function(*(m - base for m in opened_.values()), **parameters), seed=0)[name]


def _constants(text):
    """{name: value} of a flow mapping, without its gradient."""
    pairs = [part.split(": ") for part in text.split(", ") if ": " in part and "[" not in part]
    return {k: v if k == "scope" else float(v) for k, v in pairs}


@pytest.mark.parametrize("method", DEPTHED)
def test_parameters_follow_depth(method, layered):
    """A gradient gives layer i of n the value at i / (n − 1): the same as the method with that number."""
    place, _ = layered
    text, parameter = DEPTHED[method]
    low, high = (float(v) for v in text.split("[")[1].split("]")[0].split(","))
    path = place / f"{method}.yml"
    path.write_text(
        f"merge_method: {method}\nbase_model: base\nmodels: [{{model: m0}}, {{model: m1}}]\nparameters: {{{text}}}\n"
    )
    made = sp.compute(path)
    assert len(made) == 2 * LAYERS
    for name, array in made.items():
        value = low + (high - low) * int(name.split(".")[2]) / (LAYERS - 1)
        expected = _one_tensor(layered, method, name, {**_constants(text), parameter: value})
        assert np.array_equal(array, expected), name


def test_parameters_follow_names_and_models(layered):
    """Filters choose by name, for the whole method and for each model; the first match counts."""
    place, _ = layered
    path = place / "filters.yml"
    path.write_text(
        "merge_method: breadcrumbs_ties\nbase_model: base\nmodels:\n"
        "- model: m0\n  parameters: {density: [{filter: mlp, value: 0.2}, {value: 0.6}], gamma: 0.1}\n"
        "- model: m1\n  parameters: {weight: [{filter: attn, value: 0.3}, {value: 2}]}\n"
        "parameters: {density: 0.4, normalize: [{filter: layers.2, value: true}, {value: false}]}\n"
    )
    for name, array in sp.compute(path).items():
        mlp = "mlp" in name
        given = {
            "density": [0.2 if mlp else 0.6, 0.4],
            "gamma": [0.1, 0.01],
            "weight": [1.0, 2.0 if mlp else 0.3],
            "normalize": "layers.2" in name,
        }
        assert np.array_equal(array, _one_tensor(layered, "breadcrumbs_ties", name, given)), name
