"""A group of tasks of lm-eval as one task of a suite: the rows of all its tasks, its figures and theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.errors import ExecutionError, Problem, RecipeError, StockpotError
from stockpot.evaluate.figures import Part, Strata
from stockpot.evaluate.harness.backends import Wanted
from stockpot.evaluate.harness.definitions import Definition
from stockpot.evaluate.harness.groups import Group, Mean
from stockpot.evaluate.harness.measures import column, measures, width_of
from stockpot.evaluate.harness.task import Harness, filter_of, single
from stockpot.evaluate.opened import Opened
from stockpot.evaluate.protocol import EXAMPLE, Files, Metric, Predictions
from stockpot.recipe.known import nearest

__all__ = ["MEMBER", "Together", "together"]

MEMBER = "member"
"""The column that tells which task of the group a row is of, by number."""


def together(
    group: Group,
    wanted: Wanted,
    data: Mapping[str, Files],
    asked: Sequence[Metric | str],
    *,
    allowed: bool = False,
) -> Together:
    """The tasks of ``group``, each ready to be run on its part of ``data``.

    Arguments and errors are those of :func:`single`; metrics are those that the group has figures of.
    """
    members = tuple(single(task, wanted, data, (), allowed=allowed) for task in group.tasks)
    role = next(role for role in data if role != "train")
    built = [member.builder.built(member.placed(data[role])) for member in members]
    means = _means(group, members, wanted.filtered)
    own = [one if isinstance(one, Metric) else _named(one, group, means) for one in asked or means]
    pooled = [one if isinstance(one, Metric) else _pooled(group, one, built, wanted.filtered) for one in own]
    parts = tuple(one for one in pooled if isinstance(one, _Pooled))
    first = [one.whole if isinstance(one, _Pooled) else one for one in pooled]
    places = {_files(members, files): tuple(m.placed(files) for m in members) for files in data.values()}
    facts = {"kind": "lm_eval", "group": group.digest, "members": [member.facts for member in members]}
    return Together(members, (*first, *(m for one in parts for m in one.within)), facts, parts, places)


@dataclass(frozen=True, eq=False)
class Together:
    """A group of tasks.

    Columns: those of its tasks, their rows one after another, and ``member``, the number of the task. What a task
    lacks, or has in fewer numbers than others, is NaN. Figures: those of the group, then ``NAME/metric`` of each group
    in it and of each of its tasks, which is what the task has alone, with the same interval. In resamples of the group
    each task has as many documents as it has.

    Args:
        places: Files in a row → those of each member.
    """

    members: tuple[Harness, ...]
    metrics: tuple[Metric, ...]
    facts: Mapping[str, Any]
    parts: tuple[_Pooled, ...] = field(repr=False)
    places: Mapping[Files, tuple[Files, ...]] = field(repr=False)

    def placed(self, files: Files) -> Files:
        """The files that ``files``, of a suite, are for the tasks, each once, in order."""
        return _files(self.members, files)

    def examples(self, files: Files) -> list[bytes]:
        """As of the tasks, one after another."""
        return [one for member, own in self._own(files) for one in member.examples(own)]

    def predict(self, model: Opened, files: Files) -> Predictions:
        """See the class."""
        found = []
        for number, (member, own) in enumerate(self._own(files)):
            with _naming(member.builder.name):
                found.append(member.predict(model, own))
                for part in self.parts:
                    part.leaves[number].values(found[-1])
        sizes = [len(one[EXAMPLE]) for one in found]
        names = dict.fromkeys(name for one in found for name in one if name != EXAMPLE)
        told = {
            EXAMPLE: np.concatenate([one[EXAMPLE] for one in found]),
            MEMBER: np.repeat(np.arange(len(found)), sizes),
        }
        return {**told, **{name: _joined([one.get(name) for one in found], sizes) for name in names}}

    def _own(self, files: Files) -> Iterator[tuple[Harness, Files]]:
        if files not in self.places:
            raise RecipeError(Problem(f"not the data of this group: {', '.join(map(str, files))}"))
        return zip(self.members, self.places[files], strict=True)


def _files(members: Sequence[Harness], files: Files) -> Files:
    """What ``files`` are for all ``members``, each once."""
    return tuple(dict.fromkeys(path for member in members for path in member.placed(files)))


@dataclass(frozen=True)
class _Pooled:
    """One metric of the tasks of a group.

    Args:
        whole: The group's figure.
        within: Those of groups in it, and of its tasks.
        leaves: The metric of each task alone.
    """

    whole: Metric
    within: tuple[Metric, ...]
    leaves: tuple[Metric, ...]


def _pooled(group: Group, mean: Mean, built: Sequence[Any], wanted: str | None) -> _Pooled:
    """The figures of ``mean``; ``built`` are the tasks of lm-eval."""
    filters = {task.name: filter_of(one, wanted or next(iter(mean.filters), None)) for task, one in _both(group, built)}
    if len(set(filters.values())) > 1:
        told = ", ".join(f"{name} {one}" for name, one in filters.items())
        fix = "filter: NAME, which all of them have"
        raise RecipeError(Problem(f"the tasks of {group.name} have other filters first: {told}", fix=fix))
    filtered = next(iter(filters.values()))
    leaves = [measures((mean.metric,), one, filtered)[0] for one in built]
    if len({leaf.better for leaf in leaves}) > 1:
        raise RecipeError(Problem(f"{mean.metric} is better higher in some tasks of {group.name}, lower in others"))
    parts = {
        task.name: Part(number, width_of(mean.metric, one), leaves[number].figure)
        for number, (task, one) in enumerate(_both(group, built))
    }

    def metric(names: Sequence[str], *, by_size: bool, of: str = "") -> Metric:
        rows = partial(_rows, column(mean.metric, filtered))
        strata = Strata(tuple(parts[name] for name in names), by_size)
        name = f"{of}/{mean.metric}" if of else mean.metric
        return Metric(name, leaves[0].better, rows, strata, of)

    inner = [
        metric([task.name for task in one.tasks], by_size=own.by_size, of=one.name)
        for one in group.groups
        for own in one.means
        if own.metric == mean.metric and filtered in (own.filters or (filtered,))
    ]
    alone = [metric([name], by_size=True, of=name) for name in parts]
    return _Pooled(metric([*parts], by_size=mean.by_size), (*inner, *alone), tuple(leaves))


def _both(group: Group, built: Sequence[Any]) -> Iterator[tuple[Definition, Any]]:
    return zip(group.tasks, built, strict=True)


def _rows(name: str, predictions: Predictions) -> npt.NDArray[Any]:
    """The number of the task, and what ``name`` is made of."""
    return np.column_stack([predictions[MEMBER], predictions[name]])


def _means(group: Group, members: Sequence[Harness], wanted: str | None) -> dict[str, Mean]:
    """Metric → figure of ``group``; where lm-eval has none, means over its tasks of what all of them have."""
    if group.means:
        own = [mean for mean in group.means if wanted is None or wanted in (mean.filters or (wanted,))]
        found = {mean.metric: mean for mean in reversed(own)}  # the first of a metric's
        if not found:
            raise RecipeError(Problem(f"the group {group.name} has no figure of the filter {wanted!r}"))
        return dict(reversed(found.items()))
    names = [[metric.name for metric in member.metrics] for member in members]
    common = [name for name in names[0] if all(name in own for own in names)]
    if not common:
        raise RecipeError(Problem(f"the tasks of {group.name} have no metric in common", fix="name them one by one"))
    return {name: Mean(name, by_size=False) for name in common}


def _named(name: str, group: Group, means: Mapping[str, Mean]) -> Mean:
    if name in means:
        return means[name]
    near = nearest(name, means)
    fix = f"did you mean {near}?" if near else f"it has: {', '.join(means)}"
    raise RecipeError(Problem(f"the group {group.name} has no figure {name!r}", fix=fix))


def _joined(parts: Sequence[npt.NDArray[Any] | None], sizes: Sequence[int]) -> npt.NDArray[np.float64]:
    """One column of all ``parts``, NaN where there is nothing."""
    width = max(1 if part is None or part.ndim == 1 else part.shape[1] for part in parts)
    found = np.full((sum(sizes), width), np.nan)
    for part, size, end in zip(parts, sizes, np.cumsum(sizes), strict=True):
        if part is not None:
            own = part.reshape(size, -1)
            found[end - size : end, : own.shape[1]] = own
    return found[:, 0] if width == 1 else found


@contextmanager
def _naming(task: str) -> Iterator[None]:
    """Whatever goes wrong is said to be of ``task``."""
    try:
        yield
    except StockpotError as error:
        raise type(error)(*(replace(p, message=f"{task}: {p.message}") for p in error.problems)) from error
    except Exception as error:
        raise ExecutionError(Problem(f"{task}: {type(error).__name__}: {error}")) from error
