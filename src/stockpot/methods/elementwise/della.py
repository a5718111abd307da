"""DELLA: drop entries at random, small ones more often than large ones."""

from __future__ import annotations

from stockpot.methods.declare import Axis, Base, Citation, Elementwise, Law, Method, Parameter, Resolved
from stockpot.methods.elementwise.atoms import Atom, Combine, DropRanked, Elect, MatchL1, Scale
from stockpot.methods.elementwise.parameters import INT8_MASK, NORMALIZE, WEIGHT

__all__ = ["DELLA", "DELLA_LINEAR", "EPSILON"]

_DEEP_2024 = Citation(
    "Pala Tej Deep and Rishabh Bhardwaj and Soujanya Poria",
    "DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling",
    2024,
    "arXiv:2406.11617",
    "section 3 (MagPrune)",
)

EPSILON = Parameter(
    "epsilon",
    "half-width of the range of probabilities; density - epsilon and density + epsilon lie in [0, 1]",
    default=0.15,
    per_model=True,
    low=0.0,
    high=0.5,
)

_PARAMETERS = (
    WEIGHT,
    Parameter("density", "mean probability that an entry is kept", default=1.0, per_model=True, low=0.0, high=1.0),
    EPSILON,
    Parameter(
        "rescale", "divide what is kept by its own probability, which keeps the expectation", default=True, kind="bool"
    ),
)

_NOTES = (
    "Ranks are taken within rows, the vectors along the last dimension; a vector is one row. The smallest magnitude of "
    "a row is kept with probability density - epsilon, the largest with density + epsilon; of equal magnitudes the "
    "first ranks highest. epsilon is half the window of the paper's code.",
    "A density of 1 keeps everything, one of 0 nothing.",
)


def _row(_: Resolved) -> Axis:
    return "row"


def _sparse(p: Resolved) -> tuple[Atom, ...]:
    """Under compat the scale matches the L1 norm of the tensor, as mergekit does."""
    matches = p.compat and p["rescale"]
    drop = DropRanked(p["density"], p["epsilon"], rescale=bool(p["rescale"]) and not matches)
    return (drop, *((MatchL1(),) if matches else ()), Scale(p["weight"]))


def _della_linear(p: Resolved) -> tuple[Atom, ...]:
    return (*_sparse(p), Combine("all", p["weight"]) if p["normalize"] else Combine("none"))


def _della(p: Resolved) -> tuple[Atom, ...]:
    return (*_sparse(p), Elect(), Combine("weights", p["weight"]) if p["normalize"] else Combine("none"))


DELLA = Method(
    name="della",
    summary="Drops small entries more often than large ones, elects a sign per entry, averages those that agree.",
    formula="base + lambda * mean{ w_i m_i (x_i - base) / p_i : sign agrees },  m_i ~ Bernoulli(p_i)",
    cites=_DEEP_2024,
    family=Elementwise(_della, _row),
    base=Base.REQUIRED,
    on="delta",
    parameters=(
        *_PARAMETERS,
        Parameter("normalize", "divide by the weights of the entries that agree", default=True, kind="bool"),
        INT8_MASK,
    ),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA}),
    notes=_NOTES,
    scaled=True,
)

DELLA_LINEAR = Method(
    name="della_linear",
    summary="Drops small entries more often than large ones, rescales the rest, adds them to the base.",
    formula="base + lambda * sum_i w_i m_i (x_i - base) / p_i,  m_i ~ Bernoulli(p_i)",
    cites=_DEEP_2024,
    family=Elementwise(_della_linear, _row),
    base=Base.REQUIRED,
    on="delta",
    parameters=(*_PARAMETERS, NORMALIZE, INT8_MASK),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA}),
    notes=_NOTES,
    scaled=True,
)
