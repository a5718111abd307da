"""The beds that claims on images are tried on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from stockpot.reproduce.claim import Bed, Figures, Setting

if TYPE_CHECKING:
    from stockpot.reproduce.images.bench import Bench

__all__ = ["beds"]

Measured: TypeAlias = Callable[["Bench"], Figures]

_ABOUT = {
    "mnist": "MNIST, 12,000 images of 28 × 28, a convolutional network of 106,000 parameters",
    "digits": "scikit-learn's digits, 1,797 images of 8 × 8, a perceptron of 51,000 parameters",
}
_TASKS = {
    "mnist": "MNIST, USPS and Kuzushiji-MNIST, 4,000 images each, a convolutional network with a head for each",
    "digits": "scikit-learn's digits upright, inverted and lying, a perceptron of 51,000 parameters",
}


def beds(
    measure: Measured, seconds: Mapping[str, float], *, tasks: bool = False, known: Mapping[str, str] | None = None
) -> tuple[Bed, ...]:
    """``mnist`` and ``digits``, as a claim uses them.

    Args:
        measure: What the claim does with a bed.
        seconds: What a seed takes.
        tasks: Whether models learn several tasks.
        known: Bed → why the claim does not hold there.
    """
    about = _TASKS if tasks else _ABOUT
    return tuple(
        Bed(
            name,
            about[name],
            partial(_measured, measure, name),
            needs_data=name != "digits",
            seconds=seconds[name],
            known=(known or {}).get(name, ""),
        )
        for name in about
    )


def _measured(measure: Measured, bed: str, setting: Setting) -> Figures:
    from stockpot.reproduce.images.bench import Bench  # with it come the extras that the beds need

    return measure(Bench(bed, setting))
