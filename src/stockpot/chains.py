"""Pieces of methods as Python functions: ``sp.trim(density=0.2) >> sp.elect() >> sp.mean()`` is a method."""

from __future__ import annotations

from typing import Any, final

from stockpot.errors import ExpressionError, Problem
from stockpot.expression import Apply, Expression, apply
from stockpot.methods.declare import REQUIRED
from stockpot.methods.pieces import PIECES, Piece, Use, chain_of

__all__ = [
    "Chain",
    "PieceFunction",
    "agree",
    "band",
    "clip",
    "drop",
    "drop_ranked",
    "elect",
    "floor",
    "largest",
    "match_l1",
    "mean",
    "scale",
    "select_varied",
    "sum",
    "trim",
]


@final
class Chain:
    """Pieces in order; called on differences, it is the method that they make, run in one kernel.

    >>> import numpy as np, stockpot as sp
    >>> base, a, b = (sp.open({"w": np.array(x)}, name=str(x)) for x in ([0.0, 0.0], [4.0, 1.0], [2.0, -3.0]))
    >>> ties = sp.trim(density=0.5) >> sp.elect() >> sp.mean()
    >>> sp.compute(base + ties(a - base, b - base))["w"]
    array([ 4., -3.])
    """

    def __init__(self, uses: tuple[Use, ...]) -> None:
        self.uses = uses
        chain_of(uses)

    def __rshift__(self, other: Chain) -> Chain:
        """``self``, then ``other``."""
        if not isinstance(other, Chain):
            message = f"{other!r} is not a piece"
            raise ExpressionError(Problem(message, fix="write sp.trim(density=0.2) >> sp.elect()"))
        return Chain((*self.uses, *other.uses))

    def __call__(self, *models: Expression, **parameters: Any) -> Apply:
        """The chain applied to ``models``, which are differences; nothing is computed yet.

        Args:
            models: Differences, such as ``a - base``.
            parameters: Those that the pieces have not been given, such as ``weight=[0.6, 0.4]``.

        Raises:
            ExpressionError: for a parameter out of range, or models that are not differences.
        """
        method, values = chain_of(self.uses)
        return apply(method, models, {**values, **parameters})

    def __repr__(self) -> str:
        return " >> ".join(f"{u.piece.name}({', '.join(f'{k}={v!r}' for k, v in u.given.items())})" for u in self.uses)


@final
class PieceFunction:
    """A piece by name: without models a link of a chain, with models a difference of its own.

    >>> trim
    <stockpot piece trim>
    """

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.__doc__ = _documented(piece)

    def __call__(self, *models: Expression, **values: Any) -> Any:
        """A :class:`Chain` of this piece, or that chain applied to ``models``."""
        chain = Chain((Use(self.piece, values),))
        return chain(*models) if models else chain

    def __repr__(self) -> str:
        return f"<stockpot piece {self.piece.name}>"


def _documented(piece: Piece) -> str:
    lines = [f"{piece.doc[0].upper()}{piece.doc[1:]}.", "", "Args:"]
    for p in piece.parameters:
        default = "required" if p.default is REQUIRED else f"default {p.default}"
        each = ", per model" if p.per_model else ""
        lines.append(f"    {p.python_name}: {p.doc} ({default}{each})")
    return "\n".join(lines if piece.parameters else lines[:1])


agree = PieceFunction(PIECES["agree"])
band = PieceFunction(PIECES["band"])
clip = PieceFunction(PIECES["clip"])
drop = PieceFunction(PIECES["drop"])
drop_ranked = PieceFunction(PIECES["drop_ranked"])
elect = PieceFunction(PIECES["elect"])
floor = PieceFunction(PIECES["floor"])
largest = PieceFunction(PIECES["largest"])
match_l1 = PieceFunction(PIECES["match_l1"])
mean = PieceFunction(PIECES["mean"])
scale = PieceFunction(PIECES["scale"])
select_varied = PieceFunction(PIECES["select_varied"])
sum = PieceFunction(PIECES["sum"])
trim = PieceFunction(PIECES["trim"])
