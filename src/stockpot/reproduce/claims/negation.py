"""Negation: a fine-tune, turned round."""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING

from stockpot.reproduce.beds import beds
from stockpot.reproduce.claim import Asked, Claim, Figures, Measure

if TYPE_CHECKING:
    from stockpot.evaluate import Result
    from stockpot.reproduce.bench import Negated

__all__ = ["NEGATION"]


def _negation(bench: Negated) -> Figures:
    from stockpot.reproduce.bench import percent
    from stockpot.search import sweep

    own = bench.forgetting()
    control = own.suite.tasks[[task.name for task in own.suite.tasks].index(own.control)]
    kept = [f"{own.control}.{control.task.metrics[0].name}"]
    found = sweep(
        "negate", [own.base, own.tuned], own.suite, values=own.values, control=kept, keep=own.keep, device="cpu"
    )
    assert found.chosen is not None
    assert found.chosen_name is not None
    assert found.report is not None
    base, negated, random = found.names[0], found.chosen_name, found.random_name(found.chosen)
    target = {name: percent(found.report, name, own.target) for name in (base, negated, random)}
    return {
        "base": target[base],
        "negated": target[negated],
        "target": 100 * target[negated] / target[base] if target[base] else nan,
        "control": _left(found.report, negated, base, own.control),
        "random": abs(target[random] - target[base]),
        "lambda": found.chosen,
    }


def _left(result: Result, model: str, base: str, task: str) -> float:
    """What a model has of the base's figure, in percent: less where it is worse."""
    from stockpot.reproduce.bench import figure

    now, before = figure(result, model, task), figure(result, base, task)
    share = now.value / before.value if now.better == "higher" else before.value / now.value
    return 100 * share


_LARGE = "toxic generations, GPT-2 Large"

NEGATION = Claim(
    name="task-negation",
    title="Taking a task vector away forgets the task and little else; a random vector of that size forgets nothing",
    source="Ilharco et al., Editing models with task arithmetic, 2023, arXiv:2212.04089, section 3",
    measures=(
        Measure("base", "base on the target, accuracy or toxic texts, %", 64.8, "mean of 8 tasks, ViT-L/14, table 1"),
        Measure("negated", "negated on the target, %", 19.0, "table 1"),
        Measure("target", "target that is left, % of the base's", 29.3, "19.0 of 64.8"),
        Measure("control", "control that is left, accuracy or perplexity, % of the base's", 96.6, "72.9 of 75.5"),
        Measure("random", "a random vector of the same lengths changes the target by, points", 3.9, "60.9 and 64.8"),
        Measure("lambda", "lambda, chosen on select data"),
    ),
    asked=(Asked("target", at_most=50), Asked("control", at_least=95), Asked("random", at_most=5)),
    beds=beds(
        _negation,
        {"mnist": 15, "digits": 4, "comments": 120},
        tasks=True,
        known={
            "mnist": "the control shares all layers but the head with the target and falls with it; a base that knows "
            "more (300 or 1,000 images of each task) does not change that."
        },
        papers={
            "comments": {
                "base": (4.8, _LARGE),
                "negated": (0.8, _LARGE),
                "target": (16.7, "0.8 of 4.8"),
                "control": (97.0, "perplexity of WikiText-103, 16.4 and 16.9"),
                "random": (None, ""),
            }
        },
    ),
    notes="Target and control are Kuzushiji-MNIST and MNIST; inverted and upright digits; texts that the model writes, "
    "with a word that is ten times as frequent in toxic comments as in their rewritings, and the perplexity of "
    "rewritings and of a novel. Lambda is the largest that keeps 95 % of the control on select data, 97 % where that "
    "is an accuracy, so that 95 % are left on report data.",
)
