"""Model Breadcrumbs: drop the smallest entries and the very largest."""

from __future__ import annotations

from stockpot.methods.declare import SCOPE, Base, Citation, Elementwise, Law, Method, Parameter, Resolved
from stockpot.methods.elementwise.atoms import Atom, Band, Combine, Elect, MatchL1, Scale
from stockpot.methods.elementwise.parameters import DENSITY, INT8_MASK, NORMALIZE, WEIGHT

__all__ = ["BREADCRUMBS", "BREADCRUMBS_TIES", "GAMMA"]

_DAVARI_2024 = Citation(
    "MohammadReza Davari and Eugene Belilovsky",
    "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks",
    2024,
    "arXiv:2312.06795",
    "section 3.2, equation 2",
)

GAMMA = Parameter(
    "gamma", "share of the largest entries that is dropped too", default=0.01, per_model=True, low=0.0, high=1.0
)

_PARAMETERS = (
    WEIGHT,
    DENSITY,
    GAMMA,
    NORMALIZE,
    Parameter("rescale", "scale what is kept to the L1 norm before dropping", default=False, kind="bool"),
    SCOPE,
    INT8_MASK,
)

_NOTES = (
    "Of n entries the round(gamma n) largest are dropped and the next round(density n) kept; with density + gamma > 1, "
    "fewer of the largest are dropped. A density of 1 keeps all, whatever gamma.",
    "The official code works along the last dimension of each tensor; tools take whole tensors, as here.",
)


def _sparse(p: Resolved) -> tuple[Atom, ...]:
    band = Band(p["density"], p["gamma"], "down" if p.compat else "nearest", p["scope"])
    match: tuple[Atom, ...] = (MatchL1(),) if p["rescale"] else ()
    return (band, *match, Scale(p["weight"]))


def _breadcrumbs(p: Resolved) -> tuple[Atom, ...]:
    return (*_sparse(p), Combine("all", p["weight"]) if p["normalize"] else Combine("none"))


def _breadcrumbs_ties(p: Resolved) -> tuple[Atom, ...]:
    return (*_sparse(p), Elect(), Combine("weights", p["weight"]) if p["normalize"] else Combine("none"))


BREADCRUMBS = Method(
    name="breadcrumbs",
    summary="Drops the smallest and the very largest changes of each model and adds the rest to the base.",
    formula="base + lambda * sum_i w_i band(x_i - base)",
    cites=_DAVARI_2024,
    family=Elementwise(_breadcrumbs),
    base=Base.REQUIRED,
    on="delta",
    parameters=_PARAMETERS,
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    notes=_NOTES,
    scaled=True,
)

BREADCRUMBS_TIES = Method(
    name="breadcrumbs_ties",
    summary="Drops the smallest and the very largest changes, elects a sign per entry, adds those that agree.",
    formula="base + lambda * sum{ w_i band(x_i - base) : sign agrees with sign(sum_i w_i band(x_i - base)) }",
    cites=_DAVARI_2024,
    family=Elementwise(_breadcrumbs_ties),
    base=Base.REQUIRED,
    on="delta",
    parameters=_PARAMETERS,
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    notes=_NOTES,
    scaled=True,
)
