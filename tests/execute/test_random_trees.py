"""Any tree of methods computes what its formulas compute, composed in NumPy."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import reference as ref
import stockpot as sp
from reference import cast_once, weights, widened
from stockpot.arrangements import Cast
from stockpot.planning import blocks

SHAPE = (211, 37)
SEED = 5
ZERO = np.zeros(SHAPE)


def stored():
    """Models of several dtypes: (expression, value in float64), the first being everyone's base."""
    rng = np.random.default_rng(0)
    base = weights(rng, SHAPE, "F32")
    arrays = [base, *(weights(rng, SHAPE, c, around=base, apart=0.02) for c in ("F32", "BF16", "F16", "F64"))]
    return [(sp.open({"w": a}, name=f"m{i}"), widened(a)) for i, a in enumerate(arrays)]


LEAVES = stored()
numbers = st.sampled_from([-0.5, 0.25, 0.3, 0.7, 1.0, 1.3])
densities = st.sampled_from([0.2, 0.5, 0.75, 1.0])


class Trees:
    """Draws a tree and its value side by side."""

    def __init__(self, data):
        self.draw = data.draw

    def one(self, *choices):
        return self.draw(st.sampled_from(choices))

    def several(self, draw_one, depth, least=1):
        return [draw_one(depth) for _ in range(self.draw(st.integers(least, 3)))]

    def model(self, depth):
        """Weights: a leaf, or a node over smaller trees."""
        if depth == 0:
            return LEAVES[self.draw(st.integers(0, len(LEAVES) - 1))]
        kind = self.one("leaf", "mix", "anchored", "linear", "slerp", "nuslerp", "wise_ft", "passthrough", "cast")
        if kind == "leaf":
            return LEAVES[self.draw(st.integers(0, len(LEAVES) - 1))]
        if kind == "anchored":
            (base, b), (delta, d), scale = self.model(0), self.difference(depth), self.draw(numbers)
            return base + scale * delta, b + scale * d
        if kind == "cast":
            x, a = self.model(depth - 1)
            return Cast(x, "bfloat16"), widened(cast_once(a, "BF16"))
        if kind == "passthrough":
            (x, a), scale = self.model(depth - 1), abs(self.draw(numbers))  # opposite models have no angle
            return sp.passthrough(x, scale=scale), scale * a
        if kind == "linear":
            parts = self.several(self.model, depth - 1)
            w = [abs(self.draw(numbers)) for _ in parts]
            return sp.linear(*(x for x, _ in parts), weight=w), ref.linear([a for _, a in parts], w)
        (x, a), (y, b), t = self.model(depth - 1), self.model(depth - 1), self.draw(numbers)
        if kind == "mix":
            return t * x + (1.0 - t) * y, t * a + (1.0 - t) * b
        if kind == "wise_ft":
            return sp.wise_ft(x, y, alpha=t), (1.0 - t) * a + t * b
        if kind == "slerp":
            return sp.slerp(x, y, t=t), ref.slerp(a, b, t)
        rows = self.draw(st.booleans())
        made = sp.nuslerp(x, y, weight=[1.0, 3.0], nuslerp_flatten=False, nuslerp_row_wise=rows)
        return made, ref.slerp_along(a, b, 0.75, 0 if rows else -1)

    def difference(self, depth):
        """Delta: two models apart, or a node over differences."""
        if depth == 0:
            return self.apart(0)
        kind = self.one("apart", "scaled", "sum", "task_arithmetic", "ties", "unweighted", "model_stock", "dare")
        if kind == "apart":
            return self.apart(depth - 1)
        if kind == "scaled":
            (x, d), scale = self.difference(depth - 1), self.draw(numbers)
            return scale * x, scale * d
        if kind == "sum":
            (x, d), (y, e) = self.difference(depth - 1), self.difference(depth - 1)
            return x + y, d + e
        if kind == "dare":
            return self.dropped()
        parts = self.several(self.difference, depth - 1, 2 if kind == "model_stock" else 1)
        xs, ds = [x for x, _ in parts], [d for _, d in parts]
        if kind == "model_stock":
            return sp.model_stock(*xs), ref.model_stock(ZERO, ds)
        w, p = [abs(self.draw(numbers)) for _ in parts], [self.draw(densities) for _ in parts]
        if kind == "task_arithmetic":
            return sp.task_arithmetic(*xs, weight=w), ref.task_arithmetic(ZERO, ds, w)
        variant = "unweighted" if kind == "unweighted" else None
        made = sp.ties(*xs, weight=w, density=p, variant=variant)
        return made, ref.ties(ZERO, ds, w, p, unweighted=variant is not None)

    def apart(self, depth):
        """A model less the common base, mostly, or less any other."""
        (x, a), (y, b) = self.model(depth), LEAVES[0] if self.draw(st.booleans()) else self.model(0)
        return x - y, a - b

    def dropped(self):
        """DARE of stored models, whose masks are known by name."""
        chosen = self.draw(st.lists(st.integers(1, len(LEAVES) - 1), min_size=1, max_size=3, unique=True))
        density = self.draw(densities)
        masks = [ref.drop_mask(SHAPE, density, seed=SEED, tensor="w", model=f"m{i}") for i in chosen]
        (base, b), n = LEAVES[0], len(chosen)
        made = sp.dare_linear(*(LEAVES[i][0] - base for i in chosen), density=density)
        ds = [LEAVES[i][1] - b for i in chosen]
        return made, ref.dare(ZERO, ds, (1.0,) * n, masks, (density,) * n)


@settings(max_examples=250)
@given(st.data())
def test_any_tree_is_the_composition_of_its_formulas(data):
    """Whatever methods are nested in whatever way: the result is that of their formulas, in one or many blocks."""
    expression, value = Trees(data).model(3)
    before, blocks.BLOCK = blocks.BLOCK, data.draw(st.sampled_from([blocks.BLOCK, 2048]))
    try:
        made = sp.compute(expression, dtype="float64", seed=SEED, threads=data.draw(st.integers(1, 3)))["w"]
    finally:
        blocks.BLOCK = before
    assert np.allclose(made, value, rtol=1e-9, atol=1e-12 * (1.0 + np.abs(value).max()))
