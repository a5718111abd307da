"""Where a study looks next: Optuna's samplers, keyed by seed and number of the trial: no state lies in memory."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stockpot.errors import Problem, RecipeError, UnsupportedError
from stockpot.evaluate.examples import digest
from stockpot.search.spaces.dimensions import Dimension, Value

__all__ = ["POPULATION", "SAMPLERS", "Keyed", "check_optuna", "distributions", "grid", "quiet", "sampler_of"]

SAMPLERS: Mapping[str, str] = {
    "tpe": "Tree-structured Parzen estimator (Bergstra et al., 2011), multivariate: any mix of dimensions",
    "cma-es": "CMA-ES (Hansen and Ostermeier, 2001): numbers only, best above a few hundred trials",
    "nsga2": "NSGA-II (Deb et al., 2002): several objectives, many choices; generations of 20",
    "random": "independent draws",
    "grid": "every combination of the values, in a shuffled order",
}
"""Name → what it is."""

POPULATION = 20
"""Trials of a generation of NSGA-II: Optuna's 50 would leave 100 trials two generations."""

_MOST = 1_000_000


def check_optuna() -> None:
    """Raise where Optuna is missing.

    Raises:
        UnsupportedError: it names what to install.
    """
    try:
        import optuna
    except ImportError as error:
        fix = "pip install 'stockpot[search]'"
        raise UnsupportedError(Problem(f"searching needs Optuna: {error}", fix=fix)) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@contextmanager
def quiet() -> Iterator[None]:
    """What Optuna calls experimental is meant: its warnings are not shown."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def distributions(dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """Name → Optuna's distribution, in the order of the dimensions."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for one in dimensions:
        if one.kind == "choice":
            found[one.name] = CategoricalDistribution(one.choices)
        elif one.kind == "int":
            step = 1 if one.step is None else int(one.step)
            found[one.name] = IntDistribution(int(one.low), int(one.nearest(one.high)), log=one.log, step=step)
        else:
            found[one.name] = FloatDistribution(one.low, float(one.nearest(one.high)), log=one.log, step=one.step)
    return found


def grid(dimensions: Sequence[Dimension], points: int, seed: int) -> list[dict[str, Value]]:
    """All combinations, shuffled by ``seed``: of choices, of the values of a step, of ``points`` places in a range.

    Raises:
        RecipeError: when there are more than a million.
    """
    axes = [_axis(one, points) for one in dimensions]
    count = math.prod(map(len, axes))
    if count > _MOST:
        fix = "widen the steps, leave out dimensions, give fewer --grid-points, or take another sampler"
        raise RecipeError(Problem(f"the grid has {count} points", fix=fix))
    import numpy as np

    made = list(itertools.product(*axes))
    order = np.random.default_rng(seed).permutation(count)
    return [dict(zip((one.name for one in dimensions), made[i], strict=True)) for i in order]


def _axis(one: Dimension, points: int) -> list[Value]:
    """The values of one dimension, in order, each once."""
    if one.kind == "choice":
        return list(one.choices)
    spread = one.high - one.low
    step = 1.0 if one.kind == "int" and spread < points else one.step
    if step is not None and not one.log:
        count = min(math.floor(spread / step + 1e-9) + 1, _MOST + 1)
        return list(dict.fromkeys(one.nearest(one.low + i * step) for i in range(count)))
    return list(dict.fromkeys(one.at(i / (points - 1)) for i in range(points)))


@dataclass(frozen=True)
class _Facts:
    """What samplers are made of."""

    start: Mapping[str, Any]
    parallel: bool


def sampler_of(name: str, seed: int, start: Mapping[str, Any], *, parallel: bool = False) -> Keyed:
    """The sampler called ``name`` (any of :data:`SAMPLERS` but the grid, which is a list).

    Args:
        seed: Key of its random numbers.
        start: The first guess, where CMA-ES begins.
        parallel: Whether trials run side by side; TPE then keeps away from those that run.
    """
    make = {"tpe": _tpe, "cma-es": _cma, "nsga2": _nsga, "random": _random}[name]
    return Keyed(name, seed, make, _Facts(dict(start), parallel))


def _tpe(seed: int, facts: _Facts) -> Any:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, multivariate=True, constant_liar=facts.parallel, warn_independent_sampling=False)


def _cma(seed: int, facts: _Facts) -> Any:
    from optuna.samplers import CmaEsSampler

    try:
        import cmaes  # noqa: F401 - Optuna would say so only at the second trial
    except ImportError as error:
        raise UnsupportedError(Problem("CMA-ES needs cmaes", fix="pip install 'stockpot[search]'")) from error
    x0: dict[str, Any] = {
        "x0": dict(facts.start)
    }  # Optuna's own step is a sixth of each range, as sources of merges have it
    return CmaEsSampler(seed=seed, warn_independent_sampling=False, consider_pruned_trials=True, **x0)


def _nsga(seed: int, _facts: _Facts) -> Any:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(population_size=POPULATION, seed=seed)


def _random(seed: int, _facts: _Facts) -> Any:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


class Keyed:
    """A sampler made anew for each question, keyed by what is asked: it proposes the same after a restart.

    It has the methods of Optuna's ``BaseSampler``, without being one, so that this module imports without Optuna.

    Args:
        name: Of the sampler.
        seed: Key of all its random numbers.
        make: (seed, facts) → one of Optuna's samplers; whatever that remembers must lie in the study.
        facts: What it is made of.
    """

    def __init__(self, name: str, seed: int, make: Callable[[int, _Facts], Any], facts: _Facts) -> None:
        self.name, self._seed, self._make, self._facts = name, seed, make, facts
        with quiet():
            make(0, facts)  # what is missing is told before anything runs

    def before_trial(self, study: Any, trial: Any) -> None:
        """Part of the protocol."""
        self._at(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        """The dimensions that are drawn together."""
        found: dict[str, Any] = self._at(trial).infer_relative_search_space(study, trial)
        return found

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
        """Values of these dimensions."""
        with quiet():
            found: dict[str, Any] = self._at(trial).sample_relative(study, trial, search_space)
        return found

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        """The value of one dimension, keyed by its name."""
        return self._at(trial, param_name).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
        """Part of the protocol."""
        self._at(trial).after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Part of the protocol: the key is all there is."""

    def _at(self, trial: Any, name: str = "") -> Any:
        seed = int.from_bytes(digest(f"{self._seed} {trial.number}", name)[:4], "little")
        with quiet():
            return self._make(seed, self._facts)
