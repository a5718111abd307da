"""Averages of diverse runs of one start, or of starts that were fine-tuned on something else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from math import nan
from statistics import StatisticsError, correlation, fmean
from typing import TYPE_CHECKING

from stockpot.functions import linear
from stockpot.reproduce.beds import beds
from stockpot.reproduce.claim import Asked, Claim, Figures, Measure
from stockpot.search.recipes import stored_model

if TYPE_CHECKING:
    from stockpot.evaluate import Cache, Candidate, Result, Suite
    from stockpot.reproduce.bench import Diverse

__all__ = ["DIWA", "RATATOUILLE"]


def _apart(suite: Suite) -> tuple[Suite, Suite]:
    """The domains seen, and those left out."""
    home, *away = suite.tasks
    return replace(suite, tasks=(home,)), replace(suite, tasks=tuple(away))


def _on(suite: Suite, result: Result, model: str) -> float:
    """Mean accuracy over the tasks of ``suite``."""
    from stockpot.reproduce.bench import mean_percent

    return mean_percent(result, model, [task.name for task in suite.tasks])


def _differing(result: Result) -> list[float]:
    """Percent of examples that the first model and another tell differently: of each other but the last, and task."""
    return [100 * (1 - triple.pairs[0].agreement) for triple in result.triples]


def _pairs(models: Sequence[Candidate], away: Suite, cache: Cache) -> tuple[list[float], list[float]]:
    """Of every pair of models on the domains left out: the gain of their average over both, and their disagreement."""
    from stockpot.evaluate import candidate, evaluate

    gains, apart = [], []
    for one, other in combinations(models, 2):
        average = candidate(linear(stored_model(one), stored_model(other)), name="average", threads=1)
        result = evaluate([one, other, average], away, cache=cache)
        alone = fmean(_on(away, result, model.name) for model in (one, other))
        gains.append(_on(away, result, "average") - alone)
        apart.append(fmean(_differing(result)))
    return gains, apart


def _disagreement(models: Sequence[Candidate], away: Suite, cache: Cache) -> float:
    """Share of examples of the domains left out that two models tell differently, in percent; mean over all pairs."""
    from stockpot.evaluate import evaluate

    pairs = []
    for i, one in enumerate(
        models[:-1]
    ):  # as the base of all after it; the last row, called the merged one, again itself
        pairs += _differing(evaluate([one, *models[i + 1 :], one], away, cache=cache))
    return fmean(pairs)


def _diwa(bench: Diverse) -> Figures:
    from stockpot.evaluate import Cache
    from stockpot.search import soup

    suite, models = bench.domains(), bench.diverse()
    home, away = _apart(suite)
    with Cache(None) as cache:
        report = soup(models, suite, kind="uniform", ensembles=(), cache=cache).report
        restricted = soup(models, suite, kind="diwa", ensembles=(), cache=cache)
        gains, apart = _pairs(models, away, cache)
    assert report is not None
    assert restricted.report is not None
    single = fmean(_on(away, report, model.name) for model in models)
    return {
        "single": single,
        "uniform": _on(away, report, "uniform soup") - single,
        "restricted": _on(away, restricted.report, restricted.name) - single,
        "home": _on(home, report, "uniform soup") - fmean(_on(home, report, m.name) for m in models),
        "correlation": _correlation(apart, gains),
    }


def _correlation(these: Sequence[float], those: Sequence[float]) -> float:
    """Pearson's; no number where one of the two never changes."""
    try:
        return correlation(these, those)
    except StatisticsError:
        return nan


_DOMAINBED = "mean of five data sets of DomainBed, linear-probed start, ERM 65.6"

DIWA = Claim(
    name="diwa",
    title="The average of diverse runs is better than the runs on a domain that none of them has seen",
    source="Ramé et al., Diverse weight averaging for out-of-distribution generalization, 2022, arXiv:2205.09739",
    measures=(
        Measure("single", "mean run, accuracy on the domain left out, %", 65.6, _DOMAINBED),
        Measure("uniform", "average of all minus mean run, on the domain left out, points", 2.0, f"67.6, {_DOMAINBED}"),
        Measure("restricted", "restricted selection minus mean run, there, points", 1.9, f"67.5, {_DOMAINBED}"),
        Measure("home", "average of all minus mean run, on the domains seen, points"),
        Measure("correlation", "correlation of gain and disagreement over all pairs of runs"),
    ),
    asked=(Asked("uniform", at_least=1), Asked("correlation", above=0)),
    beds=beds(
        _diwa,
        {"mnist": 80, "digits": 6, "cifar": 45, "domains": 80},
        known={
            "mnist": "the average is better than the mean run with every seed, but by 0.2 to 0.7 points.",
            "cifar": "the average is better than the mean run with every seed, but by 0.3 to 0.8 points.",
            "domains": "the average is better than the mean run with every seed, but by 0.6 to 0.9 points; restricted "
            "selection gains 1.4 to 1.8.",
        },
    ),
    notes="Eight runs on images turned by 0, 15 and 30 degrees, or on reviews of four kinds, from one start with a "
    "probed head; 45 degrees, or four other kinds, are left out.",
)


_FORGOTTEN = "fine-tunes on other images forget the turned ones that the start knows, and runs from there stay below."


def _ratatouille(bench: Diverse) -> Figures:
    from stockpot.evaluate import Cache
    from stockpot.search import soup

    suite, runs, recycled = bench.domains(), bench.diverse(), bench.recycled()
    home, away = _apart(suite)
    with Cache(None) as cache:
        plain = soup(runs, suite, kind="uniform", ensembles=(), cache=cache).report
        report = soup(recycled, suite, kind="ratatouille", ensembles=(), cache=cache).report
        apart = [_disagreement(models, away, cache) for models in (recycled, runs)]
    assert plain is not None
    assert report is not None
    before, after = _on(away, plain, "uniform soup"), _on(away, report, "ratatouille soup")
    return {
        "diwa": before,
        "ratatouille": after,
        "more": after - before,
        "disagreement": apart[0] - apart[1],
        "bump": fmean(_bump(recycled[i], recycled[i + 1], home) for i in range(0, len(recycled), 2)),
    }


def _bump(one: Candidate, other: Candidate, home: Suite) -> float:
    """How far accuracy falls below the line between the ends, on the way from one to the other, at home; in points."""
    from stockpot.search import sweep

    found = sweep("interpolate", [one, other], home, values=(0, 0.25, 0.5, 0.75, 1), split="report")
    at = {value: _on(home, found.curve, name) for value, name in zip(found.values, found.names, strict=True)}
    return max((1 - t) * at[0.0] + t * at[1.0] - value for t, value in at.items())


RATATOUILLE = Claim(
    name="ratatouille",
    title="Runs that start from fine-tunes on other data disagree more, and can still be averaged",
    source="Ramé et al., Model ratatouille: recycling diverse models for out-of-distribution generalization, 2023, "
    "arXiv:2212.10445",
    measures=(
        Measure("diwa", "DiWA, average of all, accuracy on the domain left out, %", 67.6, "mean of DomainBed"),
        Measure("ratatouille", "ratatouille, average of all, there, %", 68.1, "mean of DomainBed"),
        Measure("more", "ratatouille minus DiWA, points", 0.5, "68.1 and 67.6"),
        Measure("disagreement", "disagreement of two runs, ratatouille minus DiWA, points"),
        Measure("bump", "largest fall below the line between two runs' accuracies, mean of four pairs, points"),
    ),
    asked=(Asked("disagreement", above=0), Asked("bump", at_most=2), Asked("more", at_least=-0.3)),
    beds=beds(
        _ratatouille,
        {"mnist": 120, "digits": 6, "cifar": 75, "domains": 110},
        known=dict.fromkeys(("mnist", "digits", "cifar"), _FORGOTTEN),
    ),
    notes="The runs of diwa, a quarter each from the start and from fine-tunes of it on inverted, noisy and other "
    "images, or on reviews of three other kinds, all with the head that was probed on the start. Training is unstable "
    "from falls of 2 points on (Frankle et al., 2020).",
)
