"""Refactorisation: the best factors of a rank, found without forming what they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.execute.matrices import Normals
from stockpot.lora.factors import Product, Wanted, as_is, cut, cut_dense, stacked


def products(seed, count, rows=40, columns=30, rank=4):
    """Random low-rank changes."""
    rng = np.random.default_rng(seed)
    return [Product(rng.normal(size=(rows, rank)), rng.normal(size=(rank, columns))) for _ in range(count)]


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (8, 30), (30, 8), (1, 5), (5, 1)], ids=str)
@pytest.mark.parametrize("rank", [1, 3, 7, 50])
def test_qr_and_the_small_svd_are_the_dense_svd(shape, rank):
    """The nearest matrix of that rank, to 1e-5, and the energy that it holds; no rank is beyond the full one."""
    parts = products(1, 3, *shape)
    whole = sum(p.dense for p in parts)
    found = cut(stacked(parts, *shape), Wanted(rank=rank))
    u, s, v = np.linalg.svd(whole, full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ v[:rank]
    assert np.linalg.norm(found.product.dense - best) <= 1e-5 * np.linalg.norm(best)
    assert found.retained == pytest.approx(np.sum(s[:rank] ** 2) / np.sum(s**2), rel=1e-9)
    assert found.norm == pytest.approx(np.linalg.norm(whole), rel=1e-9)
    assert found.rank == min(rank, np.linalg.matrix_rank(whole))


@pytest.mark.parametrize("energy", [0.3, 0.8, 0.99, 1.0])
def test_energy_takes_as_few_directions_as_hold_it(energy):
    """One less would hold less than was asked for; the dense way and that by factors agree."""
    parts = products(2, 3)
    whole = stacked(parts, 40, 30)
    for found in (cut(whole, Wanted(energy=energy)), cut_dense(whole.dense, Wanted(energy=energy), Normals("w", 0))):
        assert found.retained >= energy - 1e-12
        if found.rank > 1:
            assert cut(whole, Wanted(rank=found.rank - 1)).retained < energy


@pytest.mark.parametrize(("count", "kept", "error"), [(2, 0.65, 0.59), (3, 0.50, 0.71)])
def test_a_sum_of_random_adapters_cut_to_the_rank_of_one(count, kept, error):
    """Two random adapters of rank 8 keep some 65 % of their energy at rank 8, three some 50 %."""
    found = cut(stacked(products(3, count, 256, 256, 8), 256, 256), Wanted(rank=8))
    assert found.retained == pytest.approx(kept, abs=0.02)
    assert found.error == pytest.approx(error, abs=0.02)


def test_factors_are_balanced_and_depend_on_the_product_alone():
    """BᵀB = AAᵀ, diagonal; (B R, R⁻¹ A) gives the same product."""
    (one,) = products(4, 1)
    turn = np.random.default_rng(5).normal(size=(4, 4))
    found = cut(one, Wanted(rank=3))
    other = cut(Product(one.left @ turn, np.linalg.solve(turn, one.right)), Wanted(rank=3))
    np.testing.assert_allclose(found.product.dense, other.product.dense, atol=1e-10)
    gram = found.product.left.T @ found.product.left
    np.testing.assert_allclose(gram, found.product.right @ found.product.right.T, atol=1e-10)
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-10)


def test_no_change_has_factors_of_zeros():
    """Rank 1, of zeros; nothing of it is lost."""
    for found in (cut(Product(np.zeros((3, 2)), np.zeros((2, 4))), Wanted(rank=2)), as_is(stacked([], 3, 4))):
        assert found.product.dense.tolist() == np.zeros((3, 4)).tolist()
        assert (found.rank, found.norm, found.retained) == (1, 0.0, 1.0)


def test_a_large_dense_change_is_cut_by_the_randomised_svd():
    """Within 1e-3 of the best energy, the same for the same seed and name, another for another."""
    rng = np.random.default_rng(6)
    matrix = rng.normal(size=(700, 600)) * 0.1 + sum(
        10.0 / (i + 1) * np.outer(rng.normal(size=700), rng.normal(size=600)) for i in range(12)
    )
    one, again, other = (cut_dense(matrix, Wanted(rank=8), Normals(n, 0)) for n in ("w", "w", "v"))
    s = np.linalg.svd(matrix, compute_uv=False)
    assert one.retained >= np.sum(s[:8] ** 2) / np.sum(s**2) - 1e-3
    assert one.product.left.tobytes() == again.product.left.tobytes()
    assert one.product.left.tobytes() != other.product.left.tobytes()
