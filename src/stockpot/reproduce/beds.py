"""The beds that claims are tried on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from stockpot.reproduce.claim import Bed, Figures, Setting

__all__ = ["beds"]

_ENCODER = "an encoder of 0.43 million parameters, pretrained on reviews"
_ABOUT = {
    "mnist": "MNIST, 12,000 images of 28 × 28, a convolutional network of 106,000 parameters",
    "cifar": "CIFAR-10, 16,500 images of 32 × 32 in colour, a convolutional network of 138,000 parameters",
    "digits": "scikit-learn's digits, 1,797 images of 8 × 8, a perceptron of 51,000 parameters",
    "sentences": f"SST-2, Subj, TREC, CR and MPQA, up to 7,000 sentences each, {_ENCODER}",
    "reviews": f"reviews of ten kinds of goods, then SST-2; four other kinds as shifts, {_ENCODER}",
    "domains": f"reviews of 16 kinds, four of them left out, up to 1,400 of each to learn from, {_ENCODER}",
    "prose": "prose and source code, a GPT of 0.33 million parameters trained on it",
    "comments": "comments and prose, a GPT of 0.33 million parameters trained on it",
}
_TASKS = {
    "mnist": "MNIST, USPS and Kuzushiji-MNIST, 4,000 images each, a convolutional network with a head for each",
    "digits": "scikit-learn's digits upright, inverted and lying, a perceptron of 51,000 parameters",
}


def beds(
    measure: Callable[[Any], Figures],
    seconds: Mapping[str, float],
    *,
    tasks: bool = False,
    known: Mapping[str, str] | None = None,
    papers: Mapping[str, Mapping[str, tuple[float | None, str]]] | None = None,
) -> tuple[Bed, ...]:
    """Beds as a claim uses them.

    Args:
        measure: What the claim does with a bed's bench, such as :class:`stockpot.reproduce.images.bench.Images`.
        seconds: Bed → what a seed takes; the one that shows the claim best comes first.
        tasks: Whether models of images learn several tasks.
        known: Bed → why the claim does not hold there.
        papers: Bed → the paper's own figures for it; see :class:`Bed`.
    """
    about = _ABOUT | (_TASKS if tasks else {})
    return tuple(
        Bed(
            name,
            about[name],
            partial(_measured, measure, name),
            needs_data=name != "digits",
            seconds=own,
            known=(known or {}).get(name, ""),
            papers=(papers or {}).get(name, {}),
        )
        for name, own in seconds.items()
    )


def _measured(measure: Callable[[Any], Figures], bed: str, setting: Setting) -> Figures:
    return measure(_bench(bed, setting))


def _bench(bed: str, setting: Setting) -> Any:
    """The bench of a bed; with it come the extras that it needs."""
    if bed in ("digits", "mnist", "cifar"):
        from stockpot.reproduce.images.bench import Images

        return Images(bed, setting)
    from stockpot.reproduce.texts.bench import BENCHES

    return BENCHES[bed](setting)
