"""The greedy soup's rule: models in order of their own score, each kept where the average with it is no worse."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Step", "greedy", "ranked"]


@dataclass(frozen=True)
class Step:
    """One model that was tried.

    Args:
        name: Of the model.
        score: Of the average with it, more being better; of the first, its own. -inf where that failed.
        kept: Whether it stays.
        error: Why it failed.
    """

    name: str
    score: float
    kept: bool
    error: str | None = None


def ranked(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Names and scores, the best first, equal scores by name; those that failed (-inf) are left out.

    >>> ranked({"b": 0.9, "a": 0.9, "c": float("-inf"), "d": 1.0})
    [('d', 1.0), ('a', 0.9), ('b', 0.9)]
    """
    sound = [(name, score) for name, score in scores.items() if score > -math.inf]
    return sorted(sound, key=lambda item: (-item[1], item[0]))


def greedy(
    ranking: Sequence[tuple[str, float]],
    score: Callable[[tuple[str, ...]], float],
    *,
    kept: Callable[[], None] = lambda: None,
    strict: bool = False,
) -> tuple[Step, ...]:
    """Recipe 1 of Wortsman et al., "Model soups" (2022): what was done with each model, in order.

    The first always enters; another stays if the average with it scores at least as well as without it, so the soup
    never scores below the best single model on the data that it is chosen with.

    Args:
        ranking: Names and scores, the best first; at least one.
        score: Names → score of their average, more being better. The last name is the one that is tried.
        kept: Called when the one that was just tried stays.
        strict: Whether the average must score better, as the paper's code has it, not only as well, as the paper says.

    >>> values = {("a", "b"): 0.7, ("a", "c"): 0.8}
    >>> [step.kept for step in greedy([("a", 0.8), ("b", 0.75), ("c", 0.6)], values.__getitem__)]
    [True, False, True]
    """
    (first, best), *others = ranking
    members, steps = [first], [Step(first, best, True)]
    for name, _ in others:
        found = score((*members, name))
        better = found > best or (found == best and not strict)
        if better:
            members.append(name)
            best = found
            kept()
        steps.append(Step(name, found, better))
    return tuple(steps)
