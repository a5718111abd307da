"""KnOTS and Core space: exact for linear methods, and what the papers' formulas give for others."""

from __future__ import annotations

import numpy as np
import pytest
from making import MODULES, apart, changes, made, some_adapter

import stockpot as sp
from files import read_file
from stockpot.lora.factors import Product
from stockpot.lora.spaces import core, knots


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Three adapters, the last on fewer modules."""
    monkeypatch.chdir(tmp_path)
    some_adapter(tmp_path / "a", 1)
    some_adapter(tmp_path / "b", 2, rank=3)
    some_adapter(tmp_path / "c", 3, modules=MODULES[:5])
    return tmp_path


@pytest.mark.parametrize("space", ["knots", "core"])
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "lines"])
def test_linear_methods_are_exact(place, space, method):
    """The same change as in full space, modules that an adapter lacks included."""
    for out, own in (("full", "full"), ("out", space)):
        more = ["--set=alpha=0.5", "--set=beta=1"] if method == "lines" else []
        made("merge", "a", "b", "c", out, "--method", method, "--space", own, "--rank=31", "--weight=0.3", *more)
    assert apart(changes(place / "out"), changes(place / "full")) < 1e-6


def dense(place):
    """Module's weight → its changes, in float64, in the order of the adapters."""
    found = [changes(place / n) for n in "abc"]
    return {n: [f.get(n, np.zeros_like(v)) for f in found] for n, v in found[0].items()}


def ties(parts):
    """The library's own TIES of matrices around zero."""
    zero = sp.open({"w": np.zeros_like(parts[0])}, name="zero")
    models = [sp.open({"w": p}, name=str(i)) for i, p in enumerate(parts)]
    return sp.compute(zero + sp.ties(*(m - zero for m in models), weight=1.0, density=0.4))["w"]


def test_knots_merges_what_follows_u(place):
    """U · TIES(Σ Vᵢᵀ), U Σ Vᵀ of the changes side by side."""
    made("merge", "a", "b", "c", "out", "--method=ties", "--density=0.4", "--space=knots", "--rank=31", "--weight=1")
    found = changes(place / "out")
    for name, parts in dense(place).items():
        u, s, v = np.linalg.svd(np.hstack(parts), full_matrices=False)
        k = int(np.sum(s > 1e-6 * s[0]))
        coordinates = np.split(s[:k, None] * v[:k], len(parts), axis=1)
        wanted = u[:, :k] @ ties(coordinates)
        np.testing.assert_allclose(found[name], wanted, atol=1e-4 * np.abs(wanted).max(), err_msg=name)


def test_core_merges_the_small_cores(place):
    """U · TIES(Uᵀ ΔWᵢ V) · Vᵀ, with U and V of the balanced factors side by side."""
    made("merge", "a", "b", "c", "out", "--method=ties", "--density=0.4", "--space=core", "--rank=31", "--weight=1")
    found = changes(place / "out")
    for name, parts in dense(place).items():
        lefts, rights = [], []
        for delta in parts:
            u, s, v = np.linalg.svd(delta, full_matrices=False)
            k = int(np.sum(s > 1e-6 * max(s[0], 1e-30)))
            lefts.append(u[:, :k] * np.sqrt(s[:k]))
            rights.append(np.sqrt(s[:k, None]) * v[:k])
        u, s, _ = np.linalg.svd(np.hstack(lefts), full_matrices=False)
        _, t, v = np.linalg.svd(np.vstack(rights), full_matrices=False)
        u, v = u[:, s > 1e-8 * s[0]], v[t > 1e-8 * t[0]]
        wanted = u @ ties([u.T @ delta @ v.T for delta in parts]) @ v
        np.testing.assert_allclose(found[name], wanted, atol=1e-4 * np.abs(wanted).max(), err_msg=name)


@pytest.mark.parametrize("space", [knots, core], ids=["knots", "core"])
@pytest.mark.parametrize("shape", [(40, 30), (6, 30), (30, 6), (1, 4)], ids=str)
def test_coordinates_stand_for_the_changes(space, shape):
    """left · coordinatesᵢ · right = changeᵢ to 1e-10, where ranks exceed the sides, too."""
    rng = np.random.default_rng(0)
    products = [Product(rng.normal(size=(shape[0], k)), rng.normal(size=(k, shape[1]))) for k in (4, 0, 3)]
    found = space(products)
    for product, own in zip(products, found.coordinates, strict=True):
        np.testing.assert_allclose(found.product(own).dense, product.dense, atol=1e-10)
    assert len({own.shape for own in found.coordinates}) == 1


def test_a_tied_seed_gives_the_same_bytes(place):
    """Of methods that draw random numbers in coordinates."""
    for out in ("x", "y"):
        made("merge", "a", "b", "c", out, "--method=dare_ties", "--density=0.4", "--space=core", "--seed=3")
    x, y = (read_file(place / n / "adapter_model.safetensors") for n in "xy")
    assert all(x[n].tobytes() == y[n].tobytes() for n in x)
