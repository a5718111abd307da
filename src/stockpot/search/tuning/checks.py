"""What is asked of a search, checked before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stockpot.errors import Problem, RecipeError
from stockpot.evaluate.portions import checked_shares
from stockpot.evaluate.suite import Suite
from stockpot.search.objective import Objective, objective_of
from stockpot.search.spaces.space import Space
from stockpot.search.tuning.samplers import SAMPLERS

__all__ = ["Asked", "asked"]


@dataclass(frozen=True)
class Asked:
    """What is asked, settled.

    Args:
        objectives: What chooses; several are sought together.
        sampler: One of :data:`SAMPLERS`.
        role: The data that trials are measured on.
        notes: Things worth telling.
    """

    objectives: tuple[Objective, ...]
    sampler: str
    role: str
    notes: tuple[str, ...]


def asked(
    space: Space,
    suite: Suite,
    *,
    sampler: str | None,
    metrics: Sequence[str],
    pareto: Sequence[str],
    rungs: Sequence[float],
) -> Asked:
    """Settle what is asked.

    Raises:
        RecipeError: for a recipe without holes, an unknown sampler or figure, and what does not go together.
    """
    if not space.dimensions:
        fix = "say what is to be found, such as weight: {search: [0, 1]}"
        raise RecipeError(Problem("the recipe leaves nothing to be searched", fix=fix))
    if metrics and pareto:
        raise RecipeError(Problem("metrics make one objective, pareto several: give one of them"))
    if len(set(pareto)) == 1:
        raise RecipeError(Problem("a front needs two figures", fix="--pareto TASK.METRIC twice, or --metric"))
    wanted = [[name] for name in dict.fromkeys(pareto)] or [list(metrics)]
    objectives = tuple(objective_of(suite, names) for names in wanted)
    name = sampler or ("tpe" if len(objectives) == 1 else "nsga2")
    _check_sampler(space, name, len(objectives))
    if len(rungs) > 1 and len(objectives) > 1:
        raise RecipeError(Problem("rungs rank trials by one figure: a front has none", fix="leave --rungs out"))
    checked_shares(rungs)
    needed = {task for one in objectives for task, _ in one.parts}
    without = [task.name for task in suite.tasks if task.name in needed and "tune" not in task.data]
    if not without:
        return Asked(objectives, name, "tune", ())
    note = f"without tune data ({', '.join(without)}), trials are measured on the select data that chooses among them"
    return Asked(objectives, name, "select", (note,))


def _check_sampler(space: Space, name: str, objectives: int) -> None:
    if name not in SAMPLERS:
        raise RecipeError(Problem(f"unknown sampler {name!r}", fix=f"one of {', '.join(SAMPLERS)}"))
    if name != "cma-es":
        return
    choices = [one for one in space.dimensions if one.kind == "choice"]
    if choices:
        fix = "take tpe or nsga2, or settle the choice"
        raise RecipeError(
            Problem(
                f"CMA-ES searches numbers: {choices[0].name} is a choice",
                file=space.file,
                line=choices[0].line,
                fix=fix,
            )
        )
    if objectives > 1:
        raise RecipeError(Problem("CMA-ES has one objective", fix="take nsga2 or tpe"))
    if sum(one.high > one.low for one in space.dimensions) < 2:
        raise RecipeError(Problem("CMA-ES needs two dimensions or more", fix="take tpe"))
