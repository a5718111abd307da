"""DARE: drop entries of task vectors at random and rescale the rest."""

from __future__ import annotations

from stockpot.methods.declare import Base, Citation, Elementwise, Law, Method, Parameter, Resolved
from stockpot.methods.elementwise.atoms import Atom, Combine, Drop, Elect, MatchL1, Scale
from stockpot.methods.elementwise.parameters import INT8_MASK, NORMALIZE, PROBABILITY, WEIGHT

__all__ = ["DARE_LINEAR", "DARE_TIES"]

_YU_2024 = Citation(
    "Le Yu and Bowen Yu and Haiyang Yu and Fei Huang and Yongbin Li",
    "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch",
    2024,
    "arXiv:2311.03099",
    "equations 2 and 3",
)

_PARAMETERS = (
    WEIGHT,
    PROBABILITY,
    Parameter("rescale", "divide what is kept by density, which keeps the expectation", default=True, kind="bool"),
    NORMALIZE,
    INT8_MASK,
)


def _sparse(p: Resolved) -> tuple[Atom, ...]:
    """Under compat the scale matches the L1 norm, as mergekit does since 0.1."""
    if p.compat and p["rescale"]:
        return (Drop(p["density"], rescale=False), MatchL1(), Scale(p["weight"]))
    return (Drop(p["density"], rescale=bool(p["rescale"])), Scale(p["weight"]))


def _dare_linear(p: Resolved) -> tuple[Atom, ...]:
    mean = Combine("all", p["weight"]) if p["normalize"] else Combine("none")
    return (*_sparse(p), mean)


def _dare_ties(p: Resolved) -> tuple[Atom, ...]:
    mean = Combine("weights", p["weight"]) if p["normalize"] else Combine("none")
    return (*_sparse(p), Elect(), mean)


DARE_LINEAR = Method(
    name="dare_linear",
    summary="Drops entries of task vectors at random, rescales the rest, adds them to the base.",
    formula="base + lambda * sum_i w_i m_i (x_i - base) / density_i,  m_i ~ Bernoulli(density_i)",
    cites=_YU_2024,
    family=Elementwise(_dare_linear),
    base=Base.REQUIRED,
    on="delta",
    parameters=_PARAMETERS,
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA}),
    notes=("density is the share kept, 1 - p of the paper.",),
    scaled=True,
)

DARE_TIES = Method(
    name="dare_ties",
    summary="Drops entries at random, rescales, elects a sign per entry and adds the entries that agree.",
    formula="base + lambda * sum{ w_i m_i (x_i - base) / density_i : sign agrees },  m_i ~ Bernoulli(density_i)",
    cites=_YU_2024,
    family=Elementwise(_dare_ties),
    base=Base.REQUIRED,
    on="delta",
    parameters=_PARAMETERS,
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA}),
    notes=(
        "density is the share kept, 1 - p of the paper.",
        "The paper hands its sparse task vectors to TIES, which trims again and averages; tools of this name elect and "
        "add, as here. drop, trim, elect and mean as steps give the paper's.",
    ),
    scaled=True,
)
