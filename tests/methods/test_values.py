"""Every method's values are those of its formula in float64, cast once.

Exactly so for the linear families (float64 outputs within 2 steps). For the others, what is stored is
the one rounding of a number within 1e-12 of the formula's value, relative to the sizes of the inputs:
never more than one step of the dtype beside it, and nearly always the very same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

import reference as ref
import stockpot as sp
from reference import FLOATS, between, cast_once, ulps, weights, widened

SHAPES = {
    "scalar": (),
    "empty": (0,),
    "no_rows": (0, 5),
    "one": (1,),
    "two": (2,),
    "prime": (10007,),
    "model.layers.0.mlp.weight": (31, 37),
    "kernel.weight": (5, 4, 3, 3),
    "thin.weight": (211, 1),
    "several.blocks": (601, 499),
}
"""More than 2^18 elements are more than one block; 601 and 499 are prime, so the last block is a short one."""

DTYPES = {code: (code,) * 4 for code in FLOATS} | {
    "mixed, F32 base": ("F32", "BF16", "F16", "F8_E5M2"),
    "mixed, BF16 base": ("BF16", "F32", "F64", "F8_E4M3"),
    "mixed, F16 base": ("F16", "F64", "F32", "BF16"),
}
"""Dtype of the base, then of three models."""

DTYPES_BY_NAME = {code: dtype.name for code, dtype in FLOATS.items()}

W = (0.3, -1.7, 2.25)
DENSITY = (0.2, 0.55, 0.9)
W7 = (0.3, 1.7, -0.25, 1.0, 0.6, -0.1, 0.9)
DENSITY7 = (0.2, 0.55, 0.9, 1.0, 0.35, 0.7, 0.5)
SEED = 20
SLACK = 1e-12


@dataclass(frozen=True)
class Case:
    """A merge as an expression, and its value for one tensor: base, models, name → float64."""

    build: Any
    value: Any
    models: int = 3
    exact: bool = False
    of_delta: bool = True
    leans: bool = False


def masks(name, shape, count, density):
    return [ref.drop_mask(shape, density[i], seed=SEED, tensor=name, model=f"m{i}") for i in range(count)]


def minus(models, base):
    return [m - base for m in models]


def dare_case(function, density, weight=W, **options):
    elects, count = function is sp.dare_ties, len(weight)
    return Case(
        lambda b, m: b + 0.75 * function(*minus(m, b), weight=list(weight), density=list(density), **options),
        lambda b, m, n, lean=0.0: ref.dare(
            b,
            m,
            weight,
            masks(n, np.shape(b), count, density),
            density,
            elects=elects,
            lean=lean,
            scale=0.75,
            **options,
        ),
        models=count,
        leans=elects,
    )


def ties_case(*, variant=None, scale=1.0, weight=W, density=DENSITY, **options):
    return Case(
        lambda b, m: (
            b + scale * sp.ties(*minus(m, b), weight=list(weight), density=list(density), variant=variant, **options)
        ),
        lambda b, m, _: ref.ties(b, m, weight, density, scale=scale, unweighted=variant == "unweighted", **options),
        models=len(weight),
    )


def around(value):
    """A slerp of differences as a value around the base."""
    return lambda b, m, _: widened(b) + value(*ref.deltas(m, b))


CASES = {
    "linear": Case(
        lambda _, m: sp.linear(*m, weight=list(W)),
        lambda _, m, __: ref.linear(m, W),
        exact=True,
        of_delta=False,
    ),
    "linear, equal weights": Case(
        lambda _, m: sp.linear(*m), lambda _, m, __: ref.linear(m, (1.0,) * 3), exact=True, of_delta=False
    ),
    "linear, not normalized": Case(
        lambda _, m: sp.linear(*m, weight=list(W), normalize=False),
        lambda _, m, __: ref.linear(m, W, normalize=False),
        exact=True,
        of_delta=False,
    ),
    "operators": Case(
        lambda _, m: 0.45 * m[0] + 0.3 * m[1] + 0.25 * m[2],
        lambda _, m, __: ref.linear(m, (0.45, 0.3, 0.25), normalize=False),
        exact=True,
        of_delta=False,
    ),
    "task_arithmetic": Case(
        lambda b, m: b + 0.7 * sp.task_arithmetic(*minus(m, b), weight=list(W)),
        lambda b, m, _: ref.task_arithmetic(b, m, W, 0.7),
        exact=True,
    ),
    "task_arithmetic, normalized": Case(
        lambda b, m: b + sp.task_arithmetic(*minus(m, b), weight=list(W), normalize=True),
        lambda b, m, _: widened(b) + sum(w * d for w, d in zip(W, ref.deltas(m, b), strict=True)) / sum(W),
        exact=True,
    ),
    "wise_ft": Case(
        lambda b, m: sp.wise_ft(b, m[0], alpha=0.3),
        lambda b, m, _: (1.0 - 0.3) * widened(b) + 0.3 * widened(m[0]),
        models=1,
        exact=True,
    ),
    "passthrough, scaled": Case(
        lambda b, _: sp.passthrough(b, scale=-0.37), lambda b, _, __: -0.37 * widened(b), models=1, exact=True
    ),
    "slerp": Case(
        lambda b, m: sp.slerp(b, m[0], t=0.3),
        lambda b, m, _: ref.slerp(widened(b), widened(m[0]), 0.3),
        models=1,
    ),
    "slerp beyond the end": Case(
        lambda b, m: sp.slerp(b, m[0], t=1.4),
        lambda b, m, _: ref.slerp(widened(b), widened(m[0]), 1.4),
        models=1,
    ),
    "slerp of differences": Case(
        lambda b, m: b + sp.slerp(*minus(m, b), t=0.6), around(lambda x, y: ref.slerp(x, y, 0.6)), models=2
    ),
    "nuslerp": Case(
        lambda _, m: sp.nuslerp(*m, weight=[1.0, 3.0]),
        lambda _, m, __: ref.slerp(widened(m[0]), widened(m[1]), 0.75),
        models=2,
        of_delta=False,
    ),
    "nuslerp of differences": Case(
        lambda b, m: b + sp.nuslerp(*minus(m, b), weight=[1.0, 3.0]),
        around(lambda x, y: ref.slerp(x, y, 0.75)),
        models=2,
    ),
    "nuslerp by rows": Case(
        lambda b, m: b + sp.nuslerp(*minus(m, b), weight=[3.0, 1.0], nuslerp_flatten=False),
        around(lambda x, y: ref.slerp_along(x, y, 0.25, -1)),
        models=2,
    ),
    "nuslerp by columns": Case(
        lambda b, m: b + sp.nuslerp(*minus(m, b), weight=[3.0, 1.0], nuslerp_flatten=False, nuslerp_row_wise=True),
        around(lambda x, y: ref.slerp_along(x, y, 0.25, 0)),
        models=2,
    ),
    "model_stock": Case(lambda b, m: b + sp.model_stock(*minus(m, b)), lambda b, m, _: ref.model_stock(b, m), models=3),
    "model_stock by rows": Case(
        lambda b, m: b + sp.model_stock(*minus(m, b), filter_wise=True),
        lambda b, m, _: ref.model_stock(b, m, filter_wise=True),
        models=3,
    ),
    "ties": ties_case(),
    "ties, a sum": ties_case(normalize=False, scale=0.3),
    "ties, not trimmed": ties_case(density=(1.0, 1.0, 1.0)),
    "ties, rescaled": ties_case(rescale=True),
    "ties, unweighted": ties_case(variant="unweighted"),
    "ties, unweighted sum": ties_case(variant="unweighted", normalize=False, rescale=True, scale=1.25),
    "ties, equal weights": ties_case(weight=(1.0, 1.0, 1.0), density=(0.5, 0.5, 1.0)),
    "dare_linear": dare_case(sp.dare_linear, DENSITY),
    "dare_linear, not rescaled": dare_case(sp.dare_linear, DENSITY, rescale=False),
    "dare_linear, normalized": dare_case(sp.dare_linear, (1.0, 0.5, 0.0), normalize=True),
    "dare_ties": dare_case(sp.dare_ties, DENSITY),
    "dare_ties, normalized": dare_case(sp.dare_ties, DENSITY, normalize=True),
    "dare_ties, not rescaled": dare_case(sp.dare_ties, (0.1, 1.0, 0.5), rescale=False),
    "linear of seven": Case(
        lambda _, m: sp.linear(*m, weight=list(W7)),
        lambda _, m, __: ref.linear(m, W7),
        models=7,
        exact=True,
        of_delta=False,
    ),
    "task_arithmetic of five": Case(
        lambda b, m: b + sp.task_arithmetic(*minus(m, b), weight=list(W7[:5])),
        lambda b, m, _: ref.task_arithmetic(b, m, W7[:5]),
        models=5,
        exact=True,
    ),
    "ties of one": ties_case(weight=(0.7,), density=(0.3,)),
    "ties of four": ties_case(weight=W7[:4], density=DENSITY7[:4]),
    "ties of five": ties_case(weight=W7[:5], density=DENSITY7[:5]),
    "ties of seven": ties_case(weight=W7, density=DENSITY7),
    "ties of seven, unweighted": ties_case(variant="unweighted", weight=W7, density=DENSITY7),
    "dare_linear of seven": dare_case(sp.dare_linear, DENSITY7, W7),
    "dare_ties of seven": dare_case(sp.dare_ties, DENSITY7, W7, normalize=True),
}


def one_sign(name, shape):
    """Whether vectors of one entry occur: they point either the same or the opposite way, and that is an error."""
    return "slerp" in name and (shape in ((), (1,)) or (shape == (211, 1) and "rows" in name))


@cache
def drawn(dtypes):
    """A base and seven fine-tunes as arrays: shape name → array."""
    rng = np.random.default_rng(0)
    base = {n: weights(rng, s, dtypes[0]) for n, s in SHAPES.items()}
    return base, [
        {n: weights(rng, s, code, around=base[n], apart=0.02) for n, s in SHAPES.items()}
        for code in (dtypes[1:] * 3)[:7]
    ]


def models_of(dtypes, count, name):
    """The base and the models of a case; where only signs would differ, they agree."""
    base, tuned = drawn(dtypes)
    base, tuned = dict(base), [dict(t) for t in tuned[:count]]
    for n, shape in SHAPES.items():
        if one_sign(name, shape):
            for t in tuned:
                t[n] = np.abs(t[n])
            base[n] = -np.abs(base[n]) if "by" in name or "of differences" in name else np.abs(base[n])
    return base, tuned


NUMBERS = tuple(f" of {number}" for number in ("one", "four", "five", "seven"))
PAIRS = [
    (case, dtypes)
    for case in CASES
    for dtypes in DTYPES
    if dtypes in ("F32", "BF16", "mixed, F16 base") or not any(number in case for number in NUMBERS)
]


@pytest.mark.parametrize(("case", "dtypes"), PAIRS)
def test_values_are_those_of_the_formula(case, dtypes):
    """Each tensor of each method, dtype and shape equals its formula evaluated in float64 and cast once."""
    known = CASES[case]
    base, tuned = models_of(DTYPES[dtypes], known.models, case)
    opened = [sp.open(m, name=f"m{i}") for i, m in enumerate(tuned)]
    made = sp.compute(known.build(sp.open(base, name="base"), opened), seed=SEED)
    assert list(made) == list(SHAPES)
    out = DTYPES[dtypes][0] if known.of_delta else DTYPES[dtypes][1]
    for name, shape in SHAPES.items():
        arrays = [m[name] for m in tuned]
        assert made[name].dtype == FLOATS[out]
        assert made[name].shape == shape
        if known.exact:
            value = known.value(base[name], arrays, name)
            assert ulps(made[name], cast_once(value, out)) <= (2 if out == "F64" else 0), name
            continue
        sizes = np.abs(widened(base[name])) + sum(np.abs(widened(a)) for a in arrays)
        leans = (-SLACK, SLACK) if known.leans else (0.0,)
        values = [known.value(base[name], arrays, name, *((lean,) if known.leans else ())) for lean in leans]
        fits = [between(made[name], value, 20 * SLACK * sizes) for value in values]
        assert np.all(np.logical_or.reduce(fits)), name


@pytest.mark.parametrize("out", list(FLOATS))
@pytest.mark.parametrize("stored", list(FLOATS))
def test_the_output_dtype_is_the_one_asked_for(stored, out):
    """Whatever is stored, dtype= rounds the float64 result to it, once; copying one model is a plain cast."""
    rng = np.random.default_rng(0)
    a, b = (weights(rng, (40, 7), stored, sd=0.3) for _ in range(2))
    x, y = sp.open({"w": a}, name="a"), sp.open({"w": b}, name="b")
    name = DTYPES_BY_NAME[out]
    mixed = sp.compute(0.4 * x + 0.6 * y, dtype=name)["w"]
    assert ref.same(mixed, cast_once(0.4 * widened(a) + 0.6 * widened(b), out))
    copied = sp.compute(sp.passthrough(x), dtype=name)["w"]
    assert copied.tobytes() == cast_once(widened(a), out).tobytes()


@pytest.mark.parametrize("out", list(FLOATS))
@pytest.mark.parametrize("stored", list(FLOATS))
def test_the_sign_of_zero_survives(stored, out):
    """Changing the dtype of -0 gives -0, and so does a mean of models that all have -0 there, as in IEEE sums."""
    zeros = cast_once(np.array([0.0, -0.0, -0.0, 0.0, -0.0]), stored)
    x, y = sp.open({"w": zeros}, name="x"), sp.open({"w": zeros}, name="y")
    name = DTYPES_BY_NAME[out]
    for merged in (sp.passthrough(x), 0.5 * x + 0.5 * y, sp.slerp(x, y, t=0.25), sp.linear(x, y, x, y)):
        made = sp.compute(merged, dtype=name)["w"]
        assert np.signbit(made.astype(np.float64)).tolist() == [False, True, True, False, True]


def test_weights_may_be_any_finite_numbers():
    """Negative weights and weights whose sum is not 1 are taken as they are; normalizing divides by their sum."""
    a, b = (sp.open({"w": np.full(3, v, np.float32)}, name=str(v)) for v in (2.0, 5.0))
    assert np.array_equal(sp.compute(sp.linear(a, b, weight=[-1, 3]))["w"], np.full(3, (-2 + 15) / 2, np.float32))
    made = sp.compute(sp.linear(a, b, weight=[-1, 3], normalize=False))["w"]
    assert np.array_equal(made, np.full(3, 13, np.float32))


def test_slerp_norm_ratio_is_that_of_the_arc():
    """Between unit vectors at 90°, slerp's norm at 0.5 is 1, √2 times that of the plain mean."""
    a, b = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    made = sp.compute(sp.slerp(sp.open({"w": a}, name="a"), sp.open({"w": b}, name="b"), t=0.5))["w"]
    assert np.linalg.norm(made) == pytest.approx(1.0, abs=1e-15)
    assert np.linalg.norm(made) / np.linalg.norm((a + b) / 2) == pytest.approx(np.sqrt(2), abs=1e-15)


@pytest.mark.parametrize("cosine", [1.0, 0.9999999, 0.9, 0.5, 0.0, -0.5])
def test_model_stock_ratio(cosine):
    """t = 2c / (1 + c) for two task vectors with cosine c, never outside [0, 1]: 1 at c = 1, 0 from c = 0 down."""
    a = np.array([1.0, 0.0])
    b = np.array([cosine, np.sqrt(1 - cosine**2)])
    base = sp.open({"w": np.zeros(2)}, name="base")
    models = [sp.open({"w": x}, name=str(i)) - base for i, x in enumerate((a, b))]
    made = sp.compute(base + sp.model_stock(*models))["w"]
    t = min(max(2 * cosine / (1 + cosine), 0.0), 1.0)
    assert np.allclose(made, t * (a + b) / 2, atol=1e-14)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_model_stock_with_a_zero_task_vector_is_the_base(count):
    """One model equal to the base has no angle to the others: t is 0, however many others there are."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(4, 5))
    b = sp.open({"w": base}, name="base")
    models = [sp.open({"w": base + 0.1 * (i > 0)}, name=str(i)) - b for i in range(count)]
    assert np.array_equal(sp.compute(b + sp.model_stock(*models))["w"], base)


def test_model_stock_is_clamped_where_the_ratio_is_singular():
    """N vectors with mean cosine −1/(N−1) or below would be stretched without bound; they give the base."""
    base = np.zeros((1, 2))
    b = sp.open({"w": base}, name="base")
    angles = np.array([0, 2, 4]) * np.pi / 3
    models = [sp.open({"w": np.array([[np.cos(x), np.sin(x)]])}, name=f"{x}") - b for x in angles]
    assert np.allclose(sp.compute(b + sp.model_stock(*models))["w"], 0.0, atol=1e-12)
