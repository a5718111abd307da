"""The laws that methods declare, tested over the whole registry: a new method is tested by being declared."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import stockpot as sp
from given import companion_values, companions, forms, merged, required, takes, tensorwise
from reference import FLOATS, cast_once, drop_mask, kept_count, same, same_bytes, trim_mask, ulps, widened
from stockpot.expression import apply
from stockpot.methods.declare import Base, Law, Matrix, Span
from stockpot.methods.registry import METHODS

SIZES = ((), (0,), (1,), (2,), (13,), (3, 5), (2, 1, 7))
COUNTS = (1, 2, 3, 7)
NAMES = (
    "w",
    "weight",
    "0.weight",
    "model.layers.3.mlp.up_proj.weight",
    "model.layers.11.mlp.up_proj.weight",
    "a..b",
    "重み.層.7.β",
    "x/y z\t'quoted'",
    "lm_head.weight",
    "embed_tokens.weight",
)


def with_law(law):
    """Methods that promise ``law``, in each of their forms: it holds whatever statistics are taken over."""
    return forms(m for m in METHODS.values() if law in m.laws)


def counts_of(method):
    return [n for n in COUNTS if method.at_least <= n and (method.at_most is None or n <= method.at_most)]


DIRECTED = ("slerp", "nuslerp", "multislerp", "karcher", "warp")


def directed(method):
    """Whether it goes along arcs between directions, which opposite ones do not have."""
    return method.name in DIRECTED


QUOTIENTS = ("fisher", "sce", "pcb")
"""Methods whose factors are quotients of statistics: their sums round, however simple the numbers."""


def _exact(method):
    return not isinstance(method.family, Matrix) and not (isinstance(method.family, Span) and method.family.gram)


FLAT = {"lines": {"beta": 0.0}}
"""What makes a method the same at every depth, where its values depend on the layer by design."""

WIDE = ("F64", "F32", "BF16")
"""Dtypes that hold any quotient of the numbers here."""


def opened(arrays, names=None):
    """Models in memory, each under a name of its own, with one tensor."""
    return [sp.open({"w": a}, name=(names or "abcdefgh")[i]) for i, a in enumerate(arrays)]


def numbers(method):
    """Values whose sums with simple weights are exact in float64: then a law that says equal means equal."""
    positive = st.floats(2.0**-10, 4.0, width=32)
    return st.just(0.0) | positive if directed(method) else st.just(0.0) | positive | positive.map(lambda x: -x)


@st.composite
def groups(draw, method, count=None, codes=tuple(FLOATS)):
    """A base and some models as arrays of one dtype and shape; fine-tunes of it where angles matter."""
    code, shape = draw(st.sampled_from(codes)), draw(st.sampled_from(SIZES))
    size = int(np.prod(shape))
    count = count or draw(st.sampled_from(counts_of(method)))
    rows = [draw(st.lists(numbers(method), min_size=size, max_size=size)) for _ in range(count + 1)]
    arrays = [cast_once(np.array(row, np.float64).reshape(shape), code) for row in rows]
    if directed(method):
        arrays = [arrays[0], *(cast_once(widened(arrays[0]) + widened(a), code) for a in arrays[1:])]
    return arrays[0], arrays[1:]


def close(made, expected):
    """Equal; in float64 within a few roundings of it, relative to the largest value of the inputs.

    So is a 0 of a narrower dtype, since nothing rounds away what is left of a sum of float64 numbers that cancel.
    """
    if made.dtype == np.float64:
        return made.shape == expected.shape and np.allclose(made, expected, rtol=1e-14, atol=1e-13)
    left = (widened(expected) == 0.0) & (np.abs(widened(made)) < 1e-13)
    return same(np.where(left, expected, made).astype(made.dtype), expected)


@pytest.mark.parametrize("form", with_law(Law.IDEMPOTENT), ids=str)
@given(data=st.data())
def test_copies_of_one_model_give_that_model_back(form, data):
    """IDEMPOTENT: merging a model with itself, however often and around whatever base, changes nothing."""
    base, (x, *_) = data.draw(groups(form.method, 1))
    n = data.draw(st.sampled_from(counts_of(form.method)))
    b, *copies = opened([base, *[x] * n])
    assert close(sp.compute(merged(form.method, b, copies, **form.parameters))["w"], x)


@pytest.mark.parametrize("form", [f for f in with_law(Law.ORDER_FREE) if f.method.at_most != 1], ids=str)
@given(data=st.data())
def test_the_order_of_the_models_does_not_matter(form, data):
    """ORDER_FREE: models may come in any order if their parameters and companions come along.

    That includes random methods: masks belong to a model's name, not to its place.
    """
    method = form.method
    base, arrays = data.draw(groups(method))
    n = len(arrays)
    order = data.draw(st.permutations(range(n)))
    simple = {
        "weight": st.sampled_from([0.25, 0.5, 1.0, 2.0]),
        "density": st.sampled_from([0.25, 0.5, 1.0]),
        "epsilon": st.sampled_from([0.0, 0.125, 0.25]),
        "gamma": st.sampled_from([0.0, 0.25, 0.75]),
        "threshold": st.sampled_from([0.25, 0.5, 1.0]),
        "loss": st.sampled_from([0.25, 1.0, 3.0]),
    }
    per_model = {
        p.python_name: data.draw(st.lists(simple[p.name], min_size=n, max_size=n))
        for p in method.parameters
        if p.per_model
    }
    per_model |= _own(method, base.shape, n)
    b, *models = opened([base, *arrays])
    made = sp.compute(merged(method, b, models, **per_model, **form.parameters), seed=3)["w"]
    shuffled = {name: [values[i] for i in order] for name, values in per_model.items()}
    again = sp.compute(merged(method, b, [models[i] for i in order], **shuffled, **form.parameters), seed=3)["w"]
    if made.dtype == np.float64:
        assert np.allclose(made, again, rtol=1e-13, atol=1e-13)
    else:  # the sums are exact; angles and quotients are not, and may round to the neighbour
        assert ulps(made, again) <= int(not _exact(method) or method.name in QUOTIENTS)


def _own(method, shape, n):
    """The companions that each model has, as lists that can be reordered with the models."""
    made = companions(method, {"w": shape}, n)
    return {c.name: made[c.name] for c in method.companions if c.per_model and c.name in made}


@pytest.mark.parametrize("form", with_law(Law.ZERO_DELTA), ids=str)
@given(data=st.data())
def test_models_equal_to_the_base_give_the_base_back(form, data):
    """ZERO_DELTA: nothing learned is nothing changed, and 0/0 never appears."""
    method = form.method
    base, _ = data.draw(groups(method, 1))
    n = data.draw(st.sampled_from(counts_of(method)))
    b, *copies = opened([base] * (n + 1))
    if method.base is Base.OPTIONAL:
        expression = b + apply(method, [m - b for m in copies], {**required(method), **form.parameters})
    else:
        expression = merged(method, b, copies, **form.parameters)
    assert close(sp.compute(expression)["w"], base)


@pytest.mark.parametrize("form", with_law(Law.ENDPOINTS), ids=str)
@given(data=st.data())
def test_a_weight_of_one_returns_that_model_exactly(form, data):
    """ENDPOINTS: weight 1 for one model and 0 for the others is that model exactly (F64 around a base: to rounding)."""
    method = form.method
    base, arrays = data.draw(groups(method))
    chosen = data.draw(st.integers(0, len(arrays) - 1))
    b, *models = opened([base, *arrays])
    weight = [1.0 if i == chosen else 0.0 for i in range(len(arrays))]
    made = sp.compute(merged(method, b, models, weight=weight, **form.parameters))["w"]
    assert (close if method.on == "delta" else same)(made, arrays[chosen])


@pytest.mark.parametrize(("name", "ends"), [("slerp", {"t": (0.0, 1.0)}), ("wise_ft", {"alpha": (0.0, 1.0)})])
@given(data=st.data())
def test_interpolation_ends_at_its_ends(name, ends, data):
    """At 0 stands the first model and at 1 the second, bit for bit, whatever lies between them."""
    method = METHODS[name]
    a, (b,) = data.draw(groups(METHODS["linear"], 1))
    ((parameter, places),) = ends.items()
    x, y = opened([a, b])
    for place, expected in zip(places, (a, b), strict=True):
        assert same(sp.compute(apply(method, [x, y], {parameter: place}))["w"], expected)


@pytest.mark.parametrize("form", with_law(Law.KEEPS_EXACTLY), ids=str)
@given(data=st.data())
def test_density_keeps_exactly_that_many_entries(form, data):
    """KEEPS_EXACTLY: of n entries, the round(density × n) largest stay and the others are the base's; ties by index."""
    size = data.draw(st.sampled_from([1, 2, 13, 64, 101]))
    values = data.draw(st.lists(st.sampled_from([-3.0, -1.0, 1.0, 2.0, 2.5]), min_size=size, max_size=size))
    density = data.draw(st.floats(0.0, 1.0))
    code = data.draw(st.sampled_from(tuple(FLOATS)))
    delta = cast_once(np.array(values), code)
    a, b = opened([delta, np.zeros_like(delta)])
    made = widened(sp.compute(merged(form.method, b, [a], density=density, **form.parameters))["w"])
    assert np.count_nonzero(made) == kept_count(density, size)
    assert np.array_equal(made, np.where(trim_mask(widened(delta), density), widened(delta), 0.0))


@pytest.mark.parametrize("form", forms(), ids=str)
@given(data=st.data())
def test_shape_and_dtype_are_kept(form, data):
    """Every method gives each tensor the shape and dtype that it has in the base (the first model without one)."""
    method = form.method
    base, arrays = data.draw(groups(method, codes=tuple(FLOATS) if method.gives is None else WIDE))
    b, *models = opened([base, *arrays])
    made = sp.compute(merged(method, b, models, **form.parameters))["w"]
    assert (made.shape, made.dtype) == (base.shape, base.dtype)


@pytest.mark.parametrize("method", [m for m in METHODS.values() if not m.random], ids=lambda m: m.name)
def test_methods_without_randomness_ignore_seed_and_names(method):
    """DETERMINISTIC: neither seed nor tensor names (but for depth) nor names of models change a value."""
    flat = {**FLAT.get(method.name, {}), **tensorwise(method)}
    shape = (7, 7)  # square, so that any Gram matrix of its inputs has the shape of the others
    rng = np.random.default_rng(0)
    n = counts_of(method)[-1]
    arrays = [np.abs(rng.normal(size=shape)).astype(np.float32) for _ in range(n + 1)]
    beside = {c.name: companion_values(c, shape, rng) for c in method.companions if c.required}

    def companions_of(names):
        return {
            c.name: [sp.open(dict.fromkeys(names, beside[c.name]), name=f"{c.name}{i}") for i in range(n)]
            if c.per_model
            else sp.open(dict.fromkeys(names, beside[c.name]), name=c.name)
            for c in method.companions
            if c.required
        }

    expected = sp.compute(merged(method, *_split(opened(arrays)), **flat, **companions_of("w")))["w"]
    for seed in (1, 2**63):
        models = [sp.open(dict.fromkeys(NAMES, a), name=f"模型 {i}") for i, a in enumerate(arrays)]
        for made in sp.compute(merged(method, *_split(models), **flat, **companions_of(NAMES)), seed=seed).values():
            assert made.tobytes() == expected.tobytes()


def _split(models):
    return models[0], models[1:]


RANDOM = [m for m in METHODS.values() if m.random and takes(m, "density")]
"""Methods that draw masks."""


def plain(method):
    """What makes a random method plain DARE of one model: one probability for all entries, and rescaling."""
    return {
        **({"epsilon": 0.0} if takes(method, "epsilon") else {}),
        **({"rescale": True} if takes(method, "rescale") else {}),
    }


@pytest.mark.parametrize("method", RANDOM, ids=lambda m: m.name)
def test_masks_depend_on_seed_tensor_and_model(method):
    """Another seed, another tensor name or another model's name gives other random numbers."""
    delta = np.ones(500, np.float32)

    def mask(seed=0, model="m", tensor="w"):
        b = sp.open({tensor: np.zeros(500, np.float32)}, name="base")
        return sp.compute(
            merged(method, b, [sp.open({tensor: delta}, name=model)], density=0.5, **plain(method)), seed=seed
        )[tensor]

    first = mask()
    assert np.array_equal(first, mask())
    for other in (mask(seed=1), mask(model="n"), mask(tensor="v")):
        assert 150 < np.count_nonzero(first != other) < 350
    assert np.array_equal(first != 0, drop_mask((500,), 0.5, seed=0, tensor="w", model="m"))


@pytest.mark.parametrize("method", RANDOM, ids=lambda m: m.name)
def test_masks_depend_on_nothing_else(method):
    """A mask is the same whatever else is merged: other tensors, other models, their order, the tensor's length."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=5000).astype(np.float32)
    alone = drop_mask((5000,), 0.3, seed=9, tensor="b", model="m")

    def kept(length, models, before):
        def checkpoint(x, name):
            return sp.open({**({"a": np.ones(3, np.float32)} if before else {}), "b": x}, name=name)

        base = checkpoint(np.zeros(length, np.float32), "base")
        own = {
            name: checkpoint(values[:length] if name == "m" else np.zeros(length, np.float32), name) for name in models
        }
        return sp.compute(merged(method, base, list(own.values()), density=0.3, **plain(method)), seed=9)["b"] != 0

    for models in (("m",), ("m", "x"), ("x", "y", "m")):
        for before in (False, True):
            assert np.array_equal(kept(5000, models, before), alone)
    assert np.array_equal(kept(2049, ("m",), False), alone[:2049])


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("method", RANDOM, ids=lambda m: m.name)
def test_the_mean_over_seeds_is_the_delta(method, density):
    """Dropping and rescaling is unbiased: over 300 seeds the mean approaches δ, the variance δ²(1−p)/p."""
    delta = np.array([0.5, -1.0, 2.0, -0.25] * 64)
    b, m = sp.open({"w": np.zeros(256)}, name="base"), sp.open({"w": delta}, name="m")
    made = np.array(
        [sp.compute(merged(method, b, [m], density=density, **plain(method)), seed=s)["w"] for s in range(300)]
    )
    assert np.all((made == 0) | np.isclose(made, delta / density, rtol=1e-15))
    spread = np.abs(delta) * np.sqrt((1 - density) / density / 300)
    assert np.all(np.abs(made.mean(axis=0) - delta) < 5 * spread)
    assert abs(np.mean(made != 0) - density) < 5 * np.sqrt(density * (1 - density) / made.size)


@pytest.mark.parametrize("method", RANDOM, ids=lambda m: m.name)
@given(density=st.floats(0.0, 1.0), seed=st.integers(0, 2**64 - 1))
@example(density=0.0, seed=0)
@example(density=1.0, seed=2**64 - 1)
@example(density=1 - 2.0**-53, seed=0)
@example(density=2.0**-40, seed=0)
def test_density_may_be_anything_from_0_to_1(method, density, seed):
    """Density 0 gives the base, 1 the sum without random numbers, anything between drops by the mask."""
    assume(density == 0.0 or density > 1e-30)
    delta = np.linspace(1.0, 2.0, 50)
    b, m = sp.open({"w": np.zeros(50)}, name="base"), sp.open({"w": delta}, name="m")
    made = sp.compute(merged(method, b, [m], density=density, **plain(method)), seed=seed)["w"]
    mask = drop_mask((50,), density, seed=seed, tensor="w", model="m")
    assert np.allclose(made, np.where(mask, delta / (density or 1.0), 0.0), rtol=1e-15)


@pytest.mark.parametrize(
    "form", [f for f in with_law(Law.ORDER_FREE) if 3 in counts_of(f.method) and _exact(f.method)], ids=str
)
def test_all_orders_of_three_models_give_the_same_bytes(form):
    """With simple numbers no sum rounds, so an order-free method gives the same bytes for all six orders."""
    rng = np.random.default_rng(1)
    arrays = [(rng.integers(-8, 8, 400) / 16).astype(np.float32) for _ in range(4)]
    b, *models = opened(arrays)
    method, simple = form.method, {"normalize": False} if form.method.name == "fisher" else {}
    own = _own(method, (400,), 3)
    made = []
    for order in permutations(range(3)):
        beside = {name: [group[i] for i in order] for name, group in own.items()}
        expression = merged(method, b, [models[i] for i in order], **form.parameters, **simple, **beside)
        made.append(sp.compute(expression, seed=5))
    assert all(same_bytes(made[0], other) for other in made[1:])
