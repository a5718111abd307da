"""The atoms of elementwise methods: sparsify, elect, combine. The kernel runs them row by row.

Each atom sees, for a row of elements, one value x_i per model. Values stay in the cache from the first
atom to the last, so a chain of atoms costs one pass over the inputs, and one more for each statistic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from stockpot.kernels import codes
from stockpot.methods.declare import Floats
from stockpot.methods.elementwise.operation import Operation, Ranks, Sums, operation

__all__ = [
    "Atom",
    "Band",
    "Combine",
    "Drop",
    "DropRanked",
    "Elect",
    "ElectAs",
    "Floor",
    "MatchL1",
    "Scale",
    "Trim",
    "restoring_l1",
]

_WORDS = 2.0**32

Rounding = Literal["nearest", "down"]


class Atom(Protocol):
    """One piece of an elementwise method."""

    def operations(self, models: int) -> tuple[Operation, ...]:
        """What the kernel runs for ``models`` inputs; nothing where the atom changes nothing."""


@dataclass(frozen=True)
class Trim:
    """Keeps the entries of largest magnitude, exactly round(density × n) of n; the rest become 0.

    Entries of equal magnitude (compared as float32) are kept in the order of their index.

    Args:
        density: Share kept, one per model, in [0, 1].
        rounding: ``nearest`` keeps round(density × n), ``down`` int(density × n); both at least one.
        scope: Over each tensor, or over the whole model.
    """

    density: tuple[float, ...]
    rounding: Rounding = "nearest"
    scope: str = "tensor"

    def wanted(self, elements: int) -> tuple[tuple[int, float], ...]:
        """How many entries each model keeps, before rounding."""
        return tuple((k, share * elements) for k, share in enumerate(self.density))

    def whole(self, _search: int, wanted: float, elements: int) -> int:
        """``wanted`` rounded; at least one unless nothing is to be kept."""
        count = int(wanted) if self.rounding == "down" else int(wanted + 0.5)
        return min(max(count, 1 if wanted > 0.0 else 0), elements)

    def operations(self, models: int) -> tuple[Operation, ...]:
        """A selection, then a comparison with its threshold."""
        if self.scope == "tensor" and all(d >= 1.0 for d in self.density):
            return ()
        idle = self.scope == "tensor" and all(d in (0.0, 1.0) for d in self.density)
        return (operation(codes.TRIM, models, needs=(Ranks(self.wanted, self.whole, idle=idle),)),)


@dataclass(frozen=True)
class Band:
    """Keeps a share of the entries by magnitude, below the very largest, which become 0 too.

    Args:
        density: Share kept, one per model, in [0, 1]; 1 keeps all, outliers included.
        gamma: Share of the largest that is removed, one per model; less where density + gamma > 1.
        rounding: As in :class:`Trim`, but nothing is kept of tensors that are too small under ``down``.
        scope: Over each tensor, or over the whole model.
    """

    density: tuple[float, ...]
    gamma: tuple[float, ...]
    rounding: Rounding = "nearest"
    scope: str = "tensor"

    def wanted(self, elements: int) -> tuple[tuple[int, float], ...]:
        """For each model how many entries are kept or above the band, then how many are above it."""
        kept = [self._count(d * elements) for d in self.density]
        above = [min(self._count(g * elements), elements - k) for g, k in zip(self.gamma, kept, strict=True)]
        outer = [k + a for k, a in zip(kept, above, strict=True)]
        return tuple((i % len(kept), float(count)) for i, count in enumerate((*outer, *above)))

    def _count(self, wanted: float) -> int:
        return int(wanted) if self.rounding == "down" else int(wanted + 0.5)

    def whole(self, _search: int, wanted: float, elements: int) -> int:
        """``wanted`` is whole already."""
        return min(int(wanted), elements)

    def operations(self, models: int) -> tuple[Operation, ...]:
        """Two selections in one pass."""
        if self.scope == "tensor" and all(d >= 1.0 for d in self.density):
            return ()
        return (operation(codes.BAND, models, needs=(Ranks(self.wanted, self.whole),)),)


@dataclass(frozen=True)
class Drop:
    """Keeps each entry with probability ``density``, independently; the rest become 0.

    Random numbers are a function of (seed, tensor name, model, element index) alone.

    Args:
        density: Probability of keeping, one per model, in [0, 1].
        rescale: Divide what stays by ``density``, which keeps the expectation.
    """

    density: tuple[float, ...]
    rescale: bool

    def operations(self, models: int) -> tuple[Operation, ...]:
        """Random words below a limit."""
        if all(d >= 1.0 for d in self.density):
            return ()
        factor = tuple(1.0 / d if self.rescale and d > 0.0 else 1.0 for d in self.density)
        return (operation(codes.DROP, models, tuple(d * _WORDS for d in self.density), factor),)


@dataclass(frozen=True)
class DropRanked:
    """Keeps each entry with a probability that grows linearly with the rank of its magnitude in its row.

    From density − epsilon for the smallest to density + epsilon for the largest; rows are vectors along the
    last dimension. The first of equal magnitudes ranks highest. It must be the first atom of a chain.

    Args:
        density: Mean probability of keeping, one per model; 1 keeps all.
        epsilon: Half-width of the range, one per model.
        rescale: Divide what stays by its own probability, which keeps the expectation.
    """

    density: tuple[float, ...]
    epsilon: tuple[float, ...]
    rescale: bool

    def operations(self, models: int) -> tuple[Operation, ...]:
        """Random words below a limit that is prepared for each element."""
        if all(d >= 1.0 for d in self.density):
            return ()
        for d, e in zip(self.density, self.epsilon, strict=True):
            if 0.0 < d < 1.0 and not (e <= d and d + e <= 1.0):
                raise ValueError(
                    f"density {d:g} with epsilon {e:g} gives probabilities outside [0, 1]; "
                    f"choose an epsilon of at most {min(d, 1.0 - d):g}"
                )
        width = tuple(e if 0.0 < d < 1.0 else 0.0 for d, e in zip(self.density, self.epsilon, strict=True))
        divides = (1.0 if self.rescale else 0.0,) * models
        ones = (1.0,) * models
        return (operation(codes.DROP_RANKED, models, divides, ones, self.density, width, prepare="chances"),)


@dataclass(frozen=True)
class MatchL1:
    """Scales each model so that its sum of magnitudes is what it was before the first atom.

    Args:
        means: Over a model, compare sums of each tensor's mean magnitude instead of sums.
        scope: Over each tensor, or over the whole model.
    """

    means: bool = False

    def operations(self, models: int) -> tuple[Operation, ...]:
        """A pass that adds up, then a factor."""
        return (operation(codes.SCALE, models, needs=(Sums(restoring_l1, means=self.means),)),)


def restoring_l1(op: Operation, sums: Floats, _elements: int) -> Operation:
    """``op`` with the factors that make Σ |x| what it was before the first atom."""
    before, after = sums[:, codes.NORM_BEFORE], sums[:, codes.NORM]
    return op.put(1, tuple(b / a if a > 0.0 else 1.0 for b, a in zip(before, after, strict=True)))


@dataclass(frozen=True)
class Scale:
    """Multiplies each model by its factor."""

    factor: tuple[float, ...]

    def operations(self, models: int) -> tuple[Operation, ...]:
        """Nothing for factors of 1."""
        if all(f == 1.0 for f in self.factor):
            return ()
        return (operation(codes.SCALE, models, (1.0,) * models, self.factor),)


@dataclass(frozen=True)
class Floor:
    """Keeps entries of a magnitude above ``limit``."""

    limit: float

    def operations(self, models: int) -> tuple[Operation, ...]:
        """A comparison."""
        return (operation(codes.ABOVE, models, (self.limit,) * models),)


@dataclass(frozen=True)
class Elect:
    """Elects, per element, the sign of Σ x_i (0 counts as +) and sets entries of the other sign to 0."""

    def operations(self, models: int) -> tuple[Operation, ...]:
        """An election among the inputs."""
        return (operation(codes.ELECT, models),)


@dataclass(frozen=True)
class ElectAs:
    """Sets entries to 0 whose sign is not that of the method's companion (0 counts as +)."""

    def operations(self, models: int) -> tuple[Operation, ...]:
        """A comparison with the companion."""
        return (operation(codes.ELECT_AS, models),)


@dataclass(frozen=True)
class Combine:
    """Ends a chain: Σ x_i, divided as ``by`` says; nothing to divide by gives 0.

    Args:
        by: ``none``: the sum. ``weights``: the sum of ``weight`` over entries that are not 0.
            ``all``: the sum of all ``weight`` (left out when it is nearly 0). ``count``: the number of
            entries that are not 0. ``shares``: the sum of the shares that an atom before gave.
        weight: One per model, for ``weights`` and ``all``.
        floor: Least divisor, for ``shares``.
    """

    by: Literal["none", "weights", "all", "count", "shares"]
    weight: tuple[float, ...] = ()
    floor: float = 0.0

    @property
    def scale(self) -> float:
        """Factor of the sum."""
        total = float(sum(self.weight))
        return 1.0 / total if self.by == "all" and abs(total) >= 1e-8 else 1.0

    def operations(self, models: int) -> tuple[Operation, ...]:
        """The end of a program."""
        ones = (1.0,) * models
        if self.by == "weights":
            return (operation(codes.DIVIDE, models, ones, self.weight),)
        if self.by == "shares":
            return (operation(codes.QUOTIENT, models, (self.floor,) * models),)
        return (operation(codes.DIVIDE if self.by == "count" else codes.SUM, models),)
