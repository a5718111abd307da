"""Matrix methods: values from the papers' formulas, computed independently, and the laws that each declares.

The references use NumPy's decompositions directly, in the form the papers give, and share nothing with the
methods but the declaration of their parameters.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from matrices import Work, make, make_grams, near, resolved, solve
from stockpot.methods.declare import Base, Law, Matrix
from stockpot.methods.matrix.cart import CART
from stockpot.methods.matrix.isotropic import ISO_C, ISO_CTS
from stockpot.methods.matrix.low_rank import LOW_RANK, SUBSPACE_BOOSTING
from stockpot.methods.matrix.opcm import OPCM
from stockpot.methods.matrix.regmean import REGMEAN
from stockpot.methods.matrix.task_singular_vectors import TSV_M
from stockpot.methods.matrix.wudi import WUDI

METHODS = (TSV_M, ISO_C, ISO_CTS, CART, WUDI, REGMEAN, OPCM, SUBSPACE_BOOSTING, LOW_RANK)
SHAPES = ((7, 5), (5, 7), (6, 6), (1, 9), (9, 1), (1, 1), (24, 33), (0, 4), (4, 0))
COUNTS = range(1, 9)


def named(method):
    return method.name


# references


def triplets(a, k=None):
    u, s, v = np.linalg.svd(a, full_matrices=False)
    k = min(len(s) if k is None else k, int((s > 1e-10 * s[:1]).sum()))
    return u[:, :k], s[:k], v[:k]


def polar_reference(a):
    u, _, v = triplets(a)
    return u @ v


def truncated(a, k):
    u, s, v = triplets(a, k)
    return u @ np.diag(s) @ v


def tsv_m_reference(deltas, p):
    k = max(1, min(deltas[0].shape) // len(deltas))
    parts = [triplets(w * d, k) for w, d in zip(p["weight"], deltas, strict=True)]
    u, v = np.hstack([x[0] for x in parts]), np.vstack([x[2] for x in parts])
    return polar_reference(u) @ np.diag(np.concatenate([x[1] for x in parts])) @ polar_reference(v)


def iso_c_reference(deltas, p):
    total = sum(w * d for w, d in zip(p["weight"], deltas, strict=True))
    return np.linalg.svd(total, compute_uv=False).mean() * polar_reference(total) if total.size else total


def iso_cts_reference(deltas, p):
    deltas = [w * d for w, d in zip(p["weight"], deltas, strict=True)]
    full, models = min(deltas[0].shape), len(deltas)
    specific = round((full - int(full * p["common_space_fraction"])) / models) * models
    while specific > full:
        specific -= models
    common = triplets(sum(deltas), full - specific)
    basis = common[0] @ common[0].T
    outside = [np.where(np.abs(x) > 1e-12, x, 0.0) for x in (d - basis @ d for d in deltas)]
    parts = [triplets(x, specific // models) for x in outside] + [common]
    values = np.zeros(full)
    found = np.concatenate([x[1] for x in parts])
    values[: len(found)] = found
    u, v = np.hstack([x[0] for x in parts]), np.vstack([x[2] for x in parts])
    return (values.mean() if full else 0.0) * polar_reference(u) @ polar_reference(v)


def cart_reference(models, p):
    mean = np.mean(models, axis=0)
    k = max(1, int(p["rank_share"] * min(mean.shape)))
    return mean + p["lambda"] * sum(truncated(x - mean, k) for x in models)


def wudi_reference(deltas, p):
    grams = [w * d.T @ d / (d**2).sum() for w, d in zip(p["weight"], deltas, strict=True) if d.any()]
    kept = [d for d in deltas if d.any()]
    if not kept:
        return np.zeros_like(deltas[0])
    return sum(d @ g for d, g in zip(kept, grams, strict=True)) @ np.linalg.pinv(sum(grams), rcond=1e-13)


def regmean_reference(models, p):
    grams = make_grams(models)
    kept = [p["off_diagonal"] * g + (1 - p["off_diagonal"]) * np.diag(np.diag(g)) for g in grams]
    kept = [w * g for w, g in zip(p["weight"], kept, strict=True)]
    return sum(x @ g for x, g in zip(models, kept, strict=True)) @ np.linalg.inv(sum(kept))


def opcm_reference(deltas, p):
    """With full square bases, step by step, as the paper tells it."""
    merged, scale = deltas[0], 1.0
    lengths = [np.linalg.norm(deltas[0])]
    for delta in deltas[1:]:
        lengths.append(np.linalg.norm(delta))
        u, s, v = np.linalg.svd(merged)
        inner = u.T @ delta @ v.T
        np.fill_diagonal(inner, 0.0)
        shares = np.cumsum(s) / s.sum()
        block = int((shares > p["alpha"]).argmax())
        inner[:block, :block] = 0.0
        raw = scale * merged + u @ inner @ v
        scale = np.linalg.norm(raw) / np.mean(lengths) if p["scaling"] == "norm" else np.sqrt(len(lengths))
        merged = raw / scale
    return merged


def boosting_reference(deltas, p):
    total = sum(w * d for w, d in zip(p["weight"], deltas, strict=True))
    u, s, v = triplets(total)
    if not s.size:
        return total
    cut = next(i for i in range(len(s)) if s[: i + 1].sum() >= p["beta"] * s.sum() * (1 - 1e-14))
    return u @ np.diag(np.maximum(s, s[cut])) @ v


def low_rank_reference(deltas, p):
    return sum(w * truncated(d, p["rank"]) for w, d in zip(p["weight"], deltas, strict=True))


WEIGHTS = (0.3, 1.7, 0.25, 1.0, 0.6, 0.1, 0.9, 2.0)
SIGNED = (0.3, -1.7, 0.25, 1.0, 0.6, -0.1, 0.9, 2.0)
CASES = {
    "tsv_m": (TSV_M, tsv_m_reference, {}),
    "tsv_m weighted": (TSV_M, tsv_m_reference, {"weight": SIGNED}),
    "iso_c": (ISO_C, iso_c_reference, {}),
    "iso_c weighted": (ISO_C, iso_c_reference, {"weight": SIGNED}),
    "iso_cts": (ISO_CTS, iso_cts_reference, {}),
    "iso_cts half": (ISO_CTS, iso_cts_reference, {"common_space_fraction": 0.5, "weight": SIGNED}),
    "iso_cts none": (ISO_CTS, iso_cts_reference, {"common_space_fraction": 0.0}),
    "cart": (CART, cart_reference, {}),
    "cart third": (CART, cart_reference, {"rank_share": 0.34, "lambda_": 1.5}),
    "wudi": (WUDI, wudi_reference, {}),
    "wudi weighted": (WUDI, wudi_reference, {"weight": WEIGHTS}),
    "regmean": (REGMEAN, regmean_reference, {}),
    "regmean weighted": (REGMEAN, regmean_reference, {"weight": WEIGHTS, "off_diagonal": 0.1}),
    "opcm root": (OPCM, opcm_reference, {"scaling": "root"}),
    "opcm": (OPCM, opcm_reference, {}),
    "opcm less": (OPCM, opcm_reference, {"alpha": 0.2}),
    "boosting": (SUBSPACE_BOOSTING, boosting_reference, {}),
    "boosting half": (SUBSPACE_BOOSTING, boosting_reference, {"beta": 0.5, "weight": SIGNED}),
    "low_rank": (LOW_RANK, low_rank_reference, {"rank": 2, "weight": SIGNED}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shape", [s for s in SHAPES if min(s)])
def test_values(case, shape):
    """For every shape and 1 to 8 models, the result is that of the published formula."""
    method, reference, given = CASES[case]
    tolerance = 1e-6 if method in (REGMEAN, WUDI) else 1e-9
    for count in COUNTS:
        here = {k: v[:count] if isinstance(v, tuple) else v for k, v in given.items()}
        deltas = make(shape, count)
        near(solve(method, deltas, **here), reference(deltas, resolved(method, count, **here)), tolerance)


@pytest.mark.parametrize("case", [c for c in CASES if not c.startswith(("opcm", "regmean"))])
@pytest.mark.parametrize("shape", [(7, 5), (9, 12)])
def test_values_of_low_rank(case, shape):
    """Task vectors of rank 2, and some of them zero, give what the formula gives on the range alone."""
    method, reference, given = CASES[case]
    for count in COUNTS:
        here = {k: v[:count] if isinstance(v, tuple) else v for k, v in given.items()}
        left, right = make((shape[0], 2), count, seed=1), make((2, shape[1]), count, seed=2)
        deltas = [(i % 3 != 1) * (x @ y) for i, (x, y) in enumerate(zip(left, right, strict=True))]
        near(solve(method, deltas, **here), reference(deltas, resolved(method, count, **here)), 1e-6)


# laws


def with_law(law):
    return [m for m in METHODS if law in m.laws]


@pytest.mark.parametrize("method", with_law(Law.IDEMPOTENT), ids=named)
@pytest.mark.parametrize("shape", SHAPES)
def test_idempotent(method, shape):
    """Copies of one model give that model back."""
    for count in COUNTS:
        x = make(shape, 1)[0]
        near(solve(method, [x] * count), x, 1e-12 if method.base is Base.NONE else 1e-9)


@pytest.mark.parametrize("method", with_law(Law.ORDER_FREE), ids=named)
@pytest.mark.parametrize("shape", SHAPES)
def test_order_free(method, shape):
    """The order of the models, with their weights and companions, does not matter beyond rounding."""
    for count in (2, 3, 7):
        models, grams = make(shape, count), make_grams(make(shape, count))
        order = np.random.default_rng(0).permutation(count)
        given = {"weight": WEIGHTS[:count]} if method is not CART else {}
        turned = {"weight": [WEIGHTS[i] for i in order]} if given else {}
        expected = solve(method, models, grams, **given)
        near(solve(method, [models[i] for i in order], [grams[i] for i in order], **turned), expected, 1e-8)


@pytest.mark.parametrize("method", with_law(Law.ZERO_DELTA), ids=named)
@pytest.mark.parametrize("shape", SHAPES)
def test_zero_delta(method, shape):
    """Models equal to the base change nothing, exactly."""
    for count in COUNTS:
        assert not solve(method, [np.zeros(shape)] * count).any()


@pytest.mark.parametrize("method", with_law(Law.DETERMINISTIC), ids=named)
def test_deterministic(method):
    """No random numbers are drawn, whatever the size."""

    class Silent(Work):
        def normal(self, rows, columns):
            raise AssertionError((rows, columns))

    models = make((260, 270), 3)
    p = resolved(method, 3)
    method.family.solve(models, p, Silent(make_grams(models)))


def test_low_rank_draws_only_from_the_work():
    """Only low_rank is not declared deterministic; its numbers come from the work it is given."""
    assert [m for m in METHODS if m.random] == [LOW_RANK]
    models = make((260, 270), 2)
    np.testing.assert_array_equal(solve(LOW_RANK, models, rank=4), solve(LOW_RANK, models, rank=4))


@pytest.mark.parametrize("factor", [2.0**-9, 3.0, -1.0])
@pytest.mark.parametrize("method", [m for m in METHODS if m.base is Base.REQUIRED], ids=named)
def test_scale(method, factor):
    """A task vector scaled in all models scales the result: no method has a unit of length of its own."""
    deltas = make((9, 6), 3)
    near(solve(method, [factor * d for d in deltas]), factor * solve(method, deltas))


@pytest.mark.parametrize("method", [TSV_M, ISO_C, CART, OPCM, SUBSPACE_BOOSTING, LOW_RANK], ids=named)
def test_transposed(method):
    """These methods treat rows and columns alike."""
    models = make((9, 6), 3)
    near(solve(method, [m.T for m in models]).T, solve(method, models))


@pytest.mark.parametrize("method", METHODS, ids=named)
@pytest.mark.parametrize("shape", SHAPES)
def test_degenerate(method, shape):
    """Zero, equal and opposed models in any number give finite results and no warnings."""
    for count in COUNTS:
        x, y = make(shape, 2, seed=4)
        zero = np.zeros(shape)
        line = np.outer(np.ones(shape[0]), np.arange(shape[1]))
        pairs = (x, -x), (x, zero), (zero, x), (line, line), (line, -line), (x, x + 1e-9 * y), (1e-30 * x, 1e30 * y)
        for first, second in pairs:
            solve(method, [first if i % 2 == 0 else second for i in range(count)])
    solve(method, [np.zeros(shape)] * 2, [np.zeros((shape[1], shape[1]))] * 2)


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_not_finite(method):
    """NaN in a model does not become numbers: it is refused, or found again in the result."""
    models = make((6, 5), 2)
    models[1][2, 3] = np.nan
    p, work = resolved(method, 2), Work(make_grams(models))
    try:
        assert np.isnan(method.family.solve(models, p, work)).any()
    except ValueError as error:
        assert "NaN" in str(error)  # noqa: PT017


@pytest.mark.parametrize("method", METHODS, ids=named)
@pytest.mark.parametrize("shape", [(150, 90), (90, 150), (120, 120)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_memory(method, shape, count):
    """The arrays that a method allocates fit in the numbers that it declares."""
    models = make(shape, count)
    p, work = resolved(method, count), Work(make_grams(models))
    method.family.solve(models, p, work)
    tracemalloc.start()
    method.family.solve(models, p, work)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 8 * method.family.copies(p, shape) + 20_000


# declarations


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_declaration(method):
    """Every method is a matrix method that can be told to treat matrices as vectors, and says how it treats those."""
    assert isinstance(method.family, Matrix)
    (switch,) = [x for x in method.parameters if x.name == "matrix"]
    assert (switch.kind, switch.default) == ("bool", True)
    assert any("not matrices" in note or "without a Gram" in note for note in method.notes)
    assert method.scaled is (method.base is Base.REQUIRED)
    assert (method.on == "delta") is (method.base is Base.REQUIRED)


OTHERWISE = {
    TSV_M: (1.0, 0.5, -0.5),
    ISO_C: (1.0, 0.5, -0.5),
    ISO_CTS: (1.0, 0.5, -0.5),
    SUBSPACE_BOOSTING: (3.0, 1.5, -1.5),
    LOW_RANK: (3.0, 1.5, -1.5),
}


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_otherwise(method):
    """Other tensors get the mean or the sum of the weighted models, as each method says."""
    if method in OTHERWISE:
        np.testing.assert_allclose(
            method.family.otherwise(resolved(method, 3, weight=(3.0, 1.5, -1.5))), OTHERWISE[method]
        )
    elif method is OPCM:
        np.testing.assert_allclose(method.family.otherwise(resolved(method, 4)), [0.5] * 4)
    else:
        np.testing.assert_allclose(method.family.otherwise(resolved(method, 4)), [0.25] * 4)


@pytest.mark.parametrize("method", [WUDI, REGMEAN], ids=named)
def test_otherwise_weighted(method):
    """Weights are shares of a mean; a model of weight 0 takes no part."""
    np.testing.assert_allclose(method.family.otherwise(resolved(method, 3, weight=(3.0, 1.0, 0.0))), [0.75, 0.25, 0.0])
    models, grams = make((6, 9), 3), make_grams(make((6, 9), 3))
    near(
        solve(method, models, grams, weight=(3.0, 1.0, 0.0)),
        solve(method, models[:2], grams[:2], weight=(3.0, 1.0)),
        1e-7,
    )
    solve(method, models, grams, weight=0.0)
