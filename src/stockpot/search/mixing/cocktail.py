"""LM-Cocktail: shares of models by their losses on a few examples of a target (Xiao et al., 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from stockpot.errors import ExecutionError, Problem, RecipeError
from stockpot.evaluate.candidates import Candidate
from stockpot.recipe.model import Recipe
from stockpot.search.judge import Judge
from stockpot.search.mixing.losses import fitting, with_loss
from stockpot.search.mixing.shares import softmax
from stockpot.search.objective import Objective
from stockpot.search.recipes import mixture_of

__all__ = ["Cocktail", "Mixing", "mix"]

_UNIFORM_WITHIN = 1.1
"""Largest share over smallest, up to which shares are nearly uniform."""


@dataclass(frozen=True)
class Mixing:
    """How a cocktail is mixed.

    Args:
        temperatures: Of the softmax of losses; of several, select data chooses. 5 is that of the authors' code.
        target: A model that gets a share of its own, as a fine-tune that is to keep its general ability does; one of
            the models (by name) or another.
        share: Of the target, in (0, 1); the others share the rest.
        fit: The role of the data whose losses count, ``tune`` or ``select``.
    """

    temperatures: tuple[float, ...] = (5.0,)
    target: Candidate | None = None
    share: float = 0.5
    fit: Literal["tune", "select"] = "tune"

    def __post_init__(self) -> None:
        good = self.temperatures and all(0 < t < math.inf for t in self.temperatures) and 0 < self.share < 1
        if not good or self.fit not in ("tune", "select"):
            fix = "temperatures above 0; a share between 0 and 1; fit: tune or select"
            told = (
                f"temperatures {', '.join(map(str, self.temperatures)) or 'none'}, share {self.share}, fit {self.fit}"
            )
            raise RecipeError(Problem(f"a cocktail cannot be mixed so: {told}", fix=fix))


@dataclass(frozen=True)
class Cocktail:
    """A mixture and how it came about.

    Args:
        fit: The role of the data whose losses count.
        losses: Model → its mean loss; None where it failed, with a message in :attr:`rejected`.
        rejected: Model → why it is not in the mixture.
        temperature: Of the softmax.
        tried: (temperature, figure on select data) of all; a figure is None where it failed. Empty for one.
        target: Name of the model with a share of its own; None without one.
        share: Its share, beside what it has among the others.
        models: Names of what is mixed, in the order of the shares.
        shares: Of each in the result.
        nearly_uniform: Whether the softmax tells the models hardly apart.
    """

    fit: str
    losses: Mapping[str, float | None]
    rejected: Mapping[str, str]
    temperature: float
    tried: tuple[tuple[float, float | None], ...]
    target: str | None
    share: float | None
    models: tuple[str, ...]
    shares: tuple[float, ...]
    nearly_uniform: bool

    def as_data(self) -> dict[str, Any]:
        """Everything as JSON data."""
        plain = ("fit", "losses", "rejected", "temperature", "target", "share", "nearly_uniform")
        return {
            **{name: getattr(self, name) for name in plain},
            "tried": [{"temperature": temperature, "value": value} for temperature, value in self.tried],
            "shares": dict(zip(self.models, self.shares, strict=True)),
        }


def mix(
    members: Sequence[Candidate],
    target: str | None,
    peers: Sequence[str],
    objective: Objective,
    judge: Judge,
    how: Mixing,
) -> tuple[Recipe, Cocktail]:
    """The mixture of ``members``: share · target + (1 - share) · Σ wᵢ peerᵢ, w = softmax(-loss / temperature).

    Args:
        members: What may be in it; the first that is gives config, small files and integers.
        target: Name of the one with a share of its own.
        peers: Names of those with a loss.
        objective: Its tasks give the losses, on the mean; it chooses the temperature.

    Raises:
        RecipeError: when a task has no data to fit with.
        ExecutionError: when no loss could be measured, or no temperature.
    """
    suite, loss = with_loss(fitting(judge.suite, objective, how.fit))
    found = judge.chosen(members, suite, how.fit)
    names = {row.name: member.name for row, member in zip(found.models, members, strict=True)}
    losses = {name: loss.value(found, row) for row, name in names.items() if name in peers}
    sound = [member for member in members if losses.get(member.name) is not None or member.name == target]
    if all(value is None for value in losses.values()):
        raise ExecutionError(Problem("the loss of no model could be measured", fix=found.failed[0].error))
    shares = [_shares(sound, losses, target, how.share, t) for t in how.temperatures]
    recipes = [mixture_of(sound, own) for own in shares]
    chosen: int = 0
    tried: tuple[tuple[float, float | None], ...] = ()
    if len(recipes) > 1:
        chosen, tried = _chosen(recipes, sound[0], how.temperatures, objective, judge)
    own = _weights(sound, losses, how.temperatures[chosen])
    return recipes[chosen], Cocktail(
        fit=how.fit,
        losses=losses,
        rejected={names[cell.model]: cell.error or "" for cell in found.failed if names[cell.model] in peers},
        temperature=how.temperatures[chosen],
        tried=tried,
        target=target,
        share=None if target is None else how.share,
        models=tuple(member.name for member in sound),
        shares=tuple(shares[chosen]),
        nearly_uniform=len(own) > 1 and max(own.values()) <= _UNIFORM_WITHIN * min(own.values()),
    )


def _weights(members: Sequence[Candidate], losses: Mapping[str, float | None], temperature: float) -> dict[str, float]:
    """The softmax of minus the losses that are known."""
    known = {m.name: value for m in members if (value := losses.get(m.name)) is not None}
    return dict(zip(known, map(float, softmax(-np.array([*known.values()]) / temperature)), strict=True))


def _shares(
    members: Sequence[Candidate],
    losses: Mapping[str, float | None],
    target: str | None,
    share: float,
    temperature: float,
) -> list[float]:
    own = _weights(members, losses, temperature)
    if target is None:
        return [own[member.name] for member in members]
    return [(1 - share) * own.get(m.name, 0.0) + (share if m.name == target else 0.0) for m in members]


def _chosen(
    recipes: Sequence[Recipe],
    first: Candidate,
    temperatures: Sequence[float],
    objective: Objective,
    judge: Judge,
) -> tuple[int, tuple[tuple[float, float | None], ...]]:
    """The place of the best temperature, of equal ones the first, and the figures of all."""
    names = [f"temperature {t:g}" for t in temperatures]
    rows = [Candidate(name, recipe, name, first.limits) for name, recipe in zip(names, recipes, strict=True)]
    found = judge.chosen(rows, objective.within(judge.suite), "select")
    scores = [objective.score(found, row.name) for row in found.models]
    if max(scores) == -math.inf:
        raise ExecutionError(Problem("the mixture could be measured at no temperature", fix=found.failed[0].error))
    figures = tuple((t, objective.value(found, row.name)) for t, row in zip(temperatures, found.models, strict=True))
    return max(range(len(scores)), key=lambda i: (scores[i], -i)), figures
