"""Which merges the demo makes, and how their members and strengths are chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stockpot.demo import recipes
from stockpot.demo.evaluate import Benchmark
from stockpot.demo.network import Parameters
from stockpot.demo.recipes import Recipe
from stockpot.demo.runs import FINE_TUNES, SPECIALISTS, load_model
from stockpot.search.rule import greedy

__all__ = ["Kitchen", "Merged", "cook_all", "greedy_soup"]

_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Values tried for alpha and t, which go from one model to the other."""
_SUM_STRENGTHS = (0.1, 0.15, 0.2, 0.3, 0.35, 0.4)
"""Values tried for lambda where four task vectors are summed; 0.25 would be their plain mean."""
_MEAN_STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.25)
"""Values tried for lambda where task vectors are averaged."""


@dataclass(frozen=True)
class Merged:
    """A finished merge: its weights and its mean shifted accuracy on the ``select`` images."""

    name: str
    about: str
    theta: Parameters
    select: float


@dataclass(frozen=True)
class Kitchen:
    """Where recipes are written and merged, and the images that choices are made with."""

    folder: Path
    select: Benchmark

    def cook(self, name: str, recipe: Recipe) -> Merged:
        """Write the recipe, merge it and score the result."""
        path = self.folder / "recipes" / f"{name}.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(recipe.text(), encoding="utf-8")
        out = self.folder / "merged" / name
        recipes.merge(path, out)
        theta = load_model(out)
        return Merged(name, _describe(recipe), theta, self.select.score(theta).shifted)

    def choose(self, name: str, make: Callable[[float], Recipe], values: Sequence[float]) -> Merged:
        """Cook with every value, then again with the one that is best on ``select``."""
        tried = {value: self.cook(name, make(value)).select for value in values}
        return self.cook(name, make(max(tried, key=lambda value: tried[value])))


def _describe(recipe: Recipe) -> str:
    count = len(recipe.models)
    what = "1 model" if count == 1 else f"{count} models"
    settings = {**recipe.each, **recipe.whole}
    settings.pop("weight", None)
    numbers = [f"{key} {value:g}" for key, value in settings.items() if not isinstance(value, bool)]
    return ", ".join([what, *numbers])


def greedy_soup(kitchen: Kitchen, ranking: Sequence[tuple[str, float]]) -> Merged:
    """Average the models that help, taken in turn from the best (Wortsman et al. 2022, recipe 1).

    A model stays only if the average with it is at least as good on ``select`` as without it, so
    the soup is there never worse than the best single model.

    Args:
        kitchen: Where to merge and score.
        ranking: Name and ``select`` score of every model, best first.
    """
    steps = greedy(ranking, lambda members: kitchen.cook("greedy", _average(members)).select)
    return kitchen.cook("greedy", _average([step.name for step in steps if step.kept]))


def _average(models: Sequence[str]) -> Recipe:
    return Recipe("linear", tuple(models), each={"weight": 1.0})


def cook_all(kitchen: Kitchen, ranking: Sequence[tuple[str, float]], *, fine_grid: bool) -> Iterator[Merged]:
    """Make every merge of the table, in its order."""
    step = 1 if fine_grid else 3
    sound = tuple(run.name for run in FINE_TUNES if run.sound)
    best, second = (name for name, _ in ranking[:2])
    everything = kitchen.cook("uniform-all", _average([run.name for run in FINE_TUNES]))
    yield replace(everything, about=f"{len(FINE_TUNES)} models, the diverged one too")
    yield kitchen.cook("uniform", _average(sound))
    yield greedy_soup(kitchen, ranking)
    yield kitchen.choose("wise_ft", lambda a: Recipe("wise_ft", (best,), "base", whole={"alpha": a}), _SHARES[::step])
    yield kitchen.choose("slerp", lambda t: Recipe("slerp", (best, second), best, whole={"t": t}), _SHARES[::step])
    yield kitchen.cook("model_stock", Recipe("model_stock", sound, "base"))
    for name, density, normalize in _TASK_VECTOR_METHODS:
        grid = _MEAN_STRENGTHS if normalize else _SUM_STRENGTHS
        make = _task_vectors(name, density, normalize=normalize)
        yield kitchen.choose(name, make, grid[::step])


_TASK_VECTOR_METHODS = (
    ("task_arithmetic", None, False),
    ("ties", 0.5, True),
    ("dare_ties", 0.7, True),
)
"""Method, density, and whether it averages the task vectors (else sums them)."""


def _task_vectors(method: str, density: float | None, *, normalize: bool) -> Callable[[float], Recipe]:
    """Return a recipe over the specialists as a function of lambda."""
    each = {"weight": 1.0} if density is None else {"weight": 1.0, "density": density}

    def make(strength: float) -> Recipe:
        whole = {"normalize": normalize, "lambda": strength}
        return Recipe(method, SPECIALISTS, "base", each, whole)

    return make
