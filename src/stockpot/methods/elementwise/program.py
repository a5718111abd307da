"""Atoms of an elementwise method → the program that the row kernel runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stockpot.kernels import codes
from stockpot.methods.elementwise.atoms import Atom, Combine, MatchL1
from stockpot.methods.elementwise.operation import Operation, Ranks

__all__ = ["Program", "assemble"]

_MULTIPLY = (codes.TRIM, codes.BAND, codes.DROP, codes.DROP_RANKED, codes.SCALE, codes.ELECT_AS)
"""Operations that multiply what stays by their second number, so that a factor can be folded into them."""


@dataclass(frozen=True)
class Program:
    """Operations, the last of which is an end, and the factor of the result."""

    operations: tuple[Operation, ...]
    scale: float

    @property
    def passes(self) -> int:
        """Passes over the inputs for statistics, before the one that writes."""
        needs = [need for op in self.operations for need in op.needs]
        return sum(not (isinstance(need, Ranks) and need.idle) for need in needs)


def assemble(atoms: Sequence[Atom], models: int) -> Program:
    """The program of a chain of atoms, the last of which is a :class:`Combine`, for ``models`` inputs.

    Raises:
        ValueError: for numbers that do not go together, or an atom that cannot stand where it does.
    """
    last = atoms[-1]
    if not isinstance(last, Combine) or any(isinstance(a, Combine) for a in atoms[:-1]):
        raise ValueError("a chain ends in sum or mean, and has no other")
    found: list[Operation] = []
    for atom in atoms:
        if isinstance(atom, MatchL1) and not found:
            continue  # nothing was sparsified
        for op in atom.operations(models):
            _append(found, op)
    if any(op.prepare for op in found[1:]):
        raise ValueError("an atom that ranks within rows must be the first of its chain")
    return Program(tuple(found), last.scale)


def _append(found: list[Operation], op: Operation) -> None:
    """Add an operation; a plain factor is folded into the operation before it where that multiplies anyway."""
    plain = op.code == codes.SCALE and not op.needs
    if plain and found and found[-1].code in _MULTIPLY and not _measured(found[-1]):
        before = found[-1]
        factor = tuple(a * b for a, b in zip(before.numbers[1], op.numbers[1], strict=True))
        found[-1] = before.put(1, factor)
    else:
        found.append(op)


def _measured(op: Operation) -> bool:
    """Whether the operation's own factor comes from statistics."""
    return op.code == codes.SCALE and bool(op.needs)
