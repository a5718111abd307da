"""``compat: mergekit`` is that tool's arithmetic, formula by formula, as docs/compatibility.md lists it."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import stockpot as sp

ZERO = np.zeros((40, 25))


def arrays(count, *, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=ZERO.shape)
    return base, [base + spread * rng.normal(size=ZERO.shape) for _ in range(count)]


def opened(base, tuned):
    return sp.open({"w": base}, name="base"), [sp.open({"w": x}, name=f"m{i}") for i, x in enumerate(tuned)]


def computed(expression):
    return sp.compute(expression)["w"]


def cosine(a, b):
    return float(np.sum(a * b) / np.sqrt(np.sum(a * a)) / np.sqrt(np.sum(b * b)))


@pytest.mark.parametrize("density", [0.0301, 0.5, 0.9999, 1e-6])
def test_ties_keeps_the_whole_number_below(density):
    """mergekit keeps max(1, ⌊density × n⌋) entries, where the default rounds to the nearest number."""
    base, (x,) = arrays(1)
    b, (m,) = opened(base, [x])
    made = computed(b + sp.ties(m - b, density=density, compat="mergekit")) - base
    order = np.argsort(-np.abs((x - base).astype(np.float32)).reshape(-1), kind="stable")
    kept = max(1, int(density * x.size))
    expected = np.zeros(x.size)
    expected[order[:kept]] = (x - base).reshape(-1)[order[:kept]]
    assert np.allclose(made.reshape(-1), expected, atol=1e-14)


@pytest.mark.parametrize("function", [sp.dare_linear, sp.dare_ties])
def test_dare_matches_the_l1_norm(function):
    """mergekit rescales what is left to the sum of magnitudes before dropping, where the paper divides by density."""
    base, tuned = arrays(3)
    b, models = opened(base, tuned)
    density, weight = (0.3, 0.6, 1.0), (0.5, -0.2, 1.0)
    made = computed(
        b + function(*(m - b for m in models), density=list(density), weight=list(weight), compat="mergekit")
    )
    parts = []
    for i, x in enumerate(tuned):
        mask = ref.drop_mask(ZERO.shape, density[i], seed=0, tensor="w", model=f"m{i}")
        d = x - base
        dropped = np.where(mask, d, 0.0)
        parts.append(weight[i] * dropped * (np.sum(np.abs(d)) / np.sum(np.abs(dropped))))
    if function is sp.dare_ties:
        parts = ref.elect(parts)
    assert np.allclose(made, base + sum(parts), rtol=1e-12, atol=1e-13)
    paper = computed(b + function(*(m - b for m in models), density=list(density), weight=list(weight)))
    assert not np.allclose(made, paper, rtol=1e-3)


def test_dare_matches_no_norm_without_rescaling():
    """rescale: false leaves what is kept as it is, under compat too."""
    base, (x,) = arrays(1)
    b, (m,) = opened(base, [x])
    made = computed(b + sp.dare_linear(m - b, density=0.4, rescale=False, compat="mergekit"))
    mask = ref.drop_mask(ZERO.shape, 0.4, seed=0, tensor="w", model="m0")
    assert np.allclose(made, base + np.where(mask, x - base, 0.0), atol=1e-14)


@pytest.mark.parametrize("spread", [1e-3, 0.02, 0.05, 1.0, 30.0])
def test_slerp_is_a_plain_mean_above_a_cosine(spread):
    """Above |cosine| 0.9995 mergekit's slerp is linear interpolation; the default always follows the arc."""
    base, (x,) = arrays(1, spread=spread)
    b, (m,) = opened(base, [x])
    made = computed(sp.slerp(b, m, t=0.3, compat="mergekit"))
    arc, mean = ref.slerp(base, x, 0.3), 0.7 * base + 0.3 * x
    expected = mean if abs(cosine(base, x)) > 0.9995 else arc
    assert np.allclose(made, expected, rtol=1e-12, atol=1e-13)
    assert np.allclose(computed(sp.slerp(b, m, t=0.3)), arc, rtol=1e-9, atol=1e-10)


def test_opposite_models_are_interpolated_under_compat():
    """Where the default has no answer, mergekit interpolates, for slerp and for nuslerp."""
    base, _ = arrays(0)
    b, (m,) = opened(base, [-base])
    for merged in (
        sp.slerp(b, m, t=0.25, compat="mergekit"),
        sp.nuslerp(b, m, weight=[3.0, 1.0], compat="mergekit"),
    ):
        assert np.allclose(computed(merged), 0.75 * base - 0.25 * base, atol=1e-12)
    with pytest.raises(sp.ExecutionError, match="opposite"):
        computed(sp.slerp(b, m, t=0.25))


@pytest.mark.parametrize("between", [0.9, 0.2, -0.3])
def test_model_stock_is_not_clamped(between):
    """mergekit's ratio 2c / (1 + c) may be negative; the default stops at 0."""
    a, b = np.zeros((1, 50)), np.zeros((1, 50))
    a[0, 0] = 1.0
    b[0, :2] = between, np.sqrt(1.0 - between**2)
    origin, models = opened(np.zeros((1, 50)), [a, b])
    merged = [origin + sp.model_stock(*(m - origin for m in models), compat=c) for c in ("mergekit", None)]
    ratio = 2.0 * between / (1.0 + between)
    assert np.allclose(computed(merged[0]), ratio * (a + b) / 2.0, atol=1e-12)
    assert np.allclose(computed(merged[1]), max(ratio, 0.0) * (a + b) / 2.0, atol=1e-12)


def unit_sum(arrays, weight, eps):
    """Σ w x / (|x| + eps), scaled to the length cos(eps) Σ w |x|: what multislerp is in mergekit."""
    norms = [np.sqrt(np.sum(x * x)) for x in arrays]
    total = sum(w * x / (n + eps) for w, x, n in zip(weight, arrays, norms, strict=True))
    return total / np.sqrt(np.sum(total**2)) * np.cos(eps) * np.dot(weight, norms)


@pytest.mark.parametrize("eps", [1e-8, 1e-3, 0.1])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_multislerp_is_a_normalised_sum(count, normalize, eps):
    """mergekit's correction in the tangent space is 0, which leaves a sum of unit vectors; weights of any sign."""
    base, tuned = arrays(count, spread=0.5)
    b, models = opened(base, tuned)
    weight = [0.4 - 0.3 * (i == 1) + 0.1 * i for i in range(count)]
    weight[-1] = -0.15
    given = {"weight": weight, "normalize_weights": normalize, "eps": eps, "compat": "mergekit"}
    used = [w / sum(weight) for w in weight] if normalize else weight
    assert np.allclose(computed(sp.multislerp(*models, **given)), unit_sum(tuned, used, eps), rtol=1e-11, atol=1e-12)
    made = computed(b + sp.multislerp(*(m - b for m in models), **given))
    assert np.allclose(made, base + unit_sum([x - base for x in tuned], used, eps), rtol=1e-11, atol=1e-12)


def test_multislerp_of_one_and_of_what_cancels():
    """One model is handed on whatever its weight; two that cancel are interpolated; more are an error."""
    base, (x,) = arrays(1)
    b, (m, opposite, zero) = opened(base, [x, -x, ZERO])
    assert np.array_equal(computed(sp.multislerp(m, weight=0.3, compat="mergekit")), x)
    assert np.allclose(computed(sp.multislerp(m, opposite, weight=[2.0, 2.0], compat="mergekit")), ZERO, atol=1e-12)
    with pytest.raises(sp.ExecutionError, match="cancel"):
        computed(sp.multislerp(m, opposite, zero, compat="mergekit"))
    with pytest.raises(sp.ExecutionError, match="normalize_weights: false"):
        computed(sp.multislerp(m, opposite, weight=[1.0, -1.0], compat="mergekit"))
    assert np.array_equal(computed(b + sp.multislerp(*[b - b] * 3, compat="mergekit")), base)


def karcher_steps(vectors, steps, tol):
    """mergekit's iteration on whole vectors."""
    norms = [np.sqrt(np.sum(x * x)) for x in vectors]
    units = [x / n for x, n in zip(vectors, norms, strict=True) if n > tol]
    u = sum(units) / len(units)
    u = units[0] if np.sqrt(np.sum(u * u)) < tol else u / np.sqrt(np.sum(u * u))
    for _ in range(steps):
        pull = np.zeros_like(u)
        for v in units:
            c = np.clip(np.sum(u * v), -1.0, 1.0)
            if np.arccos(c) >= tol:
                pull += np.arccos(c) / np.sin(np.arccos(c)) * (v - c * u) / len(units)
        size = np.sqrt(np.sum(pull * pull))
        if size < tol:
            break
        u = np.cos(size) * u + np.sin(size) * pull / size
    return u * sum(norms) / len(vectors)


@pytest.mark.parametrize(("steps", "tol"), [(10, 1e-5), (2, 1e-5), (0, 1e-5), (50, 1e-12), (10, 0.3)])
@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_karcher_takes_the_same_steps(count, steps, tol):
    """As many steps, and the same end of them, as mergekit's; vectors no longer than tol have no direction."""
    _, tuned = arrays(count)
    tuned[-1] = 1e-8 * tuned[-1] if count > 2 else tuned[-1]
    _, models = opened(ZERO, tuned)
    made = computed(sp.karcher(*models, max_iter=steps, tol=tol, compat="mergekit"))
    assert np.allclose(made, karcher_steps(tuned, steps, tol), rtol=1e-10, atol=1e-11)


def test_karcher_of_zeros_and_opposites():
    """Opposite vectors give the first one's direction, vectors no longer than tol give zeros, one model itself."""
    _, (x,) = arrays(1)
    _, (m, opposite, tiny) = opened(ZERO, [x, -3.0 * x, 1e-9 * x])
    assert np.allclose(computed(sp.karcher(m, opposite, compat="mergekit")), 2.0 * x, rtol=1e-12)
    assert np.array_equal(computed(sp.karcher(tiny, tiny, compat="mergekit")), ZERO)
    assert np.array_equal(computed(sp.karcher(tiny, compat="mergekit")), 1e-9 * x)


def test_what_is_not_listed_is_the_same():
    """linear, task arithmetic and untrimmed TIES have the same bytes with and without compat."""
    base, tuned = arrays(3)
    b, models = opened(base, tuned)
    differences = [m - b for m in models]
    for build in (
        lambda **c: sp.linear(*models, weight=[0.3, 0.5, -0.2], **c),
        lambda **c: b + sp.task_arithmetic(*differences, weight=0.4, **c),
        lambda **c: b + sp.ties(*differences, weight=[0.3, 0.5, 0.7], **c),
    ):
        assert computed(build()).tobytes() == computed(build(compat="mergekit")).tobytes()
