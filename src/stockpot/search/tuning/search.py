"""Search over a recipe with holes: trials on tune data, the best few measured on select data, told on report data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.errors import Problem, RecipeError
from stockpot.evaluate.cache import Cache
from stockpot.evaluate.suite import Suite
from stockpot.search.judge import Judge, Tell
from stockpot.search.spaces.space import Space
from stockpot.search.tuning.checks import asked
from stockpot.search.tuning.choice import Choice
from stockpot.search.tuning.found import Search
from stockpot.search.tuning.rounds import TellTrial
from stockpot.search.tuning.samplers import check_optuna
from stockpot.search.tuning.studies import Counts, Studies, Workers
from stockpot.search.tuning.study import Shelf

__all__ = ["search"]


def search(
    space: Space,
    suite: Suite,
    *,
    trials: int = 100,
    sampler: str | None = None,
    metrics: Sequence[str] = (),
    pareto: Sequence[str] = (),
    rungs: Sequence[float] = (1.0,),
    seed: int = 0,
    top: int = 5,
    random: int | None = None,
    lambda_points: int = 11,
    grid_points: int = 5,
    study: Path | None = None,
    jobs: int = 0,
    trial_seconds: float | None = None,
    name: str = "the recipe",
    loader: Callable[[], Suite] | None = None,
    limits: Mapping[str, Any] | None = None,
    cache: Cache | None = None,
    device: str | None = None,
    tell: Tell | None = None,
    tell_trial: TellTrial | None = None,
) -> Search:
    """Find values for the holes of a recipe, and measure the find beside what it should be compared with.

    Trials are measured on tune data (on select data where a task has no other). The best ``top`` of them are measured
    on select data, where the best wins; with several objectives it is the front that is measured. The best of the
    recipe's models, of one number for all coefficients, and of random search with as many trials are chosen in the same
    way, and all are measured on report data.

    Args:
        space: What is searched.
        suite: The tasks.
        trials: How many, those in ``study`` among them.
        sampler: One of :data:`SAMPLERS`; by default ``tpe``, or ``nsga2`` with ``pareto``.
        metrics: TASK.METRIC that chooses, or several for their mean; see :func:`stockpot.search.objective_of`.
        pareto: Two or more TASK.METRIC that are sought together instead.
        rungs: Cumulative shares of the data, rising to 1: what is bad on the first is stopped (:func:`survives`).
        seed: Key of the sampler.
        top: How many of the best trials are measured on select data.
        random: Trials of random search; by default as many as the search can have; 0 for none.
        lambda_points: Places of one number for all coefficients, from 0 to 1; 0 for none.
        grid_points: Of the grid: values of a range without a step.
        study: SQLite file that keeps the trials; what it holds is continued.
        jobs: Processes that evaluate; 0 evaluates in this one. Only 0 and 1 give the same trials each time.
        trial_seconds: A trial that takes longer has failed; only with processes, since nothing else can be stopped.
        name: Of the recipe, for people.
        loader: Loads the suite in processes, where it cannot be sent to them.
        limits: Further arguments of :func:`stockpot.plan`; processes share memory and threads.
        cache: Where predictions of what is told are kept, and which data has chosen.
        device: Where torch runs models.
        tell: Called with each cell of the tables.
        tell_trial: Called with each trial.

    Raises:
        RecipeError: for what cannot be searched, an unknown sampler or figure, and what does not go together.
        PlanError: when the study was made of something else, or is in use.
        ExecutionError: when all trials failed, or none could be measured on select data.
        UnsupportedError: without Optuna.
    """
    if min(trials, top) < 1 or min(random or 0, lambda_points, jobs, seed) < 0 or grid_points < 2:
        raise RecipeError(Problem("trials and top are 1 or more, grid points 2 or more, other numbers 0 or more"))
    if trial_seconds is not None and (jobs < 1 or not trial_seconds > 0):
        fix = "a number above 0, with --jobs 1 or more (in Python: jobs=1)"
        raise RecipeError(Problem("seconds of a trial are above 0, and only processes can be stopped", fix=fix))
    check_optuna()
    wanted = asked(space, suite, sampler=sampler, metrics=metrics, pareto=pareto, rungs=rungs)
    studies = Studies(space, suite, wanted, tuple(rungs), seed, dict(limits or {}), device, name, grid_points)
    most = trials if wanted.sampler != "grid" else min(trials, len(studies.combinations()))
    counts = Counts(trials, most if random is None else random, lambda_points)
    with Judge.of(suite, cache, device, tell, f"search over {name}") as judge:
        facts = studies.facts(judge.cache)
        studies.noted(judge)
        with Shelf(study) as shelf:
            made = studies.carried_out(shelf, facts, counts, Workers(jobs, loader, trial_seconds), tell_trial)
        return Choice(studies, judge, made, top).found(study)
