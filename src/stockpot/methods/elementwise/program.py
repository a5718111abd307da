"""Atoms of an elementwise method → the program that the row kernel runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from stockpot.kernels import codes
from stockpot.methods.declare import Elementwise, Resolved
from stockpot.methods.elementwise.atoms import Atom, Combine, MatchL1
from stockpot.methods.elementwise.operation import Operation, Ranks

__all__ = ["Program", "assemble", "program_of"]

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


_Given: TypeAlias = tuple[tuple[tuple[str, Any], ...], tuple[tuple[str, tuple[float, ...]], ...], tuple[Any, ...]]
"""The fields of :class:`Resolved` as what can be hashed: one, each, the others in order."""


def program_of(family: Elementwise, resolved: Resolved, models: int) -> Program:
    """The program of a method with these parameters, for ``models`` inputs.

    It is made once: tensors, planning and computing mostly ask for the same ones.

    Raises:
        ValueError: as :func:`assemble`, and as the method itself.
    """
    r = resolved
    others = (r.models, r.compat, r.variant, r.depth, r.companions)
    return _made(family.build, (tuple(r.one.items()), tuple(r.each.items()), others), models)


@lru_cache(maxsize=1024, typed=True)
def _made(build: Callable[[Resolved], Sequence[Any]], given: _Given, models: int) -> Program:
    one, each, others = given
    return assemble(build(Resolved(dict(one), dict(each), *others)), models)


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
