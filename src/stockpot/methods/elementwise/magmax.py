"""MagMax: per entry, the largest change of all."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.kernels import codes
from stockpot.methods.declare import Base, Citation, Elementwise, Law, Method, Resolved
from stockpot.methods.elementwise.atoms import Atom, Combine, Scale
from stockpot.methods.elementwise.operation import Operation, operation
from stockpot.methods.elementwise.parameters import WEIGHT

__all__ = ["MAGMAX", "Largest"]


@dataclass(frozen=True)
class Largest:
    """Keeps the entry of largest magnitude among the inputs, the first of equals; the others become 0."""

    def operations(self, models: int) -> tuple[Operation, ...]:
        """A comparison of all inputs."""
        return (operation(codes.LARGEST, models),)


def _magmax(p: Resolved) -> tuple[Atom, ...]:
    return (Scale(p["weight"]), Largest(), Combine("none"))


MAGMAX = Method(
    name="magmax",
    summary="Takes, for each entry, the change of largest magnitude.",
    formula="base + lambda * d_k,  k = argmax_i |d_i|,  d_i = w_i (x_i - base)",
    cites=Citation(
        "Daniel Marczak and Bartłomiej Twardowski and Tomasz Trzciński and Sebastian Cygert",
        "MagMax: Leveraging Model Merging for Seamless Continual Learning",
        2024,
        "arXiv:2407.06322",
        "equation 2",
    ),
    family=Elementwise(_magmax),
    base=Base.REQUIRED,
    on="delta",
    parameters=(WEIGHT,),
    laws=frozenset({Law.IDEMPOTENT, Law.ZERO_DELTA, Law.ENDPOINTS, Law.DETERMINISTIC}),
    notes=(
        "Of equal magnitudes the first model's is taken (the official code takes the last), so the order of models "
        "matters only where opposite changes are equally large.",
        "The authors fine-tune in sequence and use lambda 0.5.",
    ),
    scaled=True,
)
