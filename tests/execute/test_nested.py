"""Merges of merges equal the composition of their formulas, in float64 from end to end unless cast."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import stockpot as sp
from reference import between, cast_once, same, weights, widened
from stockpot.arrangements import Cast

SHAPE = (601, 499)
SIZE = 1e-12


@pytest.fixture(scope="module")
def arrays():
    """A base and three fine-tunes of it in bfloat16, of more than one block."""
    rng = np.random.default_rng(0)
    base = weights(rng, SHAPE, "BF16")
    return base, [weights(rng, SHAPE, "BF16", around=base, apart=0.02) for _ in range(3)]


@pytest.fixture(scope="module")
def models(arrays):
    """The same as models: base, then three."""
    base, tuned = arrays
    return sp.open({"w": base}, name="base"), [sp.open({"w": x}, name=f"m{i}") for i, x in enumerate(tuned)]


def computed(expression, **options):
    return sp.compute(expression, **options)["w"]


def test_an_average_of_two_merges(arrays, models):
    """½ (TIES merge) + ½ (task arithmetic) is rounded once, at the end."""
    (b, xs), (base, ms) = arrays, models
    one = base + sp.ties(*(m - base for m in ms), density=0.3)
    two = base + 0.4 * sp.task_arithmetic(*(m - base for m in ms), weight=[1, 2, -1])
    value = 0.5 * ref.ties(b, xs, (1, 1, 1), (0.3,) * 3) + 0.5 * ref.task_arithmetic(b, xs, (1, 2, -1), 0.4)
    for expression in (0.5 * one + 0.5 * two, sp.linear(one, two)):
        assert np.all(between(computed(expression), value, SIZE))


def test_ties_of_mixes(arrays, models):
    """TIES trims and elects over differences that are themselves float64 mixes of models."""
    (b, xs), (base, ms) = arrays, models
    mixes = [0.5 * ms[0] + 0.5 * ms[1], 0.25 * ms[1] + 0.75 * ms[2]]
    made = computed(base + sp.ties(*(m - base for m in mixes), density=[0.2, 0.6], weight=[1.0, 0.5]), dtype="float64")
    values = [0.5 * widened(xs[0]) + 0.5 * widened(xs[1]), 0.25 * widened(xs[1]) + 0.75 * widened(xs[2])]
    expected = ref.ties(b, values, (1.0, 0.5), (0.2, 0.6))
    assert np.allclose(made, expected, rtol=1e-13, atol=1e-15)


def test_dare_of_a_merge(arrays, models):
    """Random masks of a computed model are keyed by its name, the same as for a stored one of that name."""
    (b, xs), (base, ms) = arrays, models
    inner = sp.slerp(ms[0], ms[1], t=0.5)
    made = computed(base + sp.dare_linear(inner - base, ms[2] - base, density=0.4), seed=3, dtype="float64")
    middle = ref.slerp(widened(xs[0]), widened(xs[1]), 0.5)
    masks = [ref.drop_mask(SHAPE, 0.4, seed=3, tensor="w", model=name) for name in ("m0, m1", "m2")]
    expected = ref.dare(b, [middle, xs[2]], (1, 1), masks, (0.4, 0.4))
    assert np.allclose(made, expected, rtol=1e-13, atol=1e-15)


def test_angles_of_merges(arrays, models):
    """Slerp takes its angle between computed models, not between the stored ones below them."""
    (b, xs), (base, ms) = arrays, models
    one = base + sp.ties(*(m - base for m in ms), density=0.3)
    made = computed(sp.slerp(one, 0.3 * ms[0] + 0.7 * ms[1], t=0.25), dtype="float64")
    first = ref.ties(b, xs, (1, 1, 1), (0.3,) * 3)
    expected = ref.slerp(first, 0.3 * widened(xs[0]) + 0.7 * widened(xs[1]), 0.25)
    assert np.allclose(made, expected, rtol=1e-12, atol=1e-14)


def test_rows_below_random_numbers(arrays, models):
    """Slerp along rows below a DARE keeps rows and random words in step over the blocks."""
    (b, xs), (base, ms) = arrays, models
    inner = sp.nuslerp(ms[0], ms[1], weight=[1, 3], nuslerp_flatten=False)
    made = computed(base + sp.dare_ties(inner - base, ms[2] - base, density=0.7), seed=1, dtype="float64")
    value = ref.slerp_along(widened(xs[0]), widened(xs[1]), 0.75, -1)
    masks = [ref.drop_mask(SHAPE, 0.7, seed=1, tensor="w", model=name) for name in ("m0, m1", "m2")]
    both = [ref.dare(b, [value, xs[2]], (1, 1), masks, (0.7, 0.7), elects=True, lean=lean) for lean in (-SIZE, SIZE)]
    assert np.all(np.logical_or(*(np.isclose(made, v, rtol=1e-12, atol=1e-14) for v in both)))


def test_a_cast_rounds_in_between(arrays, models):
    """Cast(x, bfloat16) is the model as if it had been written in bfloat16 and read again."""
    (b, xs), (base, ms) = arrays, models
    inner = 0.3 * ms[0] + 0.7 * ms[1]
    value = 0.3 * widened(xs[0]) + 0.7 * widened(xs[1])
    rounded = cast_once(value, "BF16")
    made = computed(0.5 * Cast(inner, "bfloat16") + 0.5 * base, dtype="float64")
    assert np.array_equal(made, 0.5 * widened(rounded) + 0.5 * widened(b))
    assert not np.array_equal(made, 0.5 * value + 0.5 * widened(b))


@pytest.mark.parametrize("around", [lambda x: x, sp.passthrough, lambda x: sp.linear(x, x), lambda x: 1.0 * x])
def test_a_cast_rounds_also_where_nothing_else_is_done(around, arrays, models):
    """A cast to bfloat16 that is written as float32 has bfloat16 values; it is not taken for a copy."""
    _, xs = arrays
    _, ms = models
    inner = 0.3 * ms[0] + 0.7 * ms[1]
    made = computed(around(Cast(inner, "bfloat16")), dtype="float32")
    expected = cast_once(0.3 * widened(xs[0]) + 0.7 * widened(xs[1]), "BF16")
    assert np.array_equal(made, expected.astype(np.float32))


def test_a_cast_of_a_stored_model(models, arrays):
    """Casting a stored model rounds it once, and widening a narrower one changes no value."""
    _, xs = arrays
    _, ms = models
    narrow = computed(Cast(ms[0], "float8_e4m3fn"))
    assert same(narrow, cast_once(widened(xs[0]), "F8_E4M3"))
    assert np.array_equal(computed(Cast(ms[0], "float32")), xs[0].astype(np.float32))
    twice = computed(Cast(Cast(ms[0], "float8_e4m3fn"), "float64"))
    assert np.array_equal(twice, widened(narrow))


def test_a_merge_written_and_read_again_is_the_cast(tmp_path, arrays, models):
    """Merging in two runs over a file gives the bytes of merging in one run over a Cast."""
    base, ms = models
    inner = base + sp.ties(*(m - base for m in ms), density=0.5)
    sp.save(inner, tmp_path / "inner")
    two_runs = computed(0.5 * sp.open(tmp_path / "inner") + 0.5 * ms[2], dtype="float32")
    one_run = computed(0.5 * Cast(inner, "bfloat16") + 0.5 * ms[2], dtype="float32")
    assert two_runs.tobytes() == one_run.tobytes()
