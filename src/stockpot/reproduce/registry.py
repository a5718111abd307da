"""All claims, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from stockpot.reproduce.claim import Claim
from stockpot.reproduce.claims import cocktail, diverse, negation, searching, shifts, soups, tasks

__all__ = ["CLAIMS"]

_ALL: tuple[Claim, ...] = (
    soups.SOUP,
    soups.ENSEMBLE,
    shifts.WISE_FT,
    shifts.FALSE_FALSE_TRUE,
    diverse.DIWA,
    diverse.RATATOUILLE,
    tasks.ADDITION,
    negation.NEGATION,
    tasks.TIES,
    cocktail.COCKTAIL,
    searching.SEARCH,
)

CLAIMS: Mapping[str, Claim] = MappingProxyType({claim.name: claim for claim in _ALL})
"""Name → claim, in the order of the docs."""
