"""All claims, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from stockpot.reproduce.claim import Claim
from stockpot.reproduce.images import diverse, searching, shifts, soups, tasks
from stockpot.reproduce.texts import addition, mixtures, negation
from stockpot.reproduce.texts import shifts as texts

__all__ = ["CLAIMS"]

_ALL: tuple[Claim, ...] = (
    soups.SOUP,
    soups.ENSEMBLE,
    shifts.WISE_FT,
    shifts.FALSE_FALSE_TRUE,
    diverse.DIWA,
    diverse.RATATOUILLE,
    tasks.ADDITION,
    tasks.NEGATION,
    tasks.TIES,
    searching.SEARCH,
    texts.SOUP,
    texts.WISE_FT,
    addition.ADDITION,
    addition.TIES,
    negation.NEGATION,
    mixtures.COCKTAIL,
)

CLAIMS: Mapping[str, Claim] = MappingProxyType({claim.name: claim for claim in _ALL})
"""Name → claim, in the order of the docs."""
