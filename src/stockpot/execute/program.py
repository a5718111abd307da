"""Atoms of an elementwise method → the operation arrays that the row kernel runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stockpot.methods.elementwise.atoms import Atom, Combine, Elect, MatchL1, Scale, Trim

__all__ = ["Program", "assemble"]

_TRIM, _DROP, _SCALE, _ELECT, _L1_BEFORE, _L1_AFTER, _SUM, _DIVIDE = range(8)

_WORDS = 2.0**32


@dataclass(frozen=True)
class Program:
    """Operations with their arguments, and what must be known before they can run.

    Args:
        operations: int64 (operations,), codes of :mod:`stockpot.kernels.rows`.
        limits, factors: float64 (operations, inputs).
        scale: Factor of the result.
        trim: The selection that TRIM needs, or None.
        drops: Whether random numbers are drawn.
        norms: Program whose L1 norms are to be measured first, or None.
    """

    operations: npt.NDArray[np.int64]
    limits: npt.NDArray[np.float64]
    factors: npt.NDArray[np.float64]
    scale: float
    trim: Trim | None
    drops: bool
    norms: Program | None

    def matched(self, norms: npt.NDArray[np.float64]) -> Program:
        """The program with L1_AFTER replaced by the factors that restore the norms before.

        Args:
            norms: float64 (inputs, 2): sums of magnitudes before and after sparsifying.
        """
        ratio = np.where(norms[:, 1] > 0.0, norms[:, 0] / np.where(norms[:, 1] > 0.0, norms[:, 1], 1.0), 1.0)
        place = self.operations == _L1_AFTER
        operations = np.where(place, _SCALE, self.operations)
        factors = np.where(place[:, None], ratio[None, :], self.factors)
        return replace(self, operations=operations, factors=factors, norms=None)


@dataclass
class _Row:
    code: int
    limit: tuple[float, ...]
    factor: tuple[float, ...]


def assemble(atoms: Sequence[Atom], models: int) -> Program:
    """The program of a chain of atoms, which must end in :class:`Combine`, for ``models`` inputs."""
    rows: list[_Row] = []
    for atom in atoms:
        _append(rows, atom, (1.0,) * models)
    trim = next((a for a in atoms if isinstance(a, Trim) and any(d < 1.0 for d in a.density)), None)
    last = atoms[-1]
    scale = _mean_factor(last) if isinstance(last, Combine) else 1.0
    at = next((i for i, row in enumerate(rows) if row.code == _L1_AFTER), None)
    if at is None:
        return _pack(rows, scale, trim)
    ones = (1.0,) * models
    if all(row.code not in (_TRIM, _DROP) for row in rows[:at]):
        return _pack([row for row in rows if row.code != _L1_AFTER], scale, trim)
    measured = [_Row(_L1_BEFORE, ones, ones), *rows[: at + 1], _Row(_SUM, ones, ones)]
    return replace(_pack(rows, scale, trim), norms=_pack(measured, 1.0, trim))


def _append(rows: list[_Row], atom: Atom, ones: tuple[float, ...]) -> None:
    """Add an atom's operation; atoms that change nothing add none."""
    if isinstance(atom, Scale):
        _scale(rows, atom.factor)
    elif isinstance(atom, MatchL1):
        rows.append(_Row(_L1_AFTER, ones, ones))
    elif isinstance(atom, Elect):
        rows.append(_Row(_ELECT, ones, ones))
    elif isinstance(atom, Combine):
        rows.append(_end(atom, ones))
    elif all(d == 1.0 for d in atom.density):
        return
    elif isinstance(atom, Trim):
        rows.append(_Row(_TRIM, ones, ones))
    else:
        factor = tuple(1.0 / d if atom.rescale and d > 0.0 else 1.0 for d in atom.density)
        rows.append(_Row(_DROP, tuple(d * _WORDS for d in atom.density), factor))


def _scale(rows: list[_Row], factor: tuple[float, ...]) -> None:
    """Fold a factor into the operation before it where that one multiplies anyway."""
    if rows and rows[-1].code in (_TRIM, _DROP, _SCALE):
        rows[-1].factor = tuple(a * b for a, b in zip(rows[-1].factor, factor, strict=True))
    elif any(f != 1.0 for f in factor):
        rows.append(_Row(_SCALE, (1.0,) * len(factor), factor))


def _end(atom: Combine, ones: tuple[float, ...]) -> _Row:
    if atom.by == "weights":
        return _Row(_DIVIDE, ones, atom.weight)
    return _Row(_DIVIDE if atom.by == "count" else _SUM, ones, ones)


def _mean_factor(atom: Combine) -> float:
    total = float(sum(atom.weight))
    return 1.0 / total if atom.by == "all" and abs(total) >= 1e-8 else 1.0


def _pack(rows: list[_Row], scale: float, trim: Trim | None) -> Program:
    return Program(
        operations=np.array([r.code for r in rows], np.int64),
        limits=np.array([r.limit for r in rows], np.float64),
        factors=np.array([r.factor for r in rows], np.float64),
        scale=scale,
        trim=trim,
        drops=any(r.code == _DROP for r in rows),
        norms=None,
    )
