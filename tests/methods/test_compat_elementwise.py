"""``compat: mergekit`` of elementwise methods is that tool's arithmetic, as docs/compatibility.md lists it."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import reference_elementwise as paper
import stockpot as sp

SHAPE = (40, 25)
WEIGHT = (0.5, -0.2, 1.0)


def arrays(count, *, shape=SHAPE, apart=1.0):
    rng = np.random.default_rng(0)
    base = rng.normal(size=shape)
    return base, [base + apart * rng.normal(size=shape) for _ in range(count)]


def merge(function, base, tuned, **parameters):
    """The merged model under compat, with the differences that it is made of."""
    b = sp.open({"w": base}, name="base")
    models = [sp.open({"w": x}, name=f"m{i}") - b for i, x in enumerate(tuned)]
    made = sp.compute(b + function(*models, compat="mergekit", **parameters))["w"]
    return made, [x - base for x in tuned]


@pytest.mark.parametrize("function", [sp.breadcrumbs, sp.breadcrumbs_ties])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("shape", [SHAPE, (7,), (3,)])
def test_breadcrumbs_counts_down(function, rescale, shape):
    """mergekit keeps ⌊density × n⌋ entries below the ⌊gamma × n⌋ largest, where the default rounds to the nearest."""
    base, tuned = arrays(3, shape=shape)
    density, gamma = (0.301, 0.5, 0.7), (0.0, 0.029, 0.9)
    made, ds = merge(
        function, base, tuned, weight=list(WEIGHT), density=list(density), gamma=list(gamma), rescale=rescale
    )
    parts = [paper.band(d, k, g, count=int) for d, k, g in zip(ds, density, gamma, strict=True)]
    if rescale:
        parts = [paper.matched(p, d) for p, d in zip(parts, ds, strict=True)]
    merged = paper.combined(parts, WEIGHT, elects=function is sp.breadcrumbs_ties)
    assert np.allclose(made, base + merged, rtol=1e-12, atol=1e-13)


def test_breadcrumbs_keeps_nothing_of_a_tensor_that_is_too_small():
    """⌊0.3 × 3⌋ is 0: unlike ties there is no least number of entries."""
    base, tuned = arrays(1, shape=(3,))
    made, _ = merge(sp.breadcrumbs, base, tuned, density=0.3)
    assert np.array_equal(made, base)


@pytest.mark.parametrize("function", [sp.della, sp.della_linear])
@pytest.mark.parametrize("normalize", [False, True])
def test_della_matches_the_l1_norm(function, normalize):
    """mergekit rescales what is left to the tensor's sum of magnitudes, where the paper divides by each probability."""
    base, tuned = arrays(3)
    density, epsilon = (0.3, 0.6, 1.0), (0.2, 0.15, 0.1)
    made, ds = merge(
        function, base, tuned, weight=list(WEIGHT), density=list(density), epsilon=list(epsilon), normalize=normalize
    )
    parts = []
    for i, d in enumerate(ds):
        words = ref.random_words(d.size, ref.random_key(0, "w", f"m{i}")).reshape(d.shape)
        kept = paper.della_part(d, density[i], epsilon[i], words, rescale=False)
        parts.append(paper.matched(kept, d))
    merged = paper.combined(parts, WEIGHT, elects=function is sp.della, normalize=normalize)
    assert np.allclose(made, base + merged, rtol=1e-12, atol=1e-13)


def test_della_keeps_by_rank():
    """Over many rows each rank is kept as often as density and epsilon say: mergekit's distribution."""
    rows, n, density, epsilon = 20_000, 33, 0.45, 0.3
    row = np.random.default_rng(1).normal(size=n)
    made, _ = merge(sp.della_linear, np.zeros((rows, n)), [np.tile(row, (rows, 1))], density=density, epsilon=epsilon)
    rank = np.argsort(np.argsort(np.abs(row)))
    expected = density - epsilon + 2.0 * epsilon * rank / (n - 1)
    spread = np.sqrt(expected * (1.0 - expected) / rows)
    assert np.all(np.abs(np.mean(made != 0.0, axis=0) - expected) < 5.0 * spread)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.29, 0.5, 1.0])
@pytest.mark.parametrize("apart", [1.0, 1e-4])
def test_sce_counts_in_float32_and_knows_no_small_energies(share, apart):
    """mergekit keeps ⌊float32(n × share)⌋ entries, and takes equal weights and divisors from 1e-6 down."""
    base, tuned = arrays(3, apart=apart)
    tuned[0] = base + 1e-6 * (tuned[0] - base)
    made, ds = merge(sp.sce, base, tuned, select_topk=share)

    def kept(count):
        return int(np.float32(count) * np.float32(share))

    merged = paper.sce(ds, share, kept_of=kept, small=1e-6, floor=1e-6)
    assert np.allclose(made, base + merged, rtol=1e-12, atol=1e-13 * apart)


def test_sce_of_one_model_selects_nothing():
    """The variance of a single model is 0 everywhere, so that select_topk below 1 leaves the base."""
    base, tuned = arrays(1)
    assert np.array_equal(merge(sp.sce, base, tuned, select_topk=0.9)[0], base)


@pytest.mark.parametrize("t", [0.0, 1e-7, 0.3, 2.0])
def test_nearswap_divides_by_no_less_than_a_millionth(t):
    """mergekit's share is t / max(|d|, 1e-6): with a smaller t, the nearest entries move by less than they could."""
    base, (x,) = arrays(1)
    x[0] = base[0] + 1e-7 * (x[0] - base[0])
    made, (d,) = merge(sp.nearswap, base, [x], t=t)
    share = np.clip(t / np.maximum(np.abs(d), 1e-6), 0.0, 1.0)
    assert np.allclose(made, base + share * d, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("shape", [SHAPE, (200,), (6, 5, 4), (9, 1)])
def test_arcee_fusion_adds_to_probabilities(shape):
    """mergekit adds 1e-8 to each probability before logarithms; rows are vectors along the last dimension."""
    base, (x,) = arrays(1, shape=shape, apart=0.3)
    made, _ = merge(sp.arcee_fusion, base, [x])
    assert np.allclose(made, base + paper.arcee_fusion(x, base, floor=1e-8), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("function", [sp.ram, sp.ramplus_tl])
def test_ram_is_the_same(function):
    """ram and ramplus_tl have the same bytes with and without compat."""
    base, tuned = arrays(3, apart=1e-5)
    made, ds = merge(function, base, tuned)
    value = paper.ram(ds, 1e-5) if function is sp.ram else paper.ramplus(ds, 0.1, 0.2, 1e-5)
    assert np.allclose(made, base + value, rtol=1e-14, atol=1e-15)
    b = sp.open({"w": base}, name="base")
    plain = b + function(*(sp.open({"w": x}, name=str(i)) - b for i, x in enumerate(tuned)))
    assert sp.compute(plain)["w"].tobytes() == made.tobytes()
