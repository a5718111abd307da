"""What tests of matrix methods share: random matrices, parameters with their defaults, one checked call."""

from __future__ import annotations

import numpy as np

from stockpot.methods.declare import REQUIRED, Resolved


class Work:
    """What a method is given beside its matrices; counts the ticks."""

    def __init__(self, grams=()):
        self.grams, self.ticks = list(grams), 0

    def tick(self):
        self.ticks += 1

    def companion(self, name):
        assert name == "gram"
        return self.grams

    def normal(self, rows, columns):
        return np.random.default_rng(1).standard_normal((rows, columns))


def named(method):
    return method.name


def resolved(method, models, **given):
    values = {x.name: x.default for x in method.parameters} | {k.rstrip("_"): v for k, v in given.items()}
    assert set(values) == {x.name for x in method.parameters}
    assert REQUIRED not in values.values()
    each = {}
    for x in method.parameters:
        if x.per_model:
            value = values.pop(x.name)
            each[x.name] = tuple(value) if isinstance(value, (list, tuple)) else (value,) * models
    return Resolved(values, each, models)


def solve(method, matrices, grams=None, **given):
    """The method's result on read-only inputs; checks its shape and the number of ticks."""
    matrices = [np.array(m, np.float64) for m in matrices]
    for m in matrices:
        m.setflags(write=False)
    work = Work(grams if grams is not None else make_grams(matrices))
    p = resolved(method, len(matrices), **given)
    result = method.family.solve(matrices, p, work)
    assert result.shape == matrices[0].shape
    assert result.dtype == np.float64
    assert np.isfinite(result).all()
    assert work.ticks == method.family.units(p, result.shape)
    return result


def make(shape, count, seed=0):
    rng = np.random.default_rng((seed, count, *shape))
    return [rng.standard_normal(shape) for _ in range(count)]


def make_grams(matrices):
    """One Gram matrix of inputs per model, of full rank."""
    columns = matrices[0].shape[1]
    rng = np.random.default_rng(columns)
    inputs = [rng.standard_normal((2 * columns + 3, columns)) for _ in matrices]
    return [x.T @ x / len(x) for x in inputs]


def near(result, expected, tolerance=1e-9):
    """Assert equality within ``tolerance`` of the largest expected number."""
    size = max(1e-300, float(np.abs(expected).max(initial=0.0)))
    np.testing.assert_allclose(result, expected, rtol=0.0, atol=tolerance * size)
