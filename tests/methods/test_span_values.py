"""Values of the methods that are linear combinations by angle, distance, depth, loss or time.

The references work on whole vectors in float64, by the formula or by another algorithm than the package's.
"""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import stockpot as sp
from reference import FLOATS, between, widened

COUNTS = range(1, 9)
SHAPE = (7, 13)
CODES = ("F64", "F32", "BF16", "F16")
SLACK = 1e-12


def drawn(count, code="F64", *, seed=0, apart=0.03):
    """A base and fine-tunes of it."""
    rng = np.random.default_rng(seed)
    base = ref.weights(rng, SHAPE, code)
    return base, [ref.weights(rng, SHAPE, code, around=base, apart=apart) for _ in range(count)]


def shares(count):
    """Unequal weights."""
    return [0.3 + 0.45 * ((3 * i) % 5) for i in range(count)]


def opened(arrays):
    return [sp.open({"w": x}, name=f"m{i}") for i, x in enumerate(arrays)]


def computed(expression, name="w"):
    return sp.compute(expression)[name]


def around(base, arrays, method, **parameters):
    """base + method(x − base, …)."""
    b = sp.open({"w": base}, name="base")
    return computed(b + method(*(m - b for m in opened(arrays)), **parameters))


def assert_values(made, value, *inputs, slack=SLACK):
    """Every entry is the cast of a number within a few roundings of the reference."""
    sizes = sum(np.abs(widened(x)) for x in inputs)
    assert made.shape == np.shape(inputs[0])
    assert np.all(between(made, value, 20 * slack * sizes))


# --- means on the sphere -----------------------------------------------------------------------------------


def log_map(u, v):
    """The tangent vector at u that leads to v along the shorter arc."""
    part = v - np.dot(u, v) * u
    size = np.linalg.norm(part)
    return np.zeros_like(u) if size == 0.0 else part / size * np.arctan2(size, np.dot(u, v))


def karcher_mean(vectors, weights):
    """Mean direction times mean norm: Riemannian gradient descent by half steps, on whole vectors."""
    flat = [np.asarray(v, np.float64).reshape(-1) for v in vectors]
    norms = np.array([np.linalg.norm(v) for v in flat])
    weights = np.asarray(weights) / np.sum(weights)
    units = [(w, v / n) for w, v, n in zip(weights, flat, norms, strict=True) if n > 0.0]
    if not units:
        return np.zeros(np.shape(vectors[0]))
    u = sum(w * v for w, v in units)
    u = u / np.linalg.norm(u)
    for _ in range(2000):
        step = 0.5 * sum(w * log_map(u, v) for w, v in units) / sum(w for w, _ in units)
        size = np.linalg.norm(step)
        if size < 1e-17:
            break
        u = np.cos(size) * u + np.sin(size) * step / size
        u = u / np.linalg.norm(u)
    return (np.dot(weights, norms) * u).reshape(np.shape(vectors[0]))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("code", CODES)
def test_multislerp_is_the_mean_on_the_sphere(code, count):
    """Least summed squared angle, times the mean norm; with a base, of task vectors."""
    base, tuned = drawn(count, code)
    weights = shares(count)
    made = computed(sp.multislerp(*opened(tuned), weight=weights))
    assert_values(made, karcher_mean([widened(x) for x in tuned], weights), *tuned)
    made = around(base, tuned, sp.multislerp, weight=weights)
    value = widened(base) + karcher_mean(ref.deltas(tuned, base), weights)
    assert_values(made, value, base, *tuned)


@pytest.mark.parametrize("count", COUNTS)
def test_multislerp_of_wide_angles(count):
    """Directions at right angles and beyond, of lengths from 0.1 to 10, far from where a plain mean is near."""
    rng = np.random.default_rng(3)
    arrays = [10.0 ** rng.uniform(-1, 1) * rng.normal(size=SHAPE) for _ in range(count)]
    arrays = [x + 0.1 * np.linalg.norm(x) * np.eye(*SHAPE) / 3 for x in arrays]
    made = computed(sp.multislerp(*opened(arrays), weight=shares(count)))
    assert np.allclose(made, karcher_mean(arrays, shares(count)), rtol=0, atol=1e-11)


def test_multislerp_of_two_is_slerp():
    """At 90° with weights 0.9 and 0.1 the result turns by 9°, where a normalised mean turns by 6.34°."""
    a, b = opened([np.array([1.0, 0.0]), np.array([0.0, 1.0])])
    made = computed(sp.multislerp(a, b, weight=[0.9, 0.1]))
    assert np.degrees(np.arctan2(made[1], made[0])) == pytest.approx(9.0, abs=1e-12)
    assert np.linalg.norm(made) == pytest.approx(1.0, abs=1e-14)
    tool = computed(sp.multislerp(a, b, weight=[0.9, 0.1], compat="mergekit"))
    assert np.degrees(np.arctan2(tool[1], tool[0])) == pytest.approx(6.34, abs=0.01)


def test_the_corner_of_a_cube():
    """The mean of three perpendicular unit vectors is the diagonal between them, in any order."""
    models = opened(list(np.eye(3)))
    expected = np.full(3, 1 / np.sqrt(3))
    assert np.allclose(computed(sp.multislerp(*models)), expected, atol=1e-14)
    assert np.allclose(computed(sp.karcher(*models[::-1])), expected, atol=1e-14)


def test_weights_that_are_not_normalized_stretch_the_mean():
    """normalize_weights: false multiplies the length by the sum of the weights, not the direction."""
    _, tuned = drawn(3)
    models = opened(tuned)
    once = computed(sp.multislerp(*models, weight=[1.0, 2.0, 1.5]))
    assert np.allclose(computed(sp.multislerp(*models, weight=[1.0, 2.0, 1.5], normalize_weights=False)), 4.5 * once)


@pytest.mark.parametrize("count", COUNTS)
def test_karcher_stops_where_it_is_told(count):
    """tol: 0 and many steps give the mean itself; no step gives the normalised sum of unit vectors."""
    rng = np.random.default_rng(5)
    arrays = [rng.normal(size=SHAPE) + 0.2 for _ in range(count)]
    weights = shares(count)
    models = opened(arrays)
    full = computed(sp.karcher(*models, weight=weights, max_iter=500, tol=1e-15))
    assert np.allclose(full, karcher_mean(arrays, weights), rtol=0, atol=1e-12)
    total = sum(w * x / np.linalg.norm(x) for w, x in zip(weights, arrays, strict=True))
    length = np.dot(weights, [np.linalg.norm(x) for x in arrays]) / sum(weights)
    start = length * total / np.linalg.norm(total)
    assert np.allclose(computed(sp.karcher(*models, weight=weights, max_iter=0)), start, atol=1e-13)
    assert np.allclose(computed(sp.karcher(*models, weight=weights, tol=4.0)), start, atol=1e-13)


@pytest.mark.parametrize("method", [sp.multislerp, sp.karcher])
def test_zeros_shorten_the_mean_but_do_not_turn_it(method):
    """A vector of zeros has no direction and counts as 0 in the mean norm; zeros alone give zeros."""
    rng = np.random.default_rng(1)
    x, y, zero = rng.normal(size=SHAPE), rng.normal(size=SHAPE), np.zeros(SHAPE)
    with_zero = computed(method(*opened([x, zero, y]), weight=[1.0, 5.0, 3.0]))
    without = computed(method(*opened([x, y]), weight=[1.0, 3.0]))
    assert np.allclose(with_zero, without * 4 / 9, atol=1e-14)
    assert np.array_equal(computed(method(*opened([zero, zero, zero]))), zero)


@pytest.mark.parametrize("method", [sp.multislerp, sp.karcher])
def test_a_model_without_weight_has_no_say(method):
    """Weight 0 leaves a model out, even one that points the opposite way."""
    x = np.arange(1.0, 7.0)
    assert np.array_equal(computed(method(*opened([x, -x]), weight=[1.0, 0.0])), x)


@pytest.mark.parametrize("method", [sp.multislerp, sp.karcher])
@pytest.mark.parametrize("weight", [[1.0, 1.0], [3.0, 1.0]])
def test_opposite_directions_have_no_mean(method, weight):
    """Opposite vectors are an error with a way out."""
    x = np.arange(1.0, 7.0)
    with pytest.raises(sp.ExecutionError, match=r"(cancel|opposite).*(use linear|change a weight)"):
        computed(method(*opened([x, -2.0 * x]), weight=weight))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_single_element_has_a_sign_but_no_direction(shape):
    """Scalars of a model, such as a logit scale, get the plain weighted mean, whatever their signs."""
    arrays = [np.full(shape, v) for v in (2.0, -1.0, 0.5)]
    models = opened(arrays)
    base = opened([np.full(shape, 3.0)])[0]
    two, deltas = models[:2], [m - base for m in models]
    for merged, expected in (
        (sp.slerp(*two, t=0.25), 1.25),
        (sp.nuslerp(*two, weight=[1.0, 3.0]), -0.25),
        (base + sp.nuslerp(*deltas[:2], weight=[1.0, 3.0]), -0.25),
        (sp.multislerp(*models, weight=[1.0, 1.0, 2.0]), 0.5),
        (sp.karcher(*models, weight=[1.0, 1.0, 2.0]), 0.5),
        (base + sp.warp(*deltas, eta=0.5), 3.0 + 0.5 * (0.5 - 3.0)),
    ):
        assert np.allclose(computed(merged), expected, rtol=1e-14)


def test_single_elements_of_rows_have_no_direction():
    """Along rows or columns of one element each element is on its own."""
    a, b = opened([np.array([[1.0], [-2.0]]), np.array([[-3.0], [4.0]])])
    made = computed(sp.nuslerp(a, b, weight=1.0, nuslerp_flatten=False))
    assert np.allclose(made, [[-1.0], [1.0]])


@pytest.mark.parametrize("method", [sp.multislerp, sp.karcher, sp.geometric_median])
def test_weights_of_a_mean_are_not_negative(method):
    """A negative weight, or none above 0, is an error that says what to use or give."""
    models = opened(drawn(2)[1])
    with pytest.raises(sp.ExecutionError, match=r"negative weight .* use"):
        computed(method(*models, weight=[1.0, -0.5]))
    with pytest.raises(sp.ExecutionError, match="all 0; give"):
        computed(method(*models, weight=[0.0, 0.0]))


# --- WARP, LiNeS --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("code", CODES)
def test_warp_is_slerp_after_slerp(code, count):
    """The m-th task vector joins by slerp at 1/m; a share eta of the result is added to the base."""
    base, tuned = drawn(count, code)
    merged, *others = ref.deltas(tuned, base)
    for m, delta in enumerate(others, 2):
        merged = ref.slerp(merged, delta, 1.0 / m)
    for eta in (0.3, 1.0, -0.5):
        made = around(base, tuned, sp.warp, eta=eta)
        assert_values(made, widened(base) + eta * merged, base, *tuned)
    assert np.array_equal(around(base, tuned, sp.warp), around(base, tuned, sp.warp, eta=0.3))


def test_warp_depends_on_the_order():
    """Of three perpendicular unit vectors the last one counts least: 0.612, 0.612, 0.5."""
    zero = np.zeros(3)
    assert np.allclose(around(zero, list(np.eye(3)), sp.warp, eta=1.0), [0.6124, 0.6124, 0.5], atol=1e-4)


def test_warp_of_zeros_and_opposites():
    """A task vector of zeros makes its step a plain mean; opposite ones are an error."""
    x, zero = np.arange(1.0, 5.0), np.zeros(4)
    assert np.allclose(around(zero, [x, zero], sp.warp, eta=1.0), x / 2)
    assert np.allclose(around(zero, [zero, x], sp.warp, eta=1.0), x / 2)
    with pytest.raises(sp.ExecutionError, match="opposite"):
        around(zero, [x, -x], sp.warp)


LAYERS = (
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.w" for i in range(4)),
    "model.norm.weight",
    "lm_head.weight",
)


@pytest.mark.parametrize("count", COUNTS)
def test_lines_grows_with_depth(count):
    """Layer i of L is scaled by alpha + beta i / (L − 1); embeddings by alpha, norm and head by alpha + beta."""
    rng = np.random.default_rng(0)
    base = {name: rng.normal(size=SHAPE) for name in LAYERS}
    tuned = [{name: x + 0.1 * rng.normal(size=SHAPE) for name, x in base.items()} for _ in range(count)]
    b, models = sp.open(base, name="base"), [sp.open(t, name=f"m{i}") for i, t in enumerate(tuned)]
    weights = shares(count)
    made = sp.compute(b + sp.lines(*(m - b for m in models), weight=weights, alpha=0.2, beta=0.6))
    for name, depth in zip(LAYERS, (0.0, 0.0, 1 / 3, 2 / 3, 1.0, 1.0, 1.0), strict=True):
        total = sum(w * (t[name] - base[name]) for w, t in zip(weights, tuned, strict=True))
        assert np.allclose(made[name], base[name] + (0.2 + 0.6 * depth) * total, rtol=0, atol=1e-13), name


# --- losses and time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("code", CODES)
def test_lm_cocktail_weighs_by_loss(code, count):
    """Weights are softmax(−loss / temperature), 5 by default."""
    _, tuned = drawn(count, code)
    losses = [2.0 - 0.7 * ((2 * i) % 5) for i in range(count)]
    for temperature, given in ((5.0, {}), (0.4, {"temperature": 0.4})):
        weights = [np.exp(-loss / temperature) for loss in losses]
        value = sum(w * widened(x) for w, x in zip(weights, tuned, strict=True)) / sum(weights)
        assert_values(computed(sp.lm_cocktail(*opened(tuned), loss=losses, **given)), value, *tuned)


def test_lm_cocktail_is_stable():
    """Losses far from 0, or far apart in temperatures, neither overflow nor give NaN."""
    x, y = np.full(3, 1.0), np.full(3, 3.0)
    near = 1.0 / (1.0 + np.exp(-0.2))
    made = computed(sp.lm_cocktail(*opened([x, y]), loss=[1e6, 1e6 + 1.0]))
    assert np.allclose(made, 1.0 * near + 3.0 * (1 - near), atol=1e-9)
    assert np.array_equal(computed(sp.lm_cocktail(*opened([x, y]), loss=[1e300, -1e300], temperature=1e-300)), y)


DECAYS = {
    "linear": lambda t: 1 - t,
    "mean": lambda t: 1 - t,
    "cosine": lambda t: (1 + np.cos(np.pi * t)) / 2,
    "one_minus_sqrt": lambda t: 1 - np.sqrt(t),
}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("decay", DECAYS)
def test_wsm_stands_for_a_decay(decay, count):
    """The result is the first checkpoint plus every later step, scaled by what the decay leaves of the rate then."""
    _, run = drawn(count)
    value = run[0].copy()
    for i in range(1, count):
        value += DECAYS[decay](i / count) * (run[i] - run[i - 1])
    assert_values(computed(sp.wsm(*opened(run), decay=decay)), value, *run)


@pytest.mark.parametrize("count", COUNTS)
def test_wsm_with_linear_decay_is_the_mean(count):
    """Linear decay, the default, is the uniform average, and so is ``mean``."""
    _, run = drawn(count)
    for parameters in ({}, {"decay": "linear"}, {"decay": "mean"}):
        assert np.allclose(computed(sp.wsm(*opened(run), **parameters)), sum(run) / count, rtol=0, atol=1e-15)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 1.0])
def test_ema_is_the_recursion(decay, code, count):
    """A copy of the first checkpoint, then decay × average + (1 − decay) × next; 0 is the last, 1 the first."""
    _, run = drawn(count, code)
    value = widened(run[0])
    for x in run[1:]:
        value = decay * value + (1 - decay) * widened(x)
    made = computed(sp.ema(*opened(run), decay=decay))
    assert_values(made, value, *run)
    if decay in (0.0, 1.0):
        assert np.array_equal(made, run[0 if decay == 1.0 else -1])


# --- geometric median ---------------------------------------------------------------------------------------


def newton_median(vectors, weights):
    """argmin Σ wᵢ |xᵢ − y| by Newton's method with halved steps, where no vector is the median itself."""
    points = np.array([np.asarray(v, np.float64).reshape(-1) for v in vectors])
    weights = np.asarray(weights, np.float64)

    def cost(y):
        return float(weights @ np.linalg.norm(points - y, axis=1))

    y = weights @ points / weights.sum() + 1e-3 * np.std(points)
    for _ in range(200):
        gaps = y - points
        away = np.linalg.norm(gaps, axis=1)
        units = gaps / away[:, None]
        gradient = weights @ units
        curve = np.eye(y.size) * np.sum(weights / away) - (units * (weights / away)[:, None]).T @ units
        step = np.linalg.solve(curve, gradient)
        size = 1.0
        while cost(y - size * step) > cost(y) and size > 1e-10:
            size /= 2
        y = y - size * step
        if np.linalg.norm(step) < 1e-15 * np.linalg.norm(y):
            break
    return y.reshape(np.shape(vectors[0]))


@pytest.mark.parametrize("count", range(3, 9))
@pytest.mark.parametrize("code", CODES)
def test_geometric_median_has_the_least_distance(code, count):
    """The point of least weighted distance, with and without a base, as Newton's method finds it."""
    base, tuned = drawn(count, code, apart=0.3)
    weights = [1.0 + 0.2 * ((3 * i) % 4) for i in range(count)]
    value = newton_median([widened(x) for x in tuned], weights)
    plain = computed(sp.geometric_median(*opened(tuned), weight=weights))
    assert_values(plain, value, base, *tuned, slack=1e-11)
    assert_values(around(base, tuned, sp.geometric_median, weight=weights), value, base, *tuned, slack=1e-11)


def test_a_model_may_be_the_median():
    """A model whose weight outweighs the pull of the others is the median, exactly, wherever those are."""
    rng = np.random.default_rng(2)
    arrays = [rng.normal(size=SHAPE) for _ in range(4)]
    assert np.array_equal(computed(sp.geometric_median(*opened(arrays), weight=[1.0, 1.0, 3.1, 1.0])), arrays[2])
    copies = [arrays[0], arrays[1], arrays[0], arrays[0], arrays[2]]
    assert np.allclose(computed(sp.geometric_median(*opened(copies))), arrays[0], rtol=0, atol=1e-15)


@pytest.mark.parametrize("seed", range(12))
def test_the_iteration_passes_through_a_model(seed):
    """The mean, where the iteration starts, may be a model that is not the median: it goes on from there."""
    rng = np.random.default_rng(seed)
    points = [rng.normal(size=6) + 3.0 * (i == 0) for i in range(4)]
    middle = sum(points) / 4
    weights = [1.0, 1.0, 1.0, 1.0, 0.01]
    made = computed(sp.geometric_median(*opened([*points, middle]), weight=weights))
    assert np.linalg.norm(made - middle) > 0.05
    assert np.allclose(made, newton_median([*points, middle], weights), atol=1e-9)


@pytest.mark.parametrize(
    "numbers", [[5.0], [1.0, 4.0], [3.0, 1.0, 100.0], [1.0, 2.0, 4.0, 50.0], [7, 7, 1, 2, 3, 9, 9, 8]]
)
def test_the_median_of_numbers_is_their_median(numbers):
    """Tensors of one entry: the middle number, or the mean of the two in the middle."""
    models = opened([np.array([float(x)]) for x in numbers])
    assert computed(sp.geometric_median(*models))[0] == pytest.approx(np.median(numbers), abs=1e-14)


def test_one_outlier_moves_the_median_little():
    """Moving one of five models to infinity moves the mean without bound, the median by less than their spread."""
    _, tuned = drawn(5)
    spread = max(np.linalg.norm(a - b) for a in tuned[:4] for b in tuned[:4])
    before = computed(sp.geometric_median(*opened(tuned)))
    far = [*tuned[:4], tuned[4] + 1e6]
    assert np.linalg.norm(computed(sp.geometric_median(*opened(far))) - before) < spread


# --- one model relative to another --------------------------------------------------------------------------


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("code", CODES)
def test_perpendicular_adds_what_is_new(code, count):
    """Of each task vector, in order, the residual of its least-squares fit by those before it."""
    base, tuned = drawn(count, code)
    weights = shares(count)
    flat = [d.reshape(-1) for d in ref.deltas(tuned, base)]
    total = np.zeros_like(flat[0])
    for i, (w, d) in enumerate(zip(weights, flat, strict=True)):
        earlier = np.array(flat[:i]).T
        fit = earlier @ np.linalg.lstsq(earlier, d, rcond=None)[0] if i else 0.0
        total += w * (d - fit)
    made = around(base, tuned, sp.perpendicular, weight=weights)
    assert_values(made, widened(base) + total.reshape(SHAPE), base, *tuned)


def test_perpendicular_of_two_is_the_projection():
    """a + α (d_b − d_a ⟨d_a, d_b⟩ / ⟨d_a, d_a⟩): what b adds is perpendicular to what a learned."""
    base, (a, b) = drawn(2)
    da, db = a - base, b - base
    part = db - da * np.sum(da * db) / np.sum(da * da)
    made = around(base, [a, b], sp.perpendicular, weight=[1.0, 0.4])
    assert np.allclose(made, a + 0.4 * part, rtol=0, atol=1e-14)
    assert abs(np.sum((made - a) * da)) < 1e-14


def test_perpendicular_of_what_is_not_new():
    """Copies, multiples and sums of earlier task vectors add nothing; zeros neither add nor take away."""
    base, (a, b) = drawn(2)
    da, db = a - base, b - base
    one = around(base, [a, b], sp.perpendicular)
    for factors in ((2.0, -1.0), (0.3, 0.7), (1 / 3, -1 / 7), (1e-3, 1e3)):
        repeated = [a, *(base + f * da for f in factors), b, base, base + 0.3 * da - 2.5 * db]
        assert np.allclose(around(base, repeated, sp.perpendicular), one, rtol=0, atol=1e-12)
    assert np.allclose(around(base, [base, b], sp.perpendicular), b, rtol=0, atol=1e-15)


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("between_them", [1.0, 0.8, 0.1, 0.0, -0.4, -1.0])
def test_cosine_weighted_follows_the_cosine(between_them, alpha):
    """s a + (1 − s) b with s = cosine − alpha, cut to [0, 1]: unlike models give the second."""
    a, b = np.array([2.0, 0.0]), 3.0 * np.array([between_them, np.sqrt(1 - between_them**2)])
    share = min(max(between_them - alpha, 0.0), 1.0)
    made = computed(sp.cosine_weighted(*opened([a, b]), alpha=alpha))
    assert np.allclose(made, share * a + (1 - share) * b, atol=1e-14)


@pytest.mark.parametrize("code", CODES)
def test_cosine_weighted_around_a_base(code):
    """With a base the cosine is that of the task vectors; a task vector of zeros counts as perpendicular."""
    base, (x, y) = drawn(2, code)
    y = (widened(y) + widened(x) - widened(base)).astype(FLOATS[code])
    a, b = ref.deltas([x, y], base)
    share = np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
    made = around(base, [x, y], sp.cosine_weighted)
    assert_values(made, widened(base) + share * a + (1 - share) * b, base, x, y)
    assert_values(around(base, [base, y], sp.cosine_weighted), widened(y), base, y)
    assert np.array_equal(around(base, [x, base], sp.cosine_weighted), base)


# --- all of them --------------------------------------------------------------------------------------------

ON_DELTAS = {
    "multislerp": {},
    "warp": {"eta": 1.0},
    "geometric_median": {},
    "perpendicular": {},
    "lines": {"alpha": 0.5, "beta": 0.0},
    "lm_cocktail": {"loss": 1.0},
    "wsm": {"decay": "cosine"},
    "ema": {"decay": 0.5},
    "karcher": {},
}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ON_DELTAS)
def test_zero_deltas_and_empty_tensors(name, count):
    """Models equal to the base give it back, and tensors without entries stay so, for any number of models."""
    for base in (np.arange(6.0).reshape(2, 3), np.zeros((0, 4)), np.array([1.5]), np.array(-2.0)):
        made = around(base, [base] * count, getattr(sp, name), **ON_DELTAS[name])
        assert made.shape == base.shape
        assert np.array_equal(made, base)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", sorted(set(ON_DELTAS) - {"lines"}))
def test_identical_models_give_that_model(name, count):
    """Copies of a fine-tune give it back (warp with eta 1, perpendicular because copies add nothing)."""
    base, (x,) = drawn(1)
    made = around(base, [x] * count, getattr(sp, name), **ON_DELTAS[name])
    assert np.allclose(made, x, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("name", "expected"), [("geometric_median", 0.0), ("perpendicular", 1.0), ("wsm", 0.0)])
def test_opposed_models(name, expected):
    """Opposite task vectors have a median (the base), nothing new in the second, and a mean."""
    x = np.arange(1.0, 5.0)
    made = around(np.zeros(4), [x, -x], getattr(sp, name))
    assert np.allclose(made, expected * x, atol=1e-14)


def test_parameters_of_a_recipe(tmp_path):
    """Words and whole numbers come through a recipe: one choice per tensor by filter, steps as an integer."""
    from stockpot.recipe.parse import parse_recipe

    text = "merge_method: wsm\nmodels: [{model: a}, {model: b}]\nparameters: "
    text += "{decay: [{filter: x, value: cosine}, {value: mean}]}"
    assert parse_recipe(text).expression.one["decay"][0].at("x", 0.0) == "cosine"
    assert parse_recipe(text).expression.one["decay"][0].at("y", 0.0) == "mean"
    for wrong, said in (("decay: cosin", "one of linear, cosine"), ("decay: 0.5", "one of linear, cosine")):
        with pytest.raises(sp.RecipeError, match=said):
            parse_recipe(f"merge_method: wsm\nmodels: [{{model: a}}, {{model: b}}]\nparameters: {{{wrong}}}")
    with pytest.raises(sp.RecipeError, match="whole number"):
        parse_recipe("merge_method: karcher\nmodels: [{model: a}, {model: b}]\nparameters: {max_iter: 2.5}")
    with pytest.raises(sp.RecipeError, match="not a finite number"):
        parse_recipe("merge_method: ema\nmodels: [{model: a}, {model: b}]\nparameters: {decay: cosine}")
