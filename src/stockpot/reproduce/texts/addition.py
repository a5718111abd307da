"""Sums of task vectors, and TIES: one model of five specialists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from stockpot.functions import task_arithmetic, ties
from stockpot.reproduce.claim import Asked, Claim, Figures, Measure, Setting
from stockpot.reproduce.texts.beds import bed

if TYPE_CHECKING:
    from stockpot.evaluate import Candidate, Result, Suite
    from stockpot.reproduce.texts.encoder import Arrays

__all__ = ["ADDITION", "TIES", "cosine"]

_LAMBDAS = tuple(round(0.05 * i, 2) for i in range(21))
_LAMBDAS_TIES = (0.5, 0.75, 0.8, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0)


def cosine(start: Arrays, first: Arrays, second: Arrays) -> float:
    """Of two task vectors."""
    one, other = (
        np.concatenate([(end[name] - start[name]).astype(np.float64).ravel() for name in start])
        for end in (first, second)
    )
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


class _Five:
    """Base and specialists, and what each specialist reaches on its task."""

    def __init__(self, setting: Setting) -> None:
        from stockpot.evaluate import evaluate
        from stockpot.reproduce.texts.bench import figure, model, suite_of
        from stockpot.reproduce.texts.sentences import TASKS, lab_of
        from stockpot.search.recipes import stored_model

        lab = lab_of(setting)
        data = {n: (n, {"select": t.select, "report": t.report}) for n, t in lab.tasks.items()}
        self.suite: Suite = suite_of(setting.folder, data)
        self.base = model(setting.folder, "base", lab.base)
        self.start = stored_model(self.base)
        self.specialists = [model(setting.folder, name, lab.specialist(name)) for name in TASKS]
        self.vectors = [stored_model(one) - self.start for one in self.specialists]
        self.cosine = max(cosine(lab.base, *map(lab.specialist, two)) for two in combinations(TASKS, 2))
        self.own: dict[str, Mapping[str, float]] = {}
        for role, suite in (("select", self.suite.for_choosing()), ("report", self.suite)):
            alone = evaluate(self.specialists, suite, split=role)
            self.own[role] = {name: figure(alone, name, name) for name in TASKS}

    def line(self, models: Sequence[Candidate], role: str) -> Result:
        from stockpot.evaluate import evaluate

        return evaluate(models, self.suite.for_choosing() if role == "select" else self.suite, split=role)

    def best(self, models: Sequence[Candidate]) -> Candidate:
        """The best by mean normalised accuracy on select data; of equal ones the first."""
        from stockpot.reproduce.texts.bench import normalised

        found = self.line(models, "select")
        return max(models, key=lambda one: normalised(found, one.name, self.own["select"]))

    def told(self, *models: Candidate) -> list[float]:
        """Mean normalised accuracy of each on report data."""
        from stockpot.reproduce.texts.bench import normalised

        found = self.line(list({one.name: one for one in models}.values()), "report")
        return [normalised(found, one.name, self.own["report"]) for one in models]

    def sums(self, values: Sequence[float]) -> list[Candidate]:
        """Sums of the task vectors at some λ."""
        from stockpot.search import Line

        line = Line.of(self.base, self.start + task_arithmetic(*self.vectors))
        return [line.candidate(value, f"sum at {value:g}") for value in values]

    def elected(self, values: Sequence[float]) -> list[Candidate]:
        """TIES at some λ, as the paper has it: the largest 20 % over the whole model."""
        from stockpot.search import Line

        line = Line.of(self.base, self.start + ties(*self.vectors, density=0.2, scope="model"))
        return [line.candidate(value, f"TIES at {value:g}") for value in values]


def _addition(setting: Setting) -> Figures:
    from stockpot.reproduce.texts.bench import normalised
    from stockpot.search import sweep

    five = _Five(setting)
    curve = sweep("add", [five.base, *five.specialists], five.suite, values=_LAMBDAS)
    scores = {
        value: normalised(curve.curve, name, five.own["select"])
        for value, name in zip(curve.values, curve.names, strict=True)
    }
    chosen = max(scores, key=lambda value: (scores[value], -value))
    base, best = five.told(five.base, *five.sums([chosen]))
    return {"base": base, "best": best, "gain": best - base, "chosen": chosen, "cosine": five.cosine}


_ILHARCO = "Ilharco et al., Editing models with task arithmetic, 2023, arXiv:2212.04089"

ADDITION = Claim(
    name="task-addition-texts",
    title="A sum of task vectors is one model for all tasks, nearly as good as the specialists",
    source=f"{_ILHARCO}, section 4",
    measures=(
        Measure("base", "base, mean normalised accuracy, %"),
        Measure("best", "best λ, mean normalised accuracy, %", 91.2, "eight tasks of images, CLIP ViT-L/14"),
        Measure("gain", "best λ minus base, points"),
        Measure("chosen", "λ that held-out data chooses", 0.3, "0.3 to 0.5 for most sums"),
        Measure("cosine", "largest cosine of two task vectors", 0.18, "MNIST and SVHN; mostly 0.01 to 0.06"),
    ),
    asked=(Asked("best", at_least=85), Asked("gain", at_least=10), Asked("cosine", at_most=0.3)),
    beds=(bed("sentences", _addition, 60),),
    notes="Normalised: in percent of the specialist's. One λ for all, chosen by the mean of that on held-out data.",
)


def _ties(setting: Setting) -> Figures:
    five = _Five(setting)
    sums, elected = five.sums(_LAMBDAS), five.elected(_LAMBDAS_TIES)
    (plain,), (ours,) = five.sums([1.0]), five.elected([1.0])
    at_one, of_ties, tuned, tuned_ties = five.told(plain, ours, five.best(sums), five.best(elected))
    return {
        "sum": at_one,
        "ties": of_ties,
        "gain": of_ties - at_one,
        "tuned": tuned,
        "tuned_ties": tuned_ties,
        "tuned_gain": tuned_ties - tuned,
    }


TIES = Claim(
    name="ties-texts",
    title="TIES beats the plain sum of task vectors where nothing is tuned, and is no worse where λ is",
    source="Yadav et al., TIES-Merging: resolving interference when merging models, 2023, arXiv:2306.01708, table 1",
    measures=(
        Measure("sum", "sum at λ = 1, mean normalised accuracy, %"),
        Measure("ties", "TIES at λ = 1, 20 % kept, mean normalised accuracy, %"),
        Measure("gain", "TIES minus sum at λ = 1, points", 12.0, "accuracy 72.4 and 60.4, CLIP ViT-B/32, eight tasks"),
        Measure("tuned", "sum at the best λ, mean normalised accuracy, %"),
        Measure("tuned_ties", "TIES at the best λ, mean normalised accuracy, %"),
        Measure("tuned_gain", "TIES minus sum, each at its best λ, points", 1.5, "86.0 and 84.5, CLIP ViT-L/14"),
    ),
    asked=(Asked("gain", at_least=0), Asked("tuned_gain", at_least=-0.5)),
    beds=(bed("sentences", _ties, 60),),
    notes="Heads count among the entries of which 20 % are kept: they are 0.3 % of all and do not differ.",
)
