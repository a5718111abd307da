"""Masked task vectors: what a mask lets through is added to the base."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.kernels import codes
from stockpot.methods.declare import Base, Citation, Companion, Elementwise, Law, Method, Resolved
from stockpot.methods.elementwise.atoms import Atom, Combine
from stockpot.methods.elementwise.operation import Operation, operation
from stockpot.methods.elementwise.parameters import WEIGHT

__all__ = ["MASKED"]


@dataclass(frozen=True)
class Times:
    """Multiplies each input by its companion and a factor."""

    factor: tuple[float, ...]

    def operations(self, models: int) -> tuple[Operation, ...]:
        """A product."""
        return (operation(codes.TIMES, models, (1.0,) * models, self.factor),)


def _masked(p: Resolved) -> tuple[Atom, ...]:
    return (Times(p["weight"]), Combine("none"))


MASKED = Method(
    name="masked",
    summary="Multiplies task vectors by masks and adds them to the base; restores a task's model from a merged one.",
    formula="base + lambda * sum_i w_i mask_i (x_i - base)",
    cites=Citation(
        "Ke Wang and Nikolaos Dimitriadis and Guillermo Ortiz-Jimenez and François Fleuret and Pascal Frossard",
        "Localizing Task Information for Improved Model Merging and Compression",
        2024,
        "arXiv:2405.07813",
        "equation 6",
    ),
    family=Elementwise(_masked),
    base=Base.REQUIRED,
    on="delta",
    parameters=(WEIGHT,),
    companions=(Companion("mask", "factor of every entry, such as tall_mask or emr_mask writes", per_model=True),),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    scaled=True,
)
