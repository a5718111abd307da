"""TIES-Merging: trim, elect sign, disjoint mean."""

from __future__ import annotations

from stockpot.methods.declare import Base, Citation, Elementwise, Law, Method, Parameter, Resolved
from stockpot.methods.elementwise.atoms import Atom, Combine, Elect, MatchL1, Scale, Trim

__all__ = ["TIES"]

_YADAV_2023 = Citation(
    "Prateek Yadav and Derek Tam and Leshem Choshen and Colin Raffel and Mohit Bansal",
    "TIES-Merging: resolving interference when merging models",
    2023,
    "arXiv:2306.01708",
    "algorithm 1",
)


def _ties(p: Resolved) -> tuple[Atom, ...]:
    trim = Trim(p["density"], "down" if p.compat else "nearest")
    match: tuple[Atom, ...] = (MatchL1(),) if p["rescale"] else ()
    if p.variant == "unweighted":
        return (trim, *match, Elect(), Scale(p["weight"]), Combine("count" if p["normalize"] else "none"))
    mean = Combine("weights", p["weight"]) if p["normalize"] else Combine("none")
    return (trim, *match, Scale(p["weight"]), Elect(), mean)


TIES = Method(
    name="ties",
    summary="Keeps each model's largest changes, elects a sign per entry, averages the entries that agree.",
    formula="base + lambda * mean{ w_i trim(x_i - base) : sign agrees with sign(sum_i w_i trim(x_i - base)) }",
    cites=_YADAV_2023,
    family=Elementwise(_ties),
    base=Base.REQUIRED,
    on="delta",
    parameters=(
        Parameter("weight", "factor of each task vector", default=1.0, per_model=True),
        Parameter("density", "share of entries kept", default=1.0, per_model=True, low=0.0, high=1.0),
        Parameter("normalize", "divide by the weights of the entries that agree", default=True, kind="bool"),
        Parameter("rescale", "scale what is kept to the L1 norm before trimming", default=False, kind="bool"),
        Parameter("int8_mask", "accepted from other tools; memory is bounded anyway", default=False, kind="ignored"),
    ),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA, Law.KEEPS_EXACTLY, Law.DETERMINISTIC}),
    variants={"unweighted": "the sign is elected before weighting and the mean is over the number of entries (PEFT)"},
    scaled=True,
)
