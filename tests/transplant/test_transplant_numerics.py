"""Rows from rows: orthogonal matching pursuit, interpolation, and the linear map."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits
from transplant_pairs import plain_pursuit

from stockpot.transplanting.interpolation import interpolate
from stockpot.transplanting.linear import fitted, predicted
from stockpot.transplanting.nearest import Pool, strongest
from stockpot.transplanting.pursuit import pursue
from stockpot.transplanting.table import TILE, ArrayRows, lengths


def pool_of(matrix, numbers=None):
    table = ArrayRows(matrix)
    numbers = np.arange(len(matrix)) if numbers is None else np.asarray(numbers)
    return Pool(table, numbers, lengths(table, numbers))


def test_pursuit_is_that_of_the_textbook():
    """Same rows in the same order, and coefficients to ten digits, over several tiles of candidates."""
    rng = np.random.default_rng(0)
    atoms = rng.standard_normal((2 * TILE + 5, 24)) * rng.uniform(0.1, 3, (2 * TILE + 5, 1))
    vectors = rng.standard_normal((7, 24))
    found = pursue(vectors, pool_of(atoms), 9)
    for i, x in enumerate(vectors):
        support, solution, residual = plain_pursuit(x, atoms, 9)
        assert found.numbers[i].tolist() == support
        np.testing.assert_allclose(found.values[i], solution, rtol=1e-10)
        assert found.residuals[i] == pytest.approx(np.linalg.norm(residual) / np.linalg.norm(x), rel=1e-9)


def test_pursuit_agrees_with_scikit_learn():
    """An implementation that others wrote finds the same sums."""
    sklearn = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    rng = np.random.default_rng(1)
    atoms = rng.standard_normal((300, 40))
    vectors = rng.standard_normal((5, 40))
    unit = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
    theirs = sklearn.orthogonal_mp(unit.T, vectors.T, n_nonzero_coefs=12)
    found = pursue(vectors, pool_of(atoms), 12)
    ours = np.zeros((5, 300))
    np.put_along_axis(ours, found.numbers, found.values * np.linalg.norm(atoms, axis=1)[found.numbers], 1)
    np.testing.assert_allclose(ours, theirs.T, atol=1e-9)


def test_pursuit_ends_when_nothing_is_left():
    """A sum of two rows is found as these two; a vector of zeros is the empty sum."""
    rng = np.random.default_rng(2)
    atoms = rng.standard_normal((50, 16))
    vectors = np.stack([2 * atoms[3] - 5 * atoms[40], np.zeros(16), atoms[7]])
    found = pursue(vectors, pool_of(atoms), 10)
    used = [
        dict(zip(n[n >= 0].tolist(), v[n >= 0].tolist(), strict=True))
        for n, v in zip(found.numbers, found.values, strict=True)
    ]
    assert used[1] == {}
    assert used[2] == pytest.approx({7: 1.0})
    np.testing.assert_allclose(found.applied(ArrayRows(atoms)), vectors, atol=1e-12)
    assert np.all(found.residuals < 2.0**-24)
    assert len(used[0]) <= 3 + 7


def test_pursuit_with_fewer_rows_than_steps_and_rows_of_zeros():
    """It takes each row at most once, none of length 0, and keeps to the numbers that it may choose from."""
    matrix = np.array([[9.0, 9, 9], [1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 0]])
    found = pursue(np.array([[3.0, 1, 5]]), pool_of(matrix, [1, 2, 3, 4]), 4)
    numbers = found.numbers[0][found.numbers[0] >= 0].tolist()
    assert sorted(numbers) == [1, 3]
    np.testing.assert_allclose(found.applied(ArrayRows(matrix)), [[3, 1, 0]], atol=1e-12)
    assert found.residuals[0] == pytest.approx(5 / np.sqrt(35))


def test_rows_that_do_not_depend_on_their_company():
    """A vector's sum is the same alone as among others: batches are a matter of speed."""
    rng = np.random.default_rng(3)
    atoms, vectors = rng.standard_normal((200, 32)), rng.standard_normal((20, 32))
    pool = pool_of(atoms)
    together = pursue(vectors, pool, 8)
    for i in range(0, 20, 7):
        alone = pursue(vectors[i : i + 1], pool, 8)
        assert alone.numbers[0].tolist() == together.numbers[i].tolist()
        np.testing.assert_allclose(alone.values[0], together.values[i], rtol=1e-12)


def test_choices_within_the_rounding_of_float32_are_those_of_float64():
    """Of rows that float32 cannot tell apart the nearest is chosen; of equal rows the first."""
    rng = np.random.default_rng(4)
    direction = rng.standard_normal(64)
    direction /= np.linalg.norm(direction)
    other = rng.standard_normal(64)
    other -= (other @ direction) * direction
    near = np.stack([direction + angle * 1e-5 * other for angle in (3, 1, -1, 2, 0.5, 0.5)])
    places = strongest(direction[None], pool_of(near), np.full((1, 0), -1))
    assert places.tolist() == [4]
    assert strongest(direction[None], pool_of(near), np.array([[4]])).tolist() == [5]
    assert strongest(direction[None], pool_of(np.zeros((3, 64))), np.full((1, 0), -1)).tolist() == [-1]


def test_interpolation_is_a_weighted_mean_of_the_nearest():
    """Weights are the cosines of the k nearest rows, over their sum."""
    rng = np.random.default_rng(5)
    atoms, vectors = rng.standard_normal((TILE + 40, 12)), rng.standard_normal((6, 12))
    found = interpolate(vectors, pool_of(atoms), 5)
    cosines = vectors @ atoms.T / np.linalg.norm(vectors, axis=1)[:, None] / np.linalg.norm(atoms, axis=1)
    for i in range(6):
        nearest = np.argsort(-cosines[i])[:5]
        assert found.numbers[i].tolist() == nearest.tolist()
        np.testing.assert_allclose(found.values[i], cosines[i, nearest] / cosines[i, nearest].sum(), rtol=1e-12)
        left = np.linalg.norm(vectors[i] - found.values[i] @ atoms[nearest]) / np.linalg.norm(vectors[i])
        assert found.residuals[i] == pytest.approx(left)


def test_rows_that_point_away_have_no_weight():
    """Of two rows, one opposite, the other is the whole mean; a vector without friends is the empty sum."""
    found = interpolate(np.array([[2.0, 0], [0, 0]]), pool_of(np.array([[-1.0, 0.1], [3, 1]])), 2)
    assert found.numbers.tolist() == [[1, -1], [-1, -1]]
    assert found.values.tolist() == [[1, 0], [0, 0]]


def test_the_linear_map_recovers_a_linear_map():
    """Where model rows are donor rows times a matrix, it is that matrix, near enough for float32."""
    rng = np.random.default_rng(6)
    donor, true = rng.standard_normal((TILE + 100, 10)), rng.standard_normal((10, 7))
    numbers = np.arange(len(donor))
    found = fitted(ArrayRows(donor), ArrayRows(donor @ true), (numbers, numbers))
    np.testing.assert_allclose(found, true, rtol=1e-5, atol=1e-5)
    assert not fitted(ArrayRows(np.zeros((3, 2))), ArrayRows(np.ones((3, 4))), (numbers[:3], numbers[:3])).any()


def test_predictions_without_the_map_are_those_of_the_map():
    """Held-out rows are what the fitted matrix gives, over several tiles; of nothing they are nothing."""
    rng = np.random.default_rng(8)
    donor, model = rng.standard_normal((2 * TILE + 3, 12)), rng.standard_normal((2 * TILE + 3, 5))
    pairs = (np.arange(3, len(donor)), np.arange(len(donor) - 3))
    vectors, shares = rng.standard_normal((4, 12)), []
    found = predicted(vectors, ArrayRows(donor), ArrayRows(model), pairs, shares.append)
    np.testing.assert_allclose(found, vectors @ fitted(ArrayRows(donor), ArrayRows(model), pairs), rtol=1e-9)
    assert sum(shares) == pytest.approx(1.0)
    nothing = ArrayRows(np.zeros_like(donor))
    assert not predicted(vectors, nothing, ArrayRows(model), pairs).any()


def two_embeddings(tokens=1400, rank=20, widths=(128, 96), noise=0.01):
    """Two embeddings of one latent space, each with noise of its own."""
    rng = np.random.default_rng(7)
    latent = rng.standard_normal((tokens, rank))
    return [
        latent @ rng.standard_normal((rank, width)) / np.sqrt(rank) + noise * rng.standard_normal((tokens, width))
        for width in widths
    ]


def test_the_calibrated_experiment():
    """Two embeddings of one latent space: more rows are better, 64 leave under 0.1, the linear map is the baseline."""
    donor, model = two_embeddings()
    known, missing = np.arange(1200), np.arange(1200, 1400)
    pool = pool_of(donor, known)

    def error(rows):
        return np.linalg.norm(rows - model[missing]) / np.linalg.norm(model[missing])

    with threadpool_limits(1):
        pursuits = [error(pursue(donor[missing], pool, k).applied(ArrayRows(model))) for k in (4, 16, 64)]
        nearest = error(interpolate(donor[missing], pool, 8).applied(ArrayRows(model)))
        straight = error(donor[missing] @ fitted(ArrayRows(donor), ArrayRows(model), (known, known)))
    assert pursuits[0] > 10 * pursuits[1] > 10 * straight
    assert pursuits[2] < 0.1
    assert straight < pursuits[2] < nearest < 1.0
