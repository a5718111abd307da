"""The prompts of a mixture: each text once, with the experts that it should and should not go to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stockpot.recipe.mixture import ExpertAsked

__all__ = ["Example", "examples_of", "folds_of"]

_ALONE = 16
_FOLDS = 5


@dataclass(frozen=True)
class Example:
    """A text.

    Args:
        text: As it was written.
        experts: Numbers of the experts that have it among their positive prompts.
        against: Numbers of those that have it among their negative ones.
    """

    text: str
    experts: tuple[int, ...] = ()
    against: tuple[int, ...] = ()


def examples_of(experts: Sequence[ExpertAsked]) -> tuple[Example, ...]:
    """Every text once, in the order of the experts and their prompts.

    A text stands once for an expert, however often it is written.
    """
    positive: dict[str, dict[int, None]] = {}
    negative: dict[str, dict[int, None]] = {}
    for number, expert in enumerate(experts):
        for text in expert.positive:
            positive.setdefault(text, {})[number] = None
            negative.setdefault(text, {})
        for text in expert.negative:
            positive.setdefault(text, {})
            negative.setdefault(text, {})[number] = None
    return tuple(Example(text, tuple(own), tuple(negative[text])) for text, own in positive.items())


def folds_of(examples: Sequence[Example]) -> tuple[tuple[int, ...], ...]:
    """Numbers of the examples that are held out together, each that some expert wants in one fold.

    One at a time where there are few, else five folds, to which each expert's examples are dealt in turn.
    """
    wanted = [i for i, example in enumerate(examples) if example.experts]
    if len(wanted) <= _ALONE:
        return tuple((i,) for i in wanted)
    dealt: dict[int, int] = {}
    found: list[list[int]] = [[] for _ in range(_FOLDS)]
    for i in wanted:
        first = examples[i].experts[0]
        found[dealt.get(first, 0) % _FOLDS].append(i)
        dealt[first] = dealt.get(first, 0) + 1
    return tuple(tuple(fold) for fold in found if fold)
