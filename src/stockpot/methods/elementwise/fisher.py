"""Fisher merging: a mean in which each entry weighs as much as its model's data determine it."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from stockpot.kernels import codes
from stockpot.methods.declare import Base, Citation, Companion, Elementwise, Floats, Law, Method, Parameter, Resolved
from stockpot.methods.elementwise.atoms import Atom, Combine
from stockpot.methods.elementwise.operation import Operation, Sums, operation
from stockpot.methods.elementwise.parameters import MODEL_SCOPE

__all__ = ["FISHER"]


@dataclass(frozen=True)
class Precision:
    """Weighs entries by weight × max(Fisher, floor), with ``normalize`` divided by the Fisher's L2 norm."""

    weight: tuple[float, ...]
    floor: float
    normalize: bool

    def operations(self, models: int) -> tuple[Operation, ...]:
        """A pass for the norms, then products."""
        needs = (Sums(_by_norm),) if self.normalize else ()
        return (operation(codes.PRECISION, models, (self.floor,) * models, self.weight, needs=needs),)


def _by_norm(op: Operation, sums: Floats, _elements: int) -> Operation:
    norms = [sqrt(float(s)) for s in sums[:, codes.COMPANION]]
    return op.put(1, tuple(w / n if n > 0.0 else w for w, n in zip(op.numbers[1], norms, strict=True)))


def _fisher(p: Resolved) -> tuple[Atom, ...]:
    weights = p["weight"]
    if any(w < 0.0 for w in weights) or not any(weights):
        raise ValueError("its weights must not be negative, and not all 0")
    return (Precision(weights, float(p["floor"]), bool(p["normalize"])), Combine("shares"))


FISHER = Method(
    name="fisher",
    summary="Mean of the models, each entry weighted by its diagonal Fisher information.",
    formula="sum_i c_i F_i x_i / sum_i c_i F_i,  c_i = w_i / |F_i|,  F_i at least floor",
    cites=Citation(
        "Michael S. Matena and Colin Raffel",
        "Merging Models with Fisher-Weighted Averaging",
        2022,
        "arXiv:2111.09832",
        "equation 4",
    ),
    family=Elementwise(_fisher),
    base=Base.NONE,
    on="weights",
    parameters=(
        Parameter("weight", "importance of each model, not negative", default=1.0, per_model=True, low=0.0),
        Parameter("normalize", "divide each Fisher by its L2 norm", default=True, kind="bool"),
        Parameter("floor", "least Fisher information of an entry", default=1e-6, low=0.0, open_low=True),
        MODEL_SCOPE,
    ),
    companions=(
        Companion("fisher", "diagonal Fisher information: a checkpoint with the model's tensor names", per_model=True),
    ),
    laws=frozenset({Law.IDEMPOTENT, Law.ORDER_FREE, Law.DETERMINISTIC}),
    notes=(
        "The Fisher diagonal is the mean over examples of squared per-example gradients of log p(y|x), y drawn from or "
        "summed over the model's own predictions; squares of batch gradients are something else.",
        "The official code applies the floor to the first (target) model only; here it is the same for all.",
    ),
)
