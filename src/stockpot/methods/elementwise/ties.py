"""TIES-Merging: trim, elect sign, disjoint mean."""

from __future__ import annotations

from stockpot.methods.declare import SCOPE, Base, Citation, Companion, Elementwise, Law, Method, Parameter, Resolved
from stockpot.methods.elementwise.atoms import Atom, Combine, Elect, ElectAs, MatchL1, Scale, Trim
from stockpot.methods.elementwise.parameters import DENSITY, INT8_MASK, WEIGHT

__all__ = ["TIES"]

_YADAV_2023 = Citation(
    "Prateek Yadav and Derek Tam and Leshem Choshen and Colin Raffel and Mohit Bansal",
    "TIES-Merging: Resolving Interference When Merging Models",
    2023,
    "arXiv:2306.01708",
    "algorithm 1",
)


def _ties(p: Resolved) -> tuple[Atom, ...]:
    trim = Trim(p["density"], "down" if p.compat else "nearest", p["scope"])
    match: tuple[Atom, ...] = (MatchL1(),) if p["rescale"] else ()
    elect = ElectAs() if "sign_from" in p.companions else Elect()
    if p.variant == "unweighted":
        return (trim, *match, elect, Scale(p["weight"]), Combine("count" if p["normalize"] else "none"))
    mean = Combine("weights", p["weight"]) if p["normalize"] else Combine("none")
    return (trim, *match, Scale(p["weight"]), elect, mean)


TIES = Method(
    name="ties",
    summary="Keeps each model's largest changes, elects a sign per entry, averages the entries that agree.",
    formula="base + lambda * mean{ w_i trim(x_i - base) : sign agrees with sign(sum_i w_i trim(x_i - base)) }",
    cites=_YADAV_2023,
    family=Elementwise(_ties),
    base=Base.REQUIRED,
    on="delta",
    parameters=(
        WEIGHT,
        DENSITY,
        Parameter("normalize", "divide by the weights of the entries that agree", default=True, kind="bool"),
        Parameter("rescale", "scale what is kept to the L1 norm before trimming", default=False, kind="bool"),
        SCOPE,
        INT8_MASK,
    ),
    companions=(
        Companion(
            "sign_from",
            "a model whose changes give the signs, instead of an election (0 counts as +)",
            required=False,
            delta=True,
        ),
    ),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA, Law.KEEPS_EXACTLY, Law.DETERMINISTIC}),
    variants={"unweighted": "the sign is elected before weighting and the mean is over the number of entries (PEFT)"},
    notes=(
        "The paper trims over the whole model (scope: model) to 20 %, with equal weights and lambda 1; tools trim each "
        "tensor, which is the default here. A density of 1 trims nothing.",
        "The official code keeps one entry more than density asks for, and all that equal the smallest one kept; here "
        "exactly round(density * n) are kept, ties by index. It gives a sum of zero the model's majority sign; here +.",
        "With scope: model, a density that varies over tensors gives one threshold, which keeps as many entries as the "
        "tensors' shares add up to; of equal magnitudes those of the first tensor by name are kept first.",
    ),
    scaled=True,
)
