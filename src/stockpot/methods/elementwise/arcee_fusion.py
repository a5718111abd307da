"""Arcee Fusion: take over the changes whose importance stands out."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.kernels import codes
from stockpot.methods.declare import Axis, Base, Citation, Elementwise, Floats, Law, Method, Resolved
from stockpot.methods.elementwise.atoms import Atom, Combine
from stockpot.methods.elementwise.operation import Operation, Ranks, operation

__all__ = ["ARCEE_FUSION"]

_QUARTERS = (0.25, 0.5, 0.75)
_COMPAT_PROBABILITY = 1e-8


@dataclass(frozen=True)
class Fuse:
    """Keeps entries whose importance is at least the median plus 1.5 times the range of the quartiles.

    Importance is |x| × KL(softmax(model) ‖ softmax(base)) of the row. It must be the first atom of a chain of
    one input with a base.

    Args:
        floor: Added to probabilities before their logarithms are taken.
    """

    floor: float

    def operations(self, models: int) -> tuple[Operation, ...]:
        """Three order statistics of importances, then a comparison."""
        ones = (1.0,) * models
        ranks = Ranks(_wanted, _whole, codes.IMPORTANCES, _threshold)
        return (
            operation(codes.FUSE, models, ones, ones, (self.floor,) * models, needs=(ranks,), prepare="divergence"),
        )


def _wanted(elements: int) -> tuple[tuple[int, float], ...]:
    return tuple((0, quarter * (elements - 1)) for quarter in _QUARTERS)


def _whole(_search: int, wanted: float, elements: int) -> int:
    """The lower of the two entries between which a quantile lies."""
    return elements - int(wanted)


def _threshold(op: Operation, values: Floats) -> Operation:
    first, median, third = values
    return op.put(0, (float(median + 1.5 * (third - first)),))


def _fusion(p: Resolved) -> tuple[Atom, ...]:
    return (Fuse(_COMPAT_PROBABILITY if p.compat else 0.0), Combine("none"))


def _row(_: Resolved) -> Axis:
    return "row"


ARCEE_FUSION = Method(
    name="arcee_fusion",
    summary="Takes over the other model's changes where their importance stands out.",
    formula="base + m (x - base),  m = [I >= Q2(I) + 1.5 (Q3(I) - Q1(I))],  "
    "I = |x - base| KL(softmax(x) || softmax(base))",
    cites=Citation(
        "Charles Goddard and Shamane Siriwardhana and Malikeh Ehghaghi and Luke Meyers and Vladimir Karpukhin "
        "and Brian Benedict and Mark McQuade and Jacob Solawetz",
        "Arcee's MergeKit: A Toolkit for Merging Large Language Models",
        2024,
        "arXiv:2403.13257",
        "method arcee_fusion of its code",
    ),
    family=Elementwise(_fusion, _row),
    base=Base.REQUIRED,
    on="delta",
    at_most=1,
    laws=frozenset({Law.ZERO_DELTA, Law.DETERMINISTIC}),
    notes=(
        "Rows are vectors along the last dimension; quantiles are order statistics of the whole tensor (the lower "
        "of two), where mergekit draws a million entries at random from larger ones.",
    ),
    scaled=True,
)
