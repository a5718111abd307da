"""Sparsification alone: task vectors of which a share is kept, by magnitude or at random."""

from __future__ import annotations

from stockpot.methods.declare import SCOPE, Base, Citation, Elementwise, Law, Method, Parameter, Resolved
from stockpot.methods.elementwise.atoms import Atom, Combine, Drop, Scale, Trim
from stockpot.methods.elementwise.parameters import DENSITY, PROBABILITY, WEIGHT

__all__ = ["MAGNITUDE_PRUNE", "RANDOM_PRUNE"]

_YADAV_2023 = Citation(
    "Prateek Yadav and Derek Tam and Leshem Choshen and Colin Raffel and Mohit Bansal",
    "TIES-Merging: Resolving Interference When Merging Models",
    2023,
    "arXiv:2306.01708",
    "section 3 (redundant parameters)",
)
_YU_2024 = Citation(
    "Le Yu and Bowen Yu and Haiyang Yu and Fei Huang and Yongbin Li",
    "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch",
    2024,
    "arXiv:2311.03099",
    "section 4 (DropOnly)",
)


def _magnitude(p: Resolved) -> tuple[Atom, ...]:
    return (Trim(p["density"], scope=p["scope"]), Scale(p["weight"]), Combine("none"))


def _random(p: Resolved) -> tuple[Atom, ...]:
    return (Drop(p["density"], rescale=bool(p["rescale"])), Scale(p["weight"]), Combine("none"))


MAGNITUDE_PRUNE = Method(
    name="magnitude_prune",
    summary="Keeps each model's largest changes and adds them to the base.",
    formula="base + lambda * sum_i w_i trim(x_i - base)",
    cites=_YADAV_2023,
    family=Elementwise(_magnitude),
    base=Base.REQUIRED,
    on="delta",
    parameters=(WEIGHT, DENSITY, SCOPE),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA, Law.KEEPS_EXACTLY, Law.DETERMINISTIC}),
    scaled=True,
)

RANDOM_PRUNE = Method(
    name="random_prune",
    summary="Keeps a random share of each model's changes and adds them to the base, without rescaling.",
    formula="base + lambda * sum_i w_i m_i (x_i - base),  m_i ~ Bernoulli(density_i)",
    cites=_YU_2024,
    family=Elementwise(_random),
    base=Base.REQUIRED,
    on="delta",
    parameters=(
        WEIGHT,
        PROBABILITY,
        Parameter("rescale", "divide what is kept by density: then this is dare_linear", default=False, kind="bool"),
    ),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA}),
    scaled=True,
)
