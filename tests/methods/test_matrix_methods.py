"""Matrix methods: what each is for, as its paper promises it."""

from __future__ import annotations

import numpy as np
import pytest

from matrices import make, make_grams, near, solve
from stockpot.methods.matrix.cart import CART
from stockpot.methods.matrix.isotropic import ISO_C, ISO_CTS
from stockpot.methods.matrix.low_rank import LOW_RANK, SUBSPACE_BOOSTING
from stockpot.methods.matrix.opcm import OPCM
from stockpot.methods.matrix.regmean import REGMEAN
from stockpot.methods.matrix.task_singular_vectors import TSV_M
from stockpot.methods.matrix.wudi import WUDI


def named(method):
    return method.name


def truncated(a, k):
    u, s, v = np.linalg.svd(a, full_matrices=False)
    return (u[:, :k] * s[:k]) @ v[:k]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_tsv_m_of_copies(count):
    """Copies of one model give its truncation to the rank that each of them may keep."""
    x = make((9, 12), 1)[0]
    near(solve(TSV_M, [x] * count), truncated(x, 9 // count))


def test_tsv_m_keeps_singular_values():
    """The singular values of the result are those kept from the tasks: nothing is lost by interference."""
    deltas = make((12, 15), 3)
    kept = np.concatenate([np.linalg.svd(d, compute_uv=False)[:4] for d in deltas])
    near(np.linalg.svd(solve(TSV_M, deltas), compute_uv=False), np.sort(kept)[::-1])


def test_tsv_m_more_models_than_rank():
    """A matrix with fewer rows than there are models keeps a direction of each instead of vanishing."""
    assert np.linalg.norm(solve(TSV_M, make((2, 30), 5))) > 1.0


@pytest.mark.parametrize("method", [ISO_C, ISO_CTS], ids=named)
def test_isotropic_spectrum(method):
    """All singular values of the result are equal."""
    s = np.linalg.svd(solve(method, make((12, 20), 3)), compute_uv=False)
    np.testing.assert_allclose(s, s[0], rtol=1e-9)


def test_iso_c_lifts_no_noise():
    """A sum of low rank keeps its rank: directions that no model has are not made up."""
    delta = make((12, 2), 1)[0] @ make((2, 20), 1)[0]
    assert np.linalg.matrix_rank(solve(ISO_C, [delta, 2 * delta])) == 2


def test_iso_cts_lifts_no_noise():
    """Where the sum spans all task vectors, what rounding leaves of them outside it is not taken for directions."""
    delta = make((12, 2), 1)[0] @ make((2, 20), 1)[0]
    assert np.linalg.matrix_rank(solve(ISO_CTS, [delta, 2 * delta])) == 2


@pytest.mark.parametrize("method", [ISO_C, ISO_CTS, SUBSPACE_BOOSTING], ids=named)
def test_sums_that_cancel(method):
    """Where task vectors cancel but for rounding, the rounding is not lifted to their size."""
    deltas = make((8, 9), 2)
    deltas.append(-(deltas[0] * 0.1 + deltas[1] * 0.3) / 0.7)
    result = solve(
        method, deltas, weight=(0.1, 0.3, 0.7), **({"common_space_fraction": 1.0} if method is ISO_CTS else {})
    )
    assert np.abs(result).max() < 1e-9


def test_iso_cts_with_common_space_only():
    """With the whole rank common, iso_cts is iso_c."""
    deltas = make((12, 20), 3)
    near(solve(ISO_CTS, deltas, common_space_fraction=1.0), solve(ISO_C, deltas))


@pytest.mark.parametrize(("given", "count"), [({}, 2), ({"rank_share": 1.0}, 4), ({"rank_share": 0.0}, 4)])
def test_cart_is_the_average(given, count):
    """With two models, or with all or none of the rank, what is added to the average cancels."""
    models = make((12, 20), count)
    near(solve(CART, models, **given), np.mean(models, axis=0), 1e-12)


def interference(tau, deltas):
    return sum(((tau - d) @ d.T).__pow__(2).sum() / (d**2).sum() for d in deltas)


def test_wudi_vanishes_where_ranks_fit():
    """Task vectors whose rows are independent can all be satisfied: the interference is zero."""
    deltas = make((5, 16), 3)
    assert interference(solve(WUDI, deltas), deltas) < 1e-15 < 1e-3 < interference(sum(deltas), deltas)


def test_wudi_is_a_minimum():
    """No step in any direction lowers the interference."""
    deltas = make((8, 6), 3)
    best = solve(WUDI, deltas)
    for step in make((8, 6), 8, seed=9):
        assert interference(best + 1e-3 * step, deltas) > interference(best, deltas)


@pytest.mark.parametrize("steps", [0, 1, 25])
def test_wudi_iterative(steps):
    """The iterative solver takes so many steps of Adam from the sum, as an independent loop does."""
    deltas = [1e-3 * d for d in make((6, 8), 3)]
    x = sum(deltas)
    first, second = np.zeros_like(x), np.zeros_like(x)
    for t in range(1, steps + 1):
        gradient = sum(2 * ((x - d) @ d.T) @ d / (d**2).sum() for d in deltas)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        x = x - 1e-4 * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
    near(solve(WUDI, deltas, solver="iterative", steps=steps, learning_rate=1e-4), x, 1e-9)


def test_wudi_iterative_of_one_model():
    """A single model, even beside zero task vectors, is at the minimum from the start and stays there exactly."""
    delta = 1e-3 * make((6, 8), 1)[0]
    np.testing.assert_array_equal(solve(WUDI, [0 * delta, delta], solver="iterative"), delta)


def test_wudi_iterative_leads_to_a_minimum():
    """With enough steps the iterative solver nears the least interference, that of the closed form."""
    deltas = make((8, 6), 3)
    best, start = interference(solve(WUDI, deltas), deltas), interference(sum(deltas), deltas)
    found = interference(solve(WUDI, deltas, solver="iterative", steps=2000, learning_rate=1e-2), deltas)
    assert best < found * (1 + 1e-12) < best + 1e-3 * (start - best)


def test_regmean_fits_outputs():
    """With the Gram matrices as they are, no matrix has outputs closer to those of the models on their inputs."""
    models, rng = make((4, 6), 3), np.random.default_rng(0)
    inputs = [rng.standard_normal((30, 6)) for _ in models]
    best = np.linalg.lstsq(
        np.vstack(inputs), np.vstack([x @ m.T for x, m in zip(inputs, models, strict=True)]), rcond=None
    )[0].T
    near(solve(REGMEAN, models, [x.T @ x for x in inputs], off_diagonal=1.0), best, 1e-7)


def test_regmean_inputs_that_never_occur():
    """Columns whose input is always zero get the plain average, and the others are not disturbed."""
    models, grams = make((4, 6), 3), make_grams(make((4, 6), 3))
    inner = solve(REGMEAN, [m[:, :5] for m in models], [g[:5, :5] for g in grams])
    for g in grams:
        g[5], g[:, 5] = 0.0, 0.0
    result = solve(REGMEAN, models, grams)
    near(result[:, 5], np.mean(models, axis=0)[:, 5], 1e-9)
    near(result[:, :5], inner, 1e-7)


def test_regmean_diagonal():
    """With off_diagonal 0 each column is the mean of the models, weighted by the energy of its input."""
    models, grams = make((4, 6), 3), make_grams(make((4, 6), 3))
    energy = np.array([np.diag(g) for g in grams])[:, None]
    near(solve(REGMEAN, models, grams, off_diagonal=0.0), (np.array(models) * energy).sum(0) / energy.sum(0), 1e-7)


def test_opcm_first_model_is_kept():
    """What is added for the second model has nothing along the singular directions of the first."""
    first, second = make((9, 6), 2)
    added = solve(OPCM, [first, second], scaling="root") * np.sqrt(2) - first
    u, _, v = np.linalg.svd(first, full_matrices=False)
    np.testing.assert_allclose(np.diag(u.T @ added @ v.T), 0.0, atol=1e-12)
    assert np.linalg.norm(added) > 0.5 * np.linalg.norm(second)


def test_opcm_alpha_one():
    """With alpha 1 nothing within the span of the first model's directions is added."""
    first, second = make((9, 6), 2)
    added = solve(OPCM, [first, second], alpha=1.0, scaling="root") * np.sqrt(2) - first
    np.testing.assert_allclose(np.linalg.svd(first)[0].T[:6] @ added, 0.0, atol=1e-12)


def test_opcm_length():
    """The merged matrix is as long as the task matrices are on average."""
    deltas = [c * d for c, d in zip((1.0, 2.0, 6.0), make((9, 6), 3), strict=True)]
    mean = np.mean([np.linalg.norm(d) for d in deltas])
    np.testing.assert_allclose(np.linalg.norm(solve(OPCM, deltas)), mean, rtol=1e-12)


def test_boosting_limits():
    """With beta 1 the sum is left as it is; with beta 0 all its singular values become the largest."""
    deltas = make((9, 6), 3)
    near(solve(SUBSPACE_BOOSTING, deltas, beta=1.0), sum(deltas))
    s = np.linalg.svd(solve(SUBSPACE_BOOSTING, deltas, beta=0.0), compute_uv=False)
    np.testing.assert_allclose(s, np.linalg.norm(sum(deltas), 2), rtol=1e-9)


@pytest.mark.parametrize("energy", [1e-6, 0.3, 0.9, 0.999, 1.0])
def test_low_rank_energy(energy):
    """As few directions are kept as hold the share of energy, and never more than the rank."""
    delta = make((9, 6), 1)[0]
    shares = np.cumsum(np.linalg.svd(delta, compute_uv=False) ** 2) / np.linalg.norm(delta) ** 2
    count = next((i + 1 for i, x in enumerate(shares) if x >= energy), 6)
    near(solve(LOW_RANK, [delta], rank=0, energy=energy), truncated(delta, count))
    near(solve(LOW_RANK, [delta], rank=2, energy=energy), truncated(delta, min(2, count)))
