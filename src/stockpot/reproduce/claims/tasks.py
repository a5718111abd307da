"""Task arithmetic and TIES: fine-tunes on several tasks, added up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stockpot.functions import task_arithmetic, ties
from stockpot.reproduce.beds import beds
from stockpot.reproduce.claim import Asked, Claim, Figures, Measure
from stockpot.search.recipes import stored_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stockpot.evaluate import Candidate, Suite
    from stockpot.reproduce.bench import Tasked
    from stockpot.search.sweeps import Normalised

__all__ = ["ADDITION", "TIES"]

_SPECIALISTS = (
    "The base learns a little of every task and has three quarters or so of its fine-tunes' accuracy; heads are frozen."
)


def _addition(bench: Tasked) -> Figures:
    from stockpot.reproduce.bench import kept
    from stockpot.search import sweep

    suite = bench.tasks()
    found = sweep("add", bench.specialists(), suite)
    assert found.report is not None
    assert found.chosen is not None
    assert found.chosen_name is not None
    tasks = [task.name for task in suite.tasks]
    best = kept(found.report, found.chosen_name, tasks)
    begun = kept(found.report, found.names[found.values.index(0.0)], tasks)
    return {
        "base": begun,
        "kept": best,
        "more": best - begun,
        "worst": min(kept(found.report, found.chosen_name, [task]) for task in tasks),
        "lambda": found.chosen,
        "cosine": max(pair.cosine or 0.0 for pair in found.cosines),
    }


ADDITION = Claim(
    name="task-addition",
    title="The sum of task vectors knows all tasks nearly as well as the fine-tune on each",
    source="Ilharco et al., Editing models with task arithmetic, 2023, arXiv:2212.04089, section 4",
    measures=(
        Measure("base", "base, mean accuracy as a share of the specialists', %"),
        Measure(
            "kept", "sum at the chosen lambda, mean share of the specialists' accuracy, %", 91.2, "8 tasks, ViT-L/14"
        ),
        Measure("more", "sum minus base, points"),
        Measure("worst", "the sum's least share over tasks, %"),
        Measure("lambda", "lambda, chosen on select data", 0.3, "0.3 to 0.5 for most sums"),
        Measure("cosine", "largest cosine of two task vectors", 0.18, "MNIST and SVHN; most are 0.01 to 0.06"),
    ),
    asked=(Asked("kept", at_least=85), Asked("more", at_least=10), Asked("cosine", at_most=0.3)),
    beds=beds(_addition, {"mnist": 30, "digits": 4, "sentences": 60, "domains": 70}, tasks=True),
    notes=_SPECIALISTS,
)


def _ties(bench: Tasked) -> Figures:
    from stockpot.evaluate import candidate, evaluate
    from stockpot.reproduce.bench import kept

    suite, (base, *models) = bench.tasks(), bench.specialists()
    start = stored_model(base)
    deltas = [stored_model(model) - start for model in models]
    options: dict[str, Any] = {"density": 0.2, "scope": "model"}
    sums = {
        "arithmetic": task_arithmetic(*deltas),
        "ties": ties(*deltas, **options),
        "oracle": ties(*deltas, **options, sign_from=stored_model(bench.together())),
    }
    fixed = [candidate(start + 1.0 * delta, name=name, threads=1) for name, delta in sums.items()]
    aim = _normalised(base, models, suite)
    tuned = [_tuned(base, n, sums[n], grid, suite, aim) for n, grid in (("arithmetic", _SUMS), ("ties", _MEANS))]
    result = evaluate([*models, *fixed, *tuned], suite)
    tasks = [task.name for task in suite.tasks]
    share = {row.name: kept(result, row.name, tasks) for row in result.models}
    return {
        "arithmetic": share["arithmetic"],
        "ties": share["ties"],
        "fixed": share["ties"] - share["arithmetic"],
        "tuned": share["ties, tuned"] - share["arithmetic, tuned"],
        "oracle": share["oracle"] - share["ties"],
    }


_SUMS = tuple(round(0.05 * i, 2) for i in range(1, 21))
_MEANS = tuple(round(0.1 * i, 1) for i in range(1, 31))
"""Values of lambda that are tried: a mean of task vectors needs about as many times more as there are tasks."""


def _normalised(base: Candidate, models: Sequence[Candidate], suite: Suite) -> Normalised:
    """What a sweep of sums would choose by."""
    from stockpot.evaluate import evaluate
    from stockpot.search.sweeps.normalised import normalised_of, parts_of

    alone = evaluate(models, suite.for_choosing(), split="select", choosing="lambda")
    return normalised_of(parts_of(suite, (), "select", asked=True), alone, {}, [base, *models])


def _tuned(base: Candidate, name: str, delta: Any, grid: Sequence[float], suite: Suite, aim: Normalised) -> Candidate:
    """The point base + λ delta that is best on select data."""
    from stockpot.evaluate import evaluate
    from stockpot.search import Line

    line = Line.of(base, stored_model(base) + 1.0 * delta)
    points = [line.candidate(value, f"lambda {value:g}") for value in grid]
    found = evaluate(points, suite.for_choosing(), split="select", choosing="lambda")
    best = max(points, key=lambda point: aim.score(found, point.name))
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
        {"mnist": 30, "digits": 8, "sentences": 60, "domains": 100},
        tasks=True,
    ),
    notes="Trimmed over the whole model, as in the paper; lambda by the mean share on select data. " + _SPECIALISTS,
)
