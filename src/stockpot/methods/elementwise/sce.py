"""SCE: select entries by variance, calculate weights from energies, erase minority signs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stockpot.kernels import codes
from stockpot.methods.declare import Base, Citation, Elementwise, Floats, Law, Method, Parameter, Resolved
from stockpot.methods.elementwise.atoms import Atom, Combine
from stockpot.methods.elementwise.operation import Operation, Ranks, Sums, operation
from stockpot.methods.elementwise.parameters import INT8_MASK

__all__ = ["SCE", "SelectVaried"]

_WAN_2024 = Citation(
    "Fanqi Wan and Longguang Zhong and Ziyi Yang and Ruijun Chen and Xiaojun Quan",
    "FuseChat: Knowledge Fusion of Chat Models",
    2024,
    "arXiv:2408.07990",
    "section 3.3 (SCE)",
)

_COMPAT_SMALL_ENERGY = 1e-6
_COMPAT_FLOOR = 1e-6


@dataclass(frozen=True)
class _Place:
    """Rank of the last element that is kept: a share of those whose variance is not 0."""

    count: float

    def wanted(self, _elements: int) -> tuple[tuple[int, float], ...]:
        return ((0, self.count),)

    def whole(self, _search: int, wanted: float, elements: int) -> int:
        return min(int(wanted), elements)


@dataclass(frozen=True)
class SelectVaried:
    """Keeps the elements whose variance over the models is largest, ``share`` of those where it is not 0."""

    share: float
    single: bool

    def operations(self, models: int) -> tuple[Operation, ...]:
        """A count, then a selection."""
        if self.share >= 1.0:
            return ()
        return (operation(codes.VARIANCE, models, needs=(Sums(self._count, counts=True), _ranks(0.0))),)

    def _count(self, op: Operation, sums: Floats, _elements: int) -> Operation:
        varied = float(sums[0, codes.NONZERO])
        if self.single:
            kept = float(int(np.float32(varied) * np.float32(self.share)))
        else:
            kept = float(max(int(varied * self.share + 0.5), int(varied > 0.0 and self.share > 0.0)))
        return replace(op, needs=(op.needs[0], _ranks(kept)))


def _ranks(count: float) -> Ranks:
    place = _Place(count)
    return Ranks(place.wanted, place.whole, codes.VARIANCES)


@dataclass(frozen=True)
class ElectByEnergy:
    """Elects signs, then weighs each model by its Σ x², relative to the largest: 1 for equals.

    Args:
        shares: Whether weights are shares of their sum, and equal where the mean squares add up to no more than 1e-6.
    """

    shares: bool

    def operations(self, models: int) -> tuple[Operation, ...]:
        """A pass that adds up, then an election."""
        return (operation(codes.ELECT_WEIGHED, models, needs=(Sums(self._weigh),)),)

    def _weigh(self, op: Operation, sums: Floats, elements: int) -> Operation:
        energies = sums[:, codes.SQUARES] / max(elements, 1)
        below = float(energies.sum() if self.shares else energies.max())
        if below <= (_COMPAT_SMALL_ENERGY if self.shares else 0.0):
            return op.put(1, (1.0 / len(energies),) * len(energies))
        return op.put(1, tuple(energies / below))


def _sce(p: Resolved) -> tuple[Atom, ...]:
    energy = ElectByEnergy(p.compat)
    return (
        SelectVaried(float(p["select_topk"]), p.compat),
        energy,
        Combine("shares", floor=_COMPAT_FLOOR if p.compat else 0.0),
    )


SCE = Method(
    name="sce",
    summary="Selects the entries that vary most between models, weighs models by energy, erases minority signs.",
    formula="base + sum{ e_i d_i : sign agrees } / sum{ e_i : sign agrees },  d_i = select(x_i - base), "
    "e_i = |d_i|^2 / sum_j |d_j|^2",
    cites=_WAN_2024,
    family=Elementwise(_sce),
    base=Base.REQUIRED,
    on="delta",
    parameters=(
        Parameter(
            "select_topk",
            "share kept of the entries whose variance over the models is not 0; 1 keeps all",
            default=1.0,
            low=0.0,
            high=1.0,
        ),
        INT8_MASK,
    ),
    laws=frozenset({Law.IDEMPOTENT, Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    notes=(
        "Weights come from what was selected, signs from the unweighted sum (0 counts as +). Where models agree "
        "exactly the variance is 0, so with select_topk below 1 that change is dropped, as the method says.",
        "Sums are over each tensor. Without compat small task vectors are weighed like large ones.",
    ),
    scaled=True,
)
