"""The atoms of elementwise methods. A method is a tuple of them; the kernel runs them row by row.

Each atom sees, for a row of elements, one value d_i per model. Values stay in the cache from the
first atom to the last, so a chain of atoms costs one pass over the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Atom", "Combine", "Drop", "Elect", "MatchL1", "Scale", "Trim"]


@dataclass(frozen=True)
class Trim:
    """Keeps the entries of largest magnitude, exactly ``count(density, n)`` of n; the rest become 0.

    Entries of equal magnitude are kept in the order of their index. Costs a selection pass.

    Args:
        density: Share kept, one per model, in (0, 1].
        rounding: ``nearest`` keeps round(density × n), at least one; ``down`` keeps int(density × n).
    """

    density: tuple[float, ...]
    rounding: Literal["nearest", "down"] = "nearest"

    def keep(self, model: int, elements: int) -> int:
        """How many of ``elements`` entries stay."""
        share = self.density[model] * elements
        count = int(share) if self.rounding == "down" else int(share + 0.5)
        return min(max(count, 1 if self.density[model] > 0.0 else 0), elements)


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


@dataclass(frozen=True)
class MatchL1:
    """Scales each model so that its sum of magnitudes is what it was before sparsifying.

    Costs a pass over the inputs.
    """


@dataclass(frozen=True)
class Scale:
    """Multiplies each model by its factor."""

    factor: tuple[float, ...]


@dataclass(frozen=True)
class Elect:
    """Elects, per element, the sign of Σ d_i (0 counts as +) and sets entries of the other sign to 0."""


@dataclass(frozen=True)
class Combine:
    """Ends a chain: Σ d_i, divided as ``by`` says; nothing to divide by gives 0.

    Args:
        by: ``none``: the sum. ``weights``: the sum of ``weight`` over entries that are not 0.
            ``all``: the sum of all ``weight`` (left out when it is nearly 0).
            ``count``: the number of entries that are not 0.
        weight: One per model, for ``weights`` and ``all``.
    """

    by: Literal["none", "weights", "all", "count"]
    weight: tuple[float, ...] = ()


Atom = Trim | Drop | MatchL1 | Scale | Elect | Combine
