"""Every elementwise method's values are those of its paper's formula in float64, cast once.

What is stored is the rounding of a number within 1e-12 of the reference, relative to the sizes of the
inputs. References are in ``reference_elementwise.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

import reference as ref
import reference_elementwise as paper
import stockpot as sp
from reference import FLOATS, between, weights, widened

SHAPES = {
    "scalar": (),
    "empty": (0,),
    "no_rows": (0, 5),
    "one": (1,),
    "two": (2,),
    "prime": (10007,),
    "model.layers.0.mlp.weight": (31, 37),
    "kernel.weight": (5, 4, 3, 3),
    "thin.weight": (211, 1),
    "several.blocks": (601, 499),
}
"""More than 2^18 elements are more than one block; 601 and 499 are prime, so the last block is a short one."""

DTYPES = {code: (code,) * 4 for code in FLOATS} | {
    "mixed, F32 base": ("F32", "BF16", "F16", "F8_E5M2"),
    "mixed, BF16 base": ("BF16", "F32", "F64", "F8_E4M3"),
}
"""Dtype of the base, then of the models in turn."""

W = (0.3, -1.7, 2.25, 1.0, 0.6, -0.1, 0.9, 0.45)
POSITIVE = tuple(abs(w) for w in W)
DENSITY = (0.2, 0.55, 0.9, 1.0, 0.35, 0.7, 0.5, 0.0)
GAMMA = (0.1, 0.6, 0.0, 0.01, 0.3, 0.7, 0.002, 0.5)
EPSILON = (0.1, 0.2, 0.05, 0.5, 0.0, 0.3, 0.5, 0.15)
THRESHOLD = (0.4, 0.2, 0.6, 0.3, 1.0, 0.4, 0.0, 0.5)
SEED = 20
SLACK = 1e-12


@dataclass(frozen=True)
class Case:
    """A merge of differences, and its value.

    Args:
        build: Differences, further checkpoints → expression.
        value: {name: differences}, {name: base}, lean → {name: merged difference}.
        models: How many.
        scale: Factor of the merged difference; None for results that are no difference.
        slack: Relative tolerance of the value, beyond that of sums.
        leans: Whether a sum that is 0 but for rounding decides a sign.
    """

    build: Any
    value: Any
    models: int = 3
    scale: float | None = 0.75
    slack: float = 0.0
    leans: bool = False


def each(function):
    """A value for every tensor on its own: differences → merged difference."""
    return lambda ds, bases, lean: {n: function(d) for n, d in ds.items()}


def whole(function):
    """A value for all tensors one after the other in the order of their names, as one vector."""

    def value(ds, _bases, _lean):
        ds = dict(sorted(ds.items()))
        count = len(next(iter(ds.values())))
        flat = [np.concatenate([d[i].reshape(-1) for d in ds.values()]) for i in range(count)]
        made = function(flat)
        ends = np.cumsum([d[0].size for d in ds.values()])[:-1]
        return {n: p.reshape(ds[n][0].shape) for n, p in zip(ds, np.split(made, ends), strict=True)}

    return value


def first(values, n):
    return list(values[:n])


def band_case(function, n=3, scope="tensor", gamma=GAMMA, **options):
    elects = function is sp.breadcrumbs_ties
    density = [d if d < 1.0 or scope == "tensor" else 0.8 for d in DENSITY[:n]]

    def value(ds, _bases, lean):
        def merge(d):
            parts = [paper.band(x, k, g) for x, k, g in zip(d, density, gamma, strict=False)]
            if options.get("rescale"):
                parts = [paper.matched(p, x) for p, x in zip(parts, d, strict=True)]
            return paper.combined(parts, W[:n], elects=elects, normalize=options.get("normalize", False), lean=lean)

        return (whole if scope == "model" else each)(merge)(ds, _bases, lean)

    return Case(
        lambda ds: function(*ds, weight=first(W, n), density=density, gamma=first(gamma, n), scope=scope, **options),
        value,
        models=n,
        leans=elects,
    )


def words_of(shape, name, i):
    return ref.random_words(int(np.prod(shape)), ref.random_key(SEED, name, f"m{i}")).reshape(shape)


def della_case(function, n=3, *, rescale=True, normalize=None, epsilon=EPSILON):
    elects = function is sp.della
    divides = elects if normalize is None else normalize
    options = {"rescale": rescale} | ({} if normalize is None else {"normalize": normalize})

    def value(ds, _bases, lean):
        found = {}
        for name, d in ds.items():
            parts = [
                paper.della_part(x, DENSITY[i], epsilon[i], words_of(x.shape, name, i), rescale=rescale)
                for i, x in enumerate(d)
            ]
            found[name] = paper.combined(parts, W[:n], elects=elects, normalize=divides, lean=lean)
        return found

    return Case(
        lambda ds: function(*ds, weight=first(W, n), density=first(DENSITY, n), epsilon=first(epsilon, n), **options),
        value,
        models=n,
        leans=elects,
    )


def random_prune_case(n=3, *, rescale=False):
    def value(ds, _bases, _lean):
        return {
            name: sum(
                W[i]
                * np.where(ref.drop_mask(x.shape, DENSITY[i], seed=SEED, tensor=name, model=f"m{i}"), x, 0.0)
                / (DENSITY[i] if rescale and DENSITY[i] else 1.0)
                for i, x in enumerate(d)
            )
            for name, d in ds.items()
        }

    return Case(
        lambda ds: sp.random_prune(*ds, weight=first(W, n), density=first(DENSITY, n), rescale=rescale),
        value,
        models=n,
    )


def trim_case(scope, n=3):
    over = each if scope == "tensor" else whole
    return Case(
        lambda ds: sp.magnitude_prune(*ds, weight=first(W, n), density=first(DENSITY, n), scope=scope),
        over(lambda d: sum(w * paper.trimmed(x, k) for w, x, k in zip(W, d, DENSITY, strict=False))),
        models=n,
    )


def ties_case(n=3, *, rescale=False, normalize=True):
    def value(ds, bases, lean):
        def merge(d):
            parts = [paper.trimmed(x, k) for x, k in zip(d, DENSITY, strict=False)]
            parts = [paper.matched(p, x) for p, x in zip(parts, d, strict=True)] if rescale else parts
            return paper.combined(parts, W[:n], elects=True, normalize=normalize, lean=lean)

        return whole(merge)(ds, bases, lean)

    options = {"rescale": rescale, "normalize": normalize, "scope": "model"}
    return Case(
        lambda ds: sp.ties(*ds, weight=first(W, n), density=first(DENSITY, n), **options),
        value,
        models=n,
        leans=True,
    )


def emr_case(task, n=3, *, scope="model", variant=None, mask=False):
    function = sp.emr_mask if mask else sp.emr_task

    def value(ds, _bases, _lean):
        means = variant == "tensor_means"
        ratio = paper.emr_rescaler(list(ds.values()), task, means=means) if scope == "model" else None
        found = {}
        for name, d in ds.items():
            own = paper.emr_rescaler([d], task) if ratio is None else ratio
            found[name] = own * paper.emr_mask(d, task) * (1.0 if mask else paper.emr(d))
        return found

    return Case(
        lambda ds: function(*ds, task=task, scope=scope, variant=variant),
        value,
        models=n,
        scale=None if mask else 0.75,
    )


def arcee_value(ds, bases, _lean):
    return {n: paper.arcee_fusion(widened_sum(bases[n], d[0]), bases[n]) for n, d in ds.items()}


def widened_sum(base, delta):
    """The model of a difference: what was subtracted from is exact again for dtypes of one kind."""
    return base + delta


CASES = {
    "breadcrumbs": band_case(sp.breadcrumbs),
    "breadcrumbs, normalized, rescaled": band_case(sp.breadcrumbs, normalize=True, rescale=True),
    "breadcrumbs, whole model": band_case(sp.breadcrumbs, scope="model"),
    "breadcrumbs of one": band_case(sp.breadcrumbs, 1),
    "breadcrumbs of eight": band_case(sp.breadcrumbs, 8),
    "breadcrumbs_ties": band_case(sp.breadcrumbs_ties),
    "breadcrumbs_ties, normalized": band_case(sp.breadcrumbs_ties, 5, normalize=True),
    "breadcrumbs_ties, whole model": band_case(sp.breadcrumbs_ties, scope="model", rescale=True),
    "della": della_case(sp.della),
    "della, a sum": della_case(sp.della, normalize=False),
    "della, not rescaled": della_case(sp.della, rescale=False),
    "della of eight": della_case(sp.della, 8),
    "della_linear": della_case(sp.della_linear),
    "della_linear of one": della_case(sp.della_linear, 1),
    "della_linear, normalized": della_case(sp.della_linear, 5, normalize=True),
    "magnitude_prune": trim_case("tensor"),
    "magnitude_prune, whole model": trim_case("model"),
    "magnitude_prune of eight, whole model": trim_case("model", 8),
    "random_prune": random_prune_case(),
    "random_prune, rescaled": random_prune_case(8, rescale=True),
    "ties, whole model": ties_case(),
    "ties, whole model, rescaled sum": ties_case(rescale=True, normalize=False),
    "ties of eight, whole model": ties_case(8),
    "sce": Case(lambda ds: sp.sce(*ds), each(lambda d: paper.sce(d, 1.0))),
    "sce, selected": Case(lambda ds: sp.sce(*ds, select_topk=0.3), each(lambda d: paper.sce(d, 0.3))),
    "sce, nothing selected": Case(lambda ds: sp.sce(*ds, select_topk=0.0), each(lambda d: paper.sce(d, 0.0))),
    "sce of one": Case(lambda ds: sp.sce(*ds), each(lambda d: paper.sce(d, 1.0)), models=1),
    "sce of seven": Case(lambda ds: sp.sce(*ds, select_topk=0.6), each(lambda d: paper.sce(d, 0.6)), models=7),
    "pcb": Case(
        lambda ds: sp.pcb(*ds, weight=first(POSITIVE, 3)), whole(lambda d: paper.pcb(d, POSITIVE[:3], 0.1)), slack=1e-6
    ),
    "pcb of one": Case(lambda ds: sp.pcb(*ds), whole(lambda d: paper.pcb(d, (1.0,), 0.1)), models=1, slack=1e-6),
    "pcb of eight": Case(
        lambda ds: sp.pcb(*ds, ratio=0.5), whole(lambda d: paper.pcb(d, (1.0,) * 8, 0.5)), models=8, slack=1e-6
    ),
    "pcb of tensors": Case(
        lambda ds: sp.pcb(*ds, ratio=0.3, scope="tensor"),
        each(lambda d: paper.pcb(d, (1.0,) * 3, 0.3)),
        slack=1e-6,
    ),
    "consensus": Case(
        lambda ds: sp.consensus(*ds, threshold=first(THRESHOLD, 3)),
        each(lambda d: paper.consensus(d, THRESHOLD[:3], 2)),
    ),
    "consensus of eight": Case(
        lambda ds: sp.consensus(*ds, threshold=first(THRESHOLD, 8), agreement=3),
        each(lambda d: paper.consensus(d, THRESHOLD[:8], 3)),
        models=8,
    ),
    "consensus of none": Case(
        lambda ds: sp.consensus(*ds, agreement=0), each(lambda d: paper.consensus(d, (0.4,) * 3, 0))
    ),
    "tall_mask": Case(
        lambda ds: sp.tall_mask(*ds, task=2, threshold=first(THRESHOLD, 3)),
        each(lambda d: paper.tall_mask(d, 2, THRESHOLD[1])),
        scale=None,
    ),
    "emr": Case(lambda ds: sp.emr(*ds), each(paper.emr)),
    "emr of eight": Case(lambda ds: sp.emr(*ds), each(paper.emr), models=8),
    "emr_task": emr_case(1),
    "emr_task, means": emr_case(3, 5, variant="tensor_means"),
    "emr_task of tensors": emr_case(2, scope="tensor"),
    "emr_mask": emr_case(2, mask=True),
    "emr_mask of tensors": emr_case(1, 8, scope="tensor", mask=True),
    "ram": Case(lambda ds: sp.ram(*ds, epsilon=0.015), each(lambda d: paper.ram(d, 0.015))),
    "ram of eight": Case(lambda ds: sp.ram(*ds, epsilon=0.03), each(lambda d: paper.ram(d, 0.03)), models=8),
    "ramplus_tl": Case(
        lambda ds: sp.ramplus_tl(*ds, r=0.5, alpha=3.0, epsilon=0.02),
        each(lambda d: paper.ramplus(d, 0.5, 3.0, 0.02)),
    ),
    "ramplus_tl of one": Case(
        lambda ds: sp.ramplus_tl(*ds), each(lambda d: paper.ramplus(d, 0.1, 0.2, 1e-5)), models=1
    ),
    "magmax": Case(lambda ds: sp.magmax(*ds), each(paper.magmax)),
    "magmax, weighted": Case(
        lambda ds: sp.magmax(*ds, weight=list(W)),
        each(lambda d: paper.magmax([w * x for w, x in zip(W, d, strict=True)])),
        models=8,
    ),
    "nearswap": Case(lambda ds: sp.nearswap(*ds, t=0.01), each(lambda d: paper.nearswap(d[0], 0.01)), 1, 1.0),
    "nearswap of nothing": Case(lambda ds: sp.nearswap(*ds, t=0.0), each(lambda d: 0.0 * d[0]), 1, 1.0),
    "arcee_fusion": Case(lambda ds: sp.arcee_fusion(*ds), arcee_value, models=1),
}
"""Densities of exactly 1 are left to the tensor-wise forms: over a whole model they would be nothing special."""


@cache
def drawn(dtypes):
    """A base and eight fine-tunes as arrays, their differences of several sizes: shape name → array."""
    rng = np.random.default_rng(0)
    base = {n: weights(rng, s, dtypes[0]) for n, s in SHAPES.items()}
    apart = {n: 0.02 * (1 + 3 * (i % 3 == 0)) for i, n in enumerate(SHAPES)}
    return base, [
        {n: weights(rng, s, code, around=base[n], apart=apart[n]) for n, s in SHAPES.items()}
        for code in (dtypes[1:] * 3)[:8]
    ]


NUMBERS = ("of one", "of seven", "of eight", "of nothing", "of none")
PAIRS = [
    (case, dtypes)
    for case in CASES
    for dtypes in DTYPES
    if dtypes in ("F32", "BF16", "mixed, F32 base") or not any(number in case for number in NUMBERS)
]


@pytest.mark.parametrize(("case", "dtypes"), PAIRS)
def test_values_are_those_of_the_formula(case, dtypes):
    """Each tensor of each method, dtype and shape is its formula evaluated in float64 and cast once."""
    known = CASES[case]
    base, tuned = drawn(DTYPES[dtypes])
    tuned = tuned[: known.models]
    b = sp.open(base, name="base")
    merged = known.build([sp.open(m, name=f"m{i}") - b for i, m in enumerate(tuned)])
    out = DTYPES[dtypes][0] if known.scale is not None else "F64"
    made = sp.compute(
        merged if known.scale is None else b + known.scale * merged,
        seed=SEED,
        **({} if known.scale is not None else {"dtype": "float64"}),
    )
    assert list(made) == list(SHAPES)
    bases = {n: widened(x) for n, x in base.items()}
    ds = {n: [widened(m[n]) - bases[n] for m in tuned] for n in SHAPES}
    leans = (-SLACK, SLACK) if known.leans else (0.0,)
    values = [known.value(ds, bases, lean) for lean in leans]
    for name, shape in SHAPES.items():
        assert made[name].dtype == FLOATS[out]
        assert made[name].shape == shape
        sizes = np.abs(bases[name]) + sum(np.abs(d) for d in ds[name])
        fits = []
        for value in values:
            full = value[name] if known.scale is None else bases[name] + known.scale * value[name]
            fits.append(between(made[name], full, (20 * SLACK + known.slack) * np.maximum(sizes, np.abs(full))))
        assert np.all(np.logical_or.reduce(fits)), name
