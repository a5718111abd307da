"""All claims, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from stockpot.reproduce.claim import Claim
from stockpot.reproduce.texts import addition, mixtures, negation, shifts

__all__ = ["CLAIMS"]

_ALL: tuple[Claim, ...] = (
    shifts.SOUP,
    shifts.WISE_FT,
    addition.ADDITION,
    addition.TIES,
    negation.NEGATION,
    mixtures.COCKTAIL,
)

CLAIMS: Mapping[str, Claim] = MappingProxyType({claim.name: claim for claim in _ALL})
"""Name → claim, in the order of the docs."""
