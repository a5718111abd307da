"""NearSwap: take what lies near the base, move only a little towards the rest."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.kernels import codes
from stockpot.methods.declare import Base, Citation, Elementwise, Law, Method, Parameter, Resolved
from stockpot.methods.elementwise.atoms import Atom, Combine
from stockpot.methods.elementwise.operation import Operation, operation

__all__ = ["NEARSWAP", "Near"]

_FLOOR = 1e-300
_COMPAT_FLOOR = 1e-6


@dataclass(frozen=True)
class Near:
    """Limits entries to a magnitude of ``t``; a quotient by less than ``floor`` is one by ``floor``."""

    t: float
    floor: float

    def operations(self, models: int) -> tuple[Operation, ...]:
        """A factor for each entry."""
        return (operation(codes.NEAR, models, (self.t,) * models, (self.floor,) * models),)


def _nearswap(p: Resolved) -> tuple[Atom, ...]:
    return (Near(float(p["t"]), _COMPAT_FLOOR if p.compat else _FLOOR), Combine("none"))


NEARSWAP = Method(
    name="nearswap",
    summary="Takes the other model's weights where they lie within t of the base, and moves by t elsewhere.",
    formula="base + min(1, t / |x - base|) (x - base)",
    cites=Citation(
        "alchemonaut",
        "QuartetAnemoi-70B-t0.0001: NearSwap",
        2024,
        "https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
        "NearSwap algorithm of the model card",
    ),
    family=Elementwise(_nearswap),
    base=Base.REQUIRED,
    on="delta",
    at_most=1,
    parameters=(Parameter("t", "how far an entry may move from the base", low=0.0),),
    laws=frozenset({Law.ZERO_DELTA, Law.DETERMINISTIC}),
)
