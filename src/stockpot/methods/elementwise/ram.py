"""RAM: what one model changed is kept whole, what several changed is averaged."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.kernels import codes
from stockpot.methods.declare import Base, Citation, Elementwise, Floats, Law, Method, Parameter, Resolved
from stockpot.methods.elementwise.atoms import Atom, Combine, Floor
from stockpot.methods.elementwise.operation import Operation, Sums, operation

__all__ = ["RAM", "RAMPLUS_TL"]

_RAM = Citation(
    "Xiangchi Yuan and Dachuan Shi and Chunhui Zhang and Zheyuan Liu and Shenglong Yao and Soroush Vosoughi "
    "and Wenke Lee",
    "Behavior Knowledge Merge in Reinforced Agentic Models",
    2026,
    "arXiv:2601.13572",
    "section 4 (RAM and RAM+)",
)

_EPSILON = Parameter("epsilon", "changes of at most this magnitude count as none", default=1e-5, low=0.0)


@dataclass(frozen=True)
class ScaleUnique:
    """Multiplies entries that no other input has by 1 + r × min(shared / unique entries of the input, alpha)."""

    r: float
    alpha: float
    epsilon: float

    def operations(self, models: int) -> tuple[Operation, ...]:
        """A count, then a factor."""
        return (operation(codes.UNIQUE, models, needs=(Sums(self._factors, counts=True),)),)

    def _factors(self, op: Operation, sums: Floats, _elements: int) -> Operation:
        def factor(shared: float, unique: float) -> float:
            below = max(unique, self.epsilon)
            ratio = shared / below if below > 0.0 else self.alpha
            return 1.0 + self.r * min(max(ratio, 0.0), self.alpha)

        pairs = zip(sums[:, codes.SHARED], sums[:, codes.UNIQUE_COUNT], strict=True)
        return op.put(1, tuple(factor(float(s), float(u)) for s, u in pairs))


def _ram(p: Resolved) -> tuple[Atom, ...]:
    return (Floor(float(p["epsilon"])), Combine("count"))


def _ramplus(p: Resolved) -> tuple[Atom, ...]:
    epsilon = float(p["epsilon"])
    return (Floor(epsilon), ScaleUnique(float(p["r"]), float(p["alpha"]), epsilon), Combine("count"))


RAM = Method(
    name="ram",
    summary="Keeps changes that only one model made, averages those that several made.",
    formula="base + sum_i m_i (x_i - base) / max(1, sum_i m_i),  m_i = [|x_i - base| > epsilon]",
    cites=_RAM,
    family=Elementwise(_ram),
    base=Base.REQUIRED,
    on="delta",
    parameters=(_EPSILON,),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    scaled=True,
)

RAMPLUS_TL = Method(
    name="ramplus_tl",
    aliases=("ramplus",),
    summary="As ram, and amplifies what only one model changed, the more the larger the part that it shares.",
    formula="as ram, with unique entries of model i times 1 + r min(shared_i / unique_i, alpha)",
    cites=_RAM,
    family=Elementwise(_ramplus),
    base=Base.REQUIRED,
    on="delta",
    parameters=(
        Parameter("r", "how strongly unique changes are amplified", default=0.1),
        Parameter("alpha", "largest ratio of shared to unique entries that counts", default=0.2, low=0.0),
        _EPSILON,
    ),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    notes=("Entries are counted in each tensor.",),
    scaled=True,
)
