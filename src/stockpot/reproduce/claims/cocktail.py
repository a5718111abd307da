"""LM-Cocktail: peers weighed by how well each does on five passages of what none of them was trained for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from stockpot.reproduce.beds import beds
from stockpot.reproduce.claim import Asked, Claim, Figures, Measure
from stockpot.search import Cocktail

if TYPE_CHECKING:
    from stockpot.reproduce.texts.bench import Prose

__all__ = ["COCKTAIL", "unevenness", "without_repeats"]

_TEMPERATURES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_AUTHORS = 5.0
"""The temperature in the authors' code."""

_MIXTURE = ("shakespeare", "shakespeare", "darwin", "darwin", "darwin")
_LENGTH = 600
_TELLING = 32
"""Lines of fewer characters occur in any two texts."""

_DRAWS = {"tune": (0,), "select": (1, 2, 3, 4), "report": (5, 6, 7, 8, 9)}


def unevenness(losses: Sequence[float], temperature: float) -> float:
    """The largest weight over the smallest, less 1.

    >>> round(unevenness([4.0, 4.5], 5.0), 3)
    0.105
    """
    return math.exp(min(700.0, (max(losses) - min(losses)) / temperature)) - 1


def without_repeats(texts: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    r"""Role → texts without the longer lines that an earlier role has, such as headings that a book repeats.

    >>> title = "The descent of man, and selection"
    >>> without_repeats({"tune": [title], "report": [f"{title}\nin relation to sex"]})["report"]
    ['in relation to sex']
    """
    seen: set[str] = set()
    found = {}
    for role, own in texts.items():
        lines = [[line for line in text.split("\n") if line.strip() not in seen] for text in own]
        seen |= {line.strip() for kept in lines for line in kept if len(line.strip()) >= _TELLING}
        found[role] = ["\n".join(kept) for kept in lines]
    return found


def _cocktail(bench: Prose) -> Figures:
    from stockpot.evaluate import evaluate
    from stockpot.reproduce.bench import figure
    from stockpot.search import Mixing, soup

    passages = {
        role: [text for draw in draws for text in bench.lab.passages(_MIXTURE, _LENGTH, draw)]
        for role, draws in _DRAWS.items()
    }
    suite, peers = bench.suite(without_repeats(passages)), bench.peers()
    how = Mixing(temperatures=_TEMPERATURES)
    found = soup(peers, suite, kind="cocktail", how=how, ensembles=(), device="cpu")
    mixed = found.mixture
    assert isinstance(mixed, Cocktail)
    assert found.report is not None
    alone = evaluate([bench.base()], suite, device="cpu")
    nats = {
        row.name: math.log(figure(result, row.name, "mixture").value)
        for result in (found.report, alone)
        for row in result.models
    }
    losses = [loss for loss in mixed.losses.values() if loss is not None]
    ours = nats[found.name]
    return {
        "chosen": mixed.temperature,
        "weights": 1 + unevenness(losses, mixed.temperature),
        "uniform": ours - nats["uniform soup"],
        "base": ours - nats["base"],
        "peer": ours - min(nats[peer.name] for peer in peers),
        "even": 100 * unevenness(losses, _AUTHORS),
    }


_APART = (
    "at temperature 5, weights differ by 10 % where losses differ by 0.48 nats; the peer that read source code lies "
    "about 0.5 nats behind on this prose."
)

COCKTAIL = Claim(
    name="lm-cocktail",
    title="Peers weighed by their loss on five passages make a model of a new mixture, if the temperature is low",
    source="Xiao et al., LM-Cocktail: resilient tuning of language models via model merging, 2023, arXiv:2311.13534, "
    "section 3",
    measures=(
        Measure("chosen", "temperature that held-out passages choose", 5, "in the authors' code"),
        Measure("weights", "largest weight over smallest, at that temperature"),
        Measure("uniform", "loss minus that of the uniform average, nats a token"),
        Measure("base", "loss minus that of the base, nats a token"),
        Measure("peer", "loss minus that of the best peer, nats a token"),
        Measure("even", "how much the weights differ at temperature 5, %"),
    ),
    asked=(
        Asked("weights", at_least=2),
        Asked("uniform", at_most=0),
        Asked("base", at_most=0),
        Asked("even", at_most=10),
    ),
    beds=beds(_cocktail, {"prose": 60}, known={"prose": _APART}),
    notes="Peers read plays, source code and science; the mixture is two passages of plays and three of science, which "
    "no model has read. The paper has no figures of this; it reports 48.0 after 45.9 on MMLU without fine-tuning.",
)
