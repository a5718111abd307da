"""Singular values and vectors: what the decompositions promise, over shapes, ranks and spectra."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.methods.matrix import svd as subject

SHAPES = ((7, 5), (5, 7), (6, 6), (1, 9), (9, 1), (1, 1), (0, 4), (4, 0), (0, 0), (40, 3), (3, 40), (64, 48))


class Numbers:
    """Random numbers that are a function of the seed alone, and how many matrices were asked for."""

    def __init__(self, seed=3):
        self.seed, self.calls = seed, 0

    def tick(self):
        pass

    def companion(self, name):
        raise KeyError(name)

    def normal(self, rows, columns):
        self.calls += 1
        return np.random.default_rng(self.seed).standard_normal((rows, columns))


def matrix(shape, rank=None, seed=0):
    rng = np.random.default_rng((seed, *shape))
    if rank is None:
        return rng.standard_normal(shape)
    return rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))


def with_spectrum(rows, columns, values, seed=0):
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.standard_normal((rows, len(values))))[0]
    v = np.linalg.qr(rng.standard_normal((columns, len(values))))[0]
    return (u * values) @ v.T


def best_energy(a, k):
    return float((np.linalg.svd(a, compute_uv=False)[:k] ** 2).sum())


def assert_orthonormal(u, v, tolerance):
    for gram in (u.T @ u, v @ v.T):
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=tolerance)


def failing(monkeypatch, name, times):
    """Make a decomposition of NumPy fail for a while, as it does where it does not converge."""
    real, left = getattr(np.linalg, name), [times]

    def fake(*args, **kwargs):
        if left[0]:
            left[0] -= 1
            raise np.linalg.LinAlgError(name)
        return real(*args, **kwargs)

    monkeypatch.setattr(np.linalg, name, fake)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [None, 0, 1, 2])
def test_svd_rebuilds(shape, rank):
    """The exact SVD gives the matrix back, with orthonormal vectors and falling values, for every shape and rank."""
    a = matrix(shape, rank)
    u, s, v = subject.svd(a)
    assert (u.shape, s.shape, v.shape) == ((shape[0], min(shape)), (min(shape),), (min(shape), shape[1]))
    np.testing.assert_allclose(subject.rebuilt((u, s, v)), a, atol=1e-13 * max([1.0, *s[:1]]))
    assert_orthonormal(u, v, 1e-13)
    assert (np.diff(s) <= 0).all()


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (40, 3), (6, 6)])
def test_svd_survives_failure(shape, monkeypatch):
    """Where LAPACK's decomposition does not converge, another way gives as exact a result."""
    a = matrix(shape) * np.logspace(0, -9, shape[1])
    expected = np.linalg.svd(a, compute_uv=False)
    failing(monkeypatch, "svd", 1)
    u, s, v = subject.svd(a)
    np.testing.assert_allclose(subject.rebuilt((u, s, v)), a, atol=1e-13 * s[0])
    np.testing.assert_allclose(s, expected, atol=1e-13 * s[0])
    assert_orthonormal(u, v, 1e-13)


def test_leading_survives_failure(monkeypatch):
    """Where the eigenvectors of the Gram matrix are not found, the exact SVD is taken."""
    a = matrix((9, 30))
    expected = np.linalg.svd(a, compute_uv=False)[:3]
    failing(monkeypatch, "eigh", 1)
    np.testing.assert_allclose(subject.leading(a, 3)[1], expected, rtol=1e-13)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("function", [subject.svd, lambda a: subject.leading(a, 1), subject.polar])
def test_not_finite(value, function):
    """A matrix with NaN or infinity is refused instead of looped over or filled with NaN."""
    a = matrix((4, 9))
    a[1, 2] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        function(a)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [None, 0, 1, 2])
@pytest.mark.parametrize("k", [0, 1, 2, 100])
def test_leading(shape, rank, k):
    """The leading triplets are those of the SVD, without those whose singular value is zero."""
    a = matrix(shape, rank)
    u, s, v = subject.leading(a, k)
    full_u, full_s, full_v = np.linalg.svd(a, full_matrices=False)
    count = min(k, min(shape) if rank is None else min(*shape, rank))
    assert (u.shape, s.shape, v.shape) == ((shape[0], count), (count,), (count, shape[1]))
    best = (full_u[:, :count] * full_s[:count]) @ full_v[:count]
    np.testing.assert_allclose(s, full_s[:count], rtol=1e-9)
    np.testing.assert_allclose(subject.rebuilt((u, s, v)), best, atol=1e-9 * max([1.0, *s[:1]]))
    assert_orthonormal(u, v, 1e-9)


@pytest.mark.parametrize("smallest", [1e-2, 0.99e-3, 1.01e-3, 1e-5, 1e-8])
def test_leading_accuracy(smallest):
    """Vectors are within 1e-9 of orthonormal and the matrix is given back as well, however fast values fall."""
    a = with_spectrum(30, 50, np.logspace(0, np.log10(smallest), 30))
    u, s, v = subject.leading(a, 30)
    assert len(s) == 30
    assert_orthonormal(u, v, 1e-9)
    np.testing.assert_allclose(subject.rebuilt((u, s, v)), a, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_leading_scale(scale):
    """The unit of the weights does not matter, even where squares would vanish or overflow."""
    a = matrix((6, 20))
    np.testing.assert_allclose(subject.leading(scale * a, 4)[1] / scale, subject.leading(a, 4)[1], rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_polar_is_nearest(shape):
    """The polar factor is semi-orthogonal, and what is left, Q^T A, is symmetric and positive semi-definite."""
    a = matrix(shape)
    q = subject.polar(a)
    assert q.shape == shape
    small = q.T @ q if shape[0] >= shape[1] else q @ q.T
    np.testing.assert_allclose(small, np.eye(min(shape)), atol=1e-9)
    left = q.T @ a
    np.testing.assert_allclose(left, left.T, atol=1e-9)
    assert (np.linalg.eigvalsh(left) > -1e-9).all()


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6)])
def test_polar_of_lower_rank(shape):
    """Where the rank is lower, the factor is a partial isometry on the range: nothing arbitrary is added."""
    a = matrix(shape, rank=2)
    q = subject.polar(a)
    np.testing.assert_allclose(np.linalg.svd(q, compute_uv=False)[:3], [1.0, 1.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(q @ np.linalg.pinv(a, rcond=1e-8) @ a, q, atol=1e-9)
    assert not subject.polar(np.zeros(shape)).any()


INDEX = np.arange(1, 301)
SPECTRA = {
    "index^-0.5": INDEX**-0.5,
    "index^-1": INDEX**-1.0,
    "exponential over a floor": np.exp(-INDEX / 20) + 1e-2,
    "two levels": np.where(INDEX <= 6, 1.0, 0.3),
    "nearly flat": 1.0 - INDEX / 1000,
    "low rank": np.where(INDEX <= 5, 1.0 / INDEX, 0.0),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("shape", [(300, 420), (420, 300)])
@pytest.mark.parametrize("k", [1, 4, 12])
def test_truncated_energy(name, shape, k):
    """The captured energy is within 1e-3 of the largest possible, for flat and falling spectra alike."""
    a = with_spectrum(*shape, SPECTRA[name], seed=5)
    u, s, v = subject.truncated_svd(a, k, Numbers())
    best = best_energy(a, k)
    assert (1 - 1e-3) * best <= (s**2).sum() <= (1 + 1e-12) * best
    error = np.linalg.norm(a - subject.rebuilt((u, s, v))) ** 2
    assert error <= np.linalg.norm(a) ** 2 - (1 - 1e-3) * best
    assert_orthonormal(u, v, 1e-9)


def test_truncated_is_sharp_where_values_fall_quickly():
    """With a tenth of the value at each step, the randomised result is the optimal one to 1e-7."""
    a = with_spectrum(300, 320, 10.0 ** -np.arange(12))
    u, s, v = subject.truncated_svd(a, 4, Numbers())
    full_u, full_s, full_v = np.linalg.svd(a, full_matrices=False)
    np.testing.assert_allclose(s, full_s[:4], rtol=1e-9)
    np.testing.assert_allclose((u * s) @ v, (full_u[:, :4] * full_s[:4]) @ full_v[:4], atol=1e-7)


def test_truncated_is_deterministic():
    """The result is a function of the matrix and the random numbers, which it does draw."""
    a = with_spectrum(300, 320, SPECTRA["index^-1"])
    numbers = Numbers()
    first, second = (subject.truncated_svd(a, 6, numbers) for _ in range(2))
    assert numbers.calls == 2
    for x, y in zip(first, second, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("shape", "k"), [((300, 320), 13), ((255, 900), 2), ((0, 9), 4), ((9, 0), 4)])
def test_truncated_draws_only_where_it_pays(shape, k):
    """Small matrices, and ranks that are no small share, are decomposed exactly: no numbers are drawn."""
    numbers = Numbers()
    a = matrix(shape)
    s = subject.truncated_svd(a, k, numbers)[1]
    np.testing.assert_allclose(s, np.linalg.svd(a, compute_uv=False)[:k], rtol=1e-9)
    assert numbers.calls == 0


@pytest.mark.parametrize("k", [0, 3])
def test_truncated_zero(k):
    """A zero matrix has no triplets, and no rank keeps none."""
    assert subject.truncated_svd(np.zeros((300, 280)), k, Numbers())[1].size == 0
    assert subject.truncated_svd(matrix((300, 280)), 0, Numbers())[1].size == 0


@pytest.mark.parametrize(("share", "count"), [(1e-9, 1), (9 / 14, 1), (0.65, 2), (13 / 14, 2), (0.95, 3), (1.0, 3)])
def test_energy_count(share, count):
    """As many values are counted as it takes to reach the share, and all for a share of 1."""
    assert subject.energy_count(np.array([3.0, 2.0, 1.0]), share, 14.0) == count
