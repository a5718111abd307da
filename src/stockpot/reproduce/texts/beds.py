"""The beds that claims on texts are tried on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from stockpot.reproduce.claim import Bed, Figures, Setting

__all__ = ["bed"]

Measured: TypeAlias = Callable[[Setting], Figures]

_ENCODER = "an encoder of 0.43 million parameters, pretrained on reviews"
_ABOUT = {
    "sentences": f"SST-2, Subj, TREC, CR and MPQA, up to 7,000 sentences each, {_ENCODER}",
    "reviews": f"reviews of ten kinds of goods, then SST-2; four other kinds as shifts, {_ENCODER}",
    "prose": "prose and source code, a GPT of 0.33 million parameters trained on it",
    "comments": "comments and prose, a GPT of 0.33 million parameters trained on it",
}


def bed(name: str, measure: Measured, seconds: float, known: str = "") -> Bed:
    """One of them, as a claim uses it; see :class:`Bed`."""
    return Bed(name, _ABOUT[name], measure, seconds=seconds, known=known)
