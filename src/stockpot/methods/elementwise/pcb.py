"""PCB-Merging: entries compete within a model and between models."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from stockpot.kernels import codes
from stockpot.methods.declare import Base, Citation, Elementwise, Floats, Law, Method, Parameter, Resolved
from stockpot.methods.elementwise.atoms import Atom, Combine
from stockpot.methods.elementwise.operation import Operation, Ranks, operation
from stockpot.methods.elementwise.parameters import MODEL_SCOPE

__all__ = ["PCB"]

_DU_2024 = Citation(
    "Guodong Du and Junlin Lee and Jing Li and Runhua Jiang and Yifei Guo and Shuyang Yu and Hanting Liu "
    "and Sim Kuan Goh and Ho-Kin Tang and Daojing He and Min Zhang",
    "Parameter Competition Balancing for Model Merging",
    2024,
    "arXiv:2410.02396",
    "equations 1 to 4",
)

_TAIL = 1e-4
"""Magnitudes are limited to their quantiles at this distance from both ends."""

_SMALLEST_DIVISOR = 1e-12


@dataclass(frozen=True)
class Compete:
    """Weighs entries by how large they are within their model and how well they agree with the sum.

    The score is exp(N a²) × tanh(x Σ x), with a the magnitude moved to [0, 1]. The ``ratio`` of largest
    scores of each model becomes shares, 0 at the threshold and 1 at the largest score.

    Args:
        ratio: Share of entries that keep a share.
        weight: Factor of each model's shares.
    """

    ratio: float
    weight: tuple[float, ...]

    def operations(self, models: int) -> tuple[Operation, ...]:
        """Two selections: of magnitudes, then of scores."""
        ends = Ranks(_Ends(models).wanted, _ends, codes.MAGNITUDES, _limits)
        scores = Ranks(_Top(models, 1.0 - self.ratio).wanted, _top, codes.SCORES, _shares)
        ones = (1.0,) * models
        return (operation(codes.COMPETE, models, ones, ones, ones, ones, self.weight, needs=(ends, scores)),)


@dataclass(frozen=True)
class _Ends:
    models: int

    def wanted(self, elements: int) -> tuple[tuple[int, float], ...]:
        return tuple((k, share * elements) for k in range(self.models) for share in (_TAIL, 1.0 - _TAIL))


def _ends(search: int, wanted: float, elements: int) -> int:
    """Ranks of the entries at places ⌊τn⌋ and ⌊(1 − τ)n − 1⌋ in ascending order."""
    place = int(wanted - 1.0) if search % 2 else int(wanted)
    return elements - min(max(place, 0), elements - 1)


def _limits(op: Operation, values: Floats) -> Operation:
    low, high = _numbers(values[0::2]), _numbers(values[1::2])
    return op.put(0, low).put(1, tuple(max(a, b) for a, b in zip(low, high, strict=True)))


def _numbers(values: Floats) -> tuple[float, ...]:
    """``values``; 0 for what is no number, as differences of masks of infinities are."""
    return tuple(float(v) if isfinite(v) else 0.0 for v in values)


@dataclass(frozen=True)
class _Top:
    models: int
    below: float

    def wanted(self, elements: int) -> tuple[tuple[int, float], ...]:
        return tuple((k, share) for k in range(self.models) for share in (self.below * elements, 0.0))


def _top(search: int, wanted: float, elements: int) -> int:
    """Ranks of the entry at place ⌊(1 − ratio)n⌋ in ascending order, and of the largest."""
    return 1 if search % 2 else elements - min(max(int(wanted), 0), elements - 1)


def _shares(op: Operation, values: Floats) -> Operation:
    return op.put(2, _numbers(values[0::2])).put(3, _numbers(values[1::2]))


def _pcb(p: Resolved) -> tuple[Atom, ...]:
    return (Compete(float(p["ratio"]), p["weight"]), Combine("shares", floor=_SMALLEST_DIVISOR))


PCB = Method(
    name="pcb",
    summary="Weighs entries by their size within a model and their agreement between models; keeps the best.",
    formula="base + lambda * sum_i s_i d_i / sum_i s_i,  s_i = top(exp(N a_i^2) tanh(d_i sum_j d_j)),  "
    "d_i = x_i - base",
    cites=_DU_2024,
    family=Elementwise(_pcb),
    base=Base.REQUIRED,
    on="delta",
    parameters=(
        Parameter("weight", "factor of each model's shares", default=1.0, per_model=True, low=0.0),
        Parameter("ratio", "share of entries that stay in the competition", default=0.1, low=0.0, high=1.0),
        MODEL_SCOPE,
    ),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    notes=(
        "Magnitudes are limited to their quantiles at 0.0001 and 0.9999 and moved to [0, 1]. Scores below the "
        "(1 - ratio) quantile of a model count as that quantile; shares run from 0 there to 1 at the largest score.",
        "As in the official code, statistics are over the whole model. Its exp and tanh stand where the paper writes "
        "softmax. Scores are compared as float32.",
        "The authors search for lambda near 1.2.",
    ),
    scaled=True,
)
