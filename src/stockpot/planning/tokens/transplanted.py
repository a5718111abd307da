"""A model with another model's tokenizer: which row comes from where, and what making the others takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import ClassVar, Literal

import numpy as np
import xxhash

from stockpot.planning.forms import Form
from stockpot.transplanting.linear import fitting_bytes, predicting_bytes
from stockpot.transplanting.pursuit import pursuit_bytes
from stockpot.transplanting.table import TILE, Ints

__all__ = ["BATCH", "HELD", "KINDS", "METHODS", "TOLD", "Method", "Origins", "Transplanted"]

Method = Literal["omp", "interpolation", "subword", "linear", "mean", "zero"]

METHODS: dict[str, int] = {"omp": 64, "interpolation": 8, "subword": 0, "linear": 0, "mean": 0, "zero": 0}
"""Ways to make a row, with the number of rows that each is made of where the user says none; 0 where that is not
a choice."""

KINDS = ("copied", "made", "mean")
"""What a row is: one of the model's own, one that the method makes, the mean of the rows in common."""

BATCH = 512
"""Rows that are made together. A product's last bits may depend on its shape, so this never changes."""

HELD = 512
"""Most tokens in common that are made as if they were missing, to see how well it goes; a tenth, where that is less."""

TOLD = 4
"""Rows that the report names of those that a row is made of: the ones of largest coefficient."""

_KEPT = 128 << 20
"""A donor's rows in common are kept in float32 where they take no more bytes than this."""

_FLOPS = 1.2e11
"""Operations of float32 that one thread carries out in a second in products of matrices (measured)."""


@dataclass(frozen=True, eq=False)
class Origins:
    """Where each row of the new embedding comes from.

    Args:
        kinds: Number of its kind in :data:`KINDS`, (rows,), int8.
        ours: The model's row, of copied ones; -1 elsewhere, (rows,).
        common: Numbers of the new rows whose token both have, ascending: what rows are made of.
        held: Those of them that are made as if they were missing.
        starts, pieces: Rows of the model that row ``i`` is the mean of, with ``subword``:
            ``pieces[starts[i] : starts[i + 1]]``.
        held_starts, held_pieces: Likewise of ``held``.
    """

    kinds: np.ndarray[tuple[int], np.dtype[np.int8]]
    ours: Ints
    common: Ints
    held: Ints
    starts: Ints
    pieces: Ints
    held_starts: Ints
    held_pieces: Ints

    @cached_property
    def made(self) -> Ints:
        """Numbers of the rows that are made, ascending."""
        return np.flatnonzero(self.kinds == KINDS.index("made"))

    def __repr__(self) -> str:
        """A hash of everything, since all of it decides bytes."""
        state = xxhash.xxh3_128()
        for part in (self.kinds, self.ours, self.common, self.held, self.starts, self.pieces, self.held_starts):
            state.update(f"{part.dtype} {part.shape}".encode())
            state.update(np.ascontiguousarray(part).view(np.uint8).data)
        state.update(np.ascontiguousarray(self.held_pieces).view(np.uint8).data)
        return f"Origins({state.hexdigest()})"


@dataclass(frozen=True, slots=True)
class Transplanted(Form):
    """An embedding (or head) for another vocabulary: rows copied from the model's, and rows made by ``method``.

    The operand is the model's matrix, the companion that of the model whose tokenizer it is. Dimensions of the
    operands are their own.

    Args:
        method: How rows are made.
        k: Number of rows that one is made of at most.
        width: Elements of a row of the result.
        donor_width: Of a row of the companion.
        donor_bytes: Of an element of the companion as it is stored.
        origins: Where rows come from.
        known: Bytes that the two vocabularies take.
    """

    name: ClassVar[str] = "transplant"
    moves: ClassVar[bool] = True

    method: Method
    k: int
    width: int
    donor_width: int
    donor_bytes: int
    origins: Origins
    known: int = field(default=0, repr=False)

    @property
    def passes(self) -> int:
        """The rows in common, those held out, those that are made."""
        return 2 + bool(self.batches)

    @property
    def held(self) -> tuple[object, int]:
        """The vocabularies, and where rows come from: the same for all tensors."""
        return repr(self.origins), self.known + 64 * len(self.origins.kinds)

    @property
    def batches(self) -> int:
        """Batches of rows that coefficients are looked for."""
        searched = self.method in ("omp", "interpolation", "subword")
        return -(-len(self.origins.made) // BATCH) if searched else 0

    @property
    def terms(self) -> int:
        """Most rows that one is the sum of."""
        if self.method != "subword":
            return self.k
        lengths = [np.diff(s) for s in (self.origins.starts, self.origins.held_starts)]
        return max((int(part.max()) for part in lengths if part.size), default=0)

    @property
    def kept(self) -> bool:
        """Whether the donor's rows in common are kept in memory."""
        searched = self.method in ("omp", "interpolation")
        return searched and self.donor_bytes <= 4 and self._common_bytes <= _KEPT

    @property
    def _common_bytes(self) -> int:
        return 4 * len(self.origins.common) * self.donor_width

    def unit(self, shape: tuple[int, ...]) -> int:
        """Whole rows."""
        del shape
        return max(1, self.width)

    def block_bytes(self, shape: tuple[int, ...], widths: Sequence[int], elements: int) -> int:
        """A block of rows and of what they are added up from; or a batch of rows that are being made."""
        del shape, widths
        donor, both = self.donor_width, self.donor_width + self.width
        written = 8 * (4 * elements + (elements // max(1, self.width)) * donor)
        batch = 8 * BATCH * 3 * both
        tile = TILE * (donor * (8 + 8 + 4) + 4 * BATCH * 2)
        if self.method == "omp":
            batch += pursuit_bytes(BATCH, self.k, donor)
        elif self.method == "interpolation":
            batch += 8 * BATCH * (3 * (TILE + self.k) + 2 * donor)
        fit = predicting_bytes(len(self.origins.held), donor, self.width)
        if self.method == "linear":
            fit = max(fit, fitting_bytes(donor, self.width))
        return max(written, batch + tile, fit)

    def shared_bytes(self, shape: tuple[int, ...]) -> int:
        """Coefficients of all rows that are made, what is kept of the donor, the map."""
        del shape
        rows = len(self.origins.kinds)
        sums = 16 * self.terms * len(self.origins.made) * 2 if self.batches else 0
        fitted = 8 * self.donor_width * self.width if self.method == "linear" else 0
        return sums + fitted + 64 * rows + (self._common_bytes if self.kept else 0)

    def seconds(self, shape: tuple[int, ...]) -> float:
        """Cosines of each row that is made with every row in common, once for each that it is made of."""
        del shape
        looks = {"omp": self.k, "interpolation": 1}.get(self.method, 0)
        rows = len(self.origins.made) + len(self.origins.held)
        search = 2.0 * looks * rows * prod((len(self.origins.common), self.donor_width))
        fit = 2.0 * len(self.origins.common) * self.donor_width * (self.donor_width + self.width)
        return (search / _FLOPS + 4 * fit / _FLOPS) / self.passes
