"""Task arithmetic and TIES: fine-tunes on several tasks, added up or taken away."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

from stockpot.functions import task_arithmetic, ties
from stockpot.reproduce.claim import Asked, Claim, Figures, Measure
from stockpot.reproduce.images.beds import beds
from stockpot.search.recipes import stored_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stockpot.evaluate import Candidate, Result, Suite
    from stockpot.reproduce.images.bench import Bench

__all__ = ["ADDITION", "NEGATION", "TIES"]

_ILHARCO = "Ilharco et al., Editing models with task arithmetic, 2023, arXiv:2212.04089"
_SPECIALISTS = (
    "The base learns a little of every task and has about three quarters of its fine-tunes' accuracy; heads are frozen."
)


def _specialists(bench: Bench) -> list[Candidate]:
    """The base, and the fine-tune of it on each task, called as the task."""
    return [bench.model("base", bench.lab.beginner), *bench.models(bench.lab.specialists)]


def _kept(result: Result, model: str, tasks: Sequence[str]) -> float:
    """Mean over tasks of the accuracy as a share of the specialist's, in percent."""
    from stockpot.reproduce.images.bench import percent

    return fmean(100 * percent(result, model, task) / percent(result, task, task) for task in tasks)


def _addition(bench: Bench) -> Figures:
    from stockpot.search import sweep

    suite, (base, *models) = bench.tasks(), _specialists(bench)
    found = sweep("add", [base, *models], suite)
    assert found.report is not None
    assert found.chosen is not None
    tasks = [task.name for task in suite.tasks]
    chosen = found.names[found.values.index(found.chosen)]
    kept = _kept(found.report, chosen, tasks)
    begun = _kept(found.report, found.names[found.values.index(0.0)], tasks)
    return {
        "base": begun,
        "kept": kept,
        "more": kept - begun,
        "worst": min(_kept(found.report, chosen, [task]) for task in tasks),
        "lambda": found.chosen,
        "cosine": max(pair.cosine or 0.0 for pair in found.cosines),
    }


ADDITION = Claim(
    name="task-addition",
    title="The sum of task vectors knows all tasks nearly as well as the fine-tune on each",
    source=f"{_ILHARCO}, section 4",
    measures=(
        Measure("base", "base, mean accuracy as a share of the specialists', %"),
        Measure(
            "kept", "sum at the chosen lambda, mean share of the specialists' accuracy, %", 91.2, "8 tasks, ViT-L/14"
        ),
        Measure("more", "sum minus base, points"),
        Measure("worst", "the sum's least share over tasks, %"),
        Measure("lambda", "lambda, chosen on select data"),
        Measure("cosine", "largest cosine of two task vectors", 0.18, "MNIST and SVHN; most are 0.01 to 0.06"),
    ),
    asked=(Asked("kept", at_least=85), Asked("more", at_least=10), Asked("cosine", at_most=0.3)),
    beds=beds(_addition, {"mnist": 30, "digits": 4}, tasks=True),
    notes=_SPECIALISTS,
)

_TARGET = {"digits": ("inverted", "upright"), "mnist": ("kmnist", "mnist")}
"""What is to be forgotten, and what is to be kept."""
_KEEP = 0.97
"""Of the control on select data, so that 0.95 are left on report data."""


def _negation(bench: Bench) -> Figures:
    from stockpot.reproduce.images.bench import percent
    from stockpot.search import sweep

    suite, (base, *models) = bench.tasks(), _specialists(bench)
    target, control = _TARGET["digits" if "inverted" in bench.lab.tasks else "mnist"]
    tuned = next(model for model in models if model.name == target)
    found = sweep(
        "negate",
        [base, tuned],
        suite,
        values=[round(0.05 * i, 2) for i in range(41)],
        metrics=[f"{target}.accuracy"],
        control=[f"{control}.accuracy"],
        keep=_KEEP,
    )
    assert found.chosen is not None
    assert found.report is not None
    names = {"base": found.names[0], "negated": found.names[found.values.index(found.chosen)]}
    names["random"] = f"random {names['negated']}" if found.chosen else names["base"]
    at = {(m, t): percent(found.report, name, t) for m, name in names.items() for t in (target, control)}
    return {
        "base": at["base", target],
        "negated": at["negated", target],
        "target": 100 * at["negated", target] / at["base", target],
        "control": 100 * at["negated", control] / at["base", control],
        "random": abs(at["random", target] - at["base", target]),
        "lambda": found.chosen,
    }


NEGATION = Claim(
    name="task-negation",
    title="Taking a task vector away forgets the task and little else; a random vector of that size forgets nothing",
    source=f"{_ILHARCO}, section 3",
    measures=(
        Measure("base", "base, accuracy on the target, %", 64.8, "mean of 8 tasks, CLIP ViT-L/14, table 1"),
        Measure("negated", "negated, accuracy on the target, %", 19.0, "table 1"),
        Measure("target", "target that is left, % of the base's accuracy", 29.3, "19.0 of 64.8"),
        Measure("control", "control that is left, % of the base's accuracy", 96.6, "ImageNet, 72.9 of 75.5"),
        Measure("random", "a random vector of the same lengths changes the target by, points", 3.9, "60.9 and 64.8"),
        Measure("lambda", "lambda, chosen on select data"),
    ),
    asked=(Asked("target", at_most=50), Asked("control", at_least=95), Asked("random", at_most=5)),
    beds=beds(
        _negation,
        {"mnist": 15, "digits": 4},
        tasks=True,
        known={
            "mnist": "the control shares all layers but the head with the target and falls with it; a base that knows "
            "more (300 or 1,000 images of each task) does not change that."
        },
    ),
    notes="Target and control are inverted and upright digits; Kuzushiji-MNIST and MNIST. Lambda is the largest that "
    "keeps 97 % of the control on select data, so that 95 % are left on report data. " + _SPECIALISTS,
)


def _ties(bench: Bench) -> Figures:
    from stockpot.evaluate import candidate, evaluate

    suite, (base, *models) = bench.tasks(), _specialists(bench)
    start = stored_model(base)
    deltas = [stored_model(model) - start for model in models]
    signs = bench.model("together", bench.lab.together)
    options: dict[str, Any] = {"density": 0.2, "scope": "model"}
    sums = {
        "arithmetic": task_arithmetic(*deltas),
        "ties": ties(*deltas, **options),
        "oracle": ties(*deltas, **options, sign_from=stored_model(signs)),
    }
    fixed = [candidate(start + 1.0 * delta, name=name, threads=1) for name, delta in sums.items()]
    tuned = [_tuned(base, name, sums[name], grid, suite) for name, grid in (("arithmetic", _SUMS), ("ties", _MEANS))]
    result = evaluate([*models, *fixed, *tuned], suite)
    tasks = [task.name for task in suite.tasks]
    kept = {row.name: _kept(result, row.name, tasks) for row in result.models}
    return {
        "arithmetic": kept["arithmetic"],
        "ties": kept["ties"],
        "fixed": kept["ties"] - kept["arithmetic"],
        "tuned": kept["ties, tuned"] - kept["arithmetic, tuned"],
        "oracle": kept["oracle"] - kept["ties"],
    }


_SUMS = tuple(round(0.05 * i, 2) for i in range(1, 21))
_MEANS = tuple(round(0.1 * i, 1) for i in range(1, 31))
"""Values of lambda that are tried: a mean of task vectors needs about as many times more as there are tasks."""


def _tuned(base: Candidate, name: str, delta: Any, grid: Sequence[float], suite: Suite) -> Candidate:
    """The point base + λ delta that is best on select data."""
    from stockpot.evaluate import evaluate
    from stockpot.search import Line, objective_of

    line = Line.of(base, stored_model(base) + 1.0 * delta)
    points = [line.candidate(value, f"lambda {value:g}") for value in grid]
    found = evaluate(points, suite.for_choosing(), split="select", choosing="lambda")
    objective = objective_of(suite)
    best = max(points, key=lambda point: objective.score(found, point.name))
    return line.candidate(grid[points.index(best)], f"{name}, tuned")


TIES = Claim(
    name="ties",
    title="Without tuning, trimmed task vectors with elected signs are better than their plain sum",
    source="Yadav et al., TIES-Merging: resolving interference when merging models, 2023, arXiv:2306.01708",
    measures=(
        Measure("arithmetic", "task arithmetic at lambda 1, mean share of the specialists' accuracy, %"),
        Measure("ties", "TIES at lambda 1, density 20 %, mean share of the specialists' accuracy, %"),
        Measure(
            "fixed", "TIES minus task arithmetic, untuned, points", 12.0, "72.4 and 60.4, accuracy, ViT-B/32, 8 tasks"
        ),
        Measure(
            "tuned", "TIES minus task arithmetic, lambda chosen on select data, points", 1.5, "86.0 and 84.5, ViT-L/14"
        ),
        Measure(
            "oracle", "signs of a multitask model minus TIES, untuned, points", 5.6, "72.0 and 66.4, validated, (IA)3"
        ),
    ),
    asked=(Asked("fixed", above=0), Asked("tuned", at_least=-0.5), Asked("oracle", at_least=0)),
    beds=beds(
        _ties,
        {"mnist": 30, "digits": 8},
        tasks=True,
        known={"mnist": "once tuned, the two are equal within the spread of seeds, -0.9 to 0.7 points."},
    ),
    notes="Trimmed over the whole model, as in the paper. " + _SPECIALISTS,
)
