"""Learned soups: shares of models, or of each of their tensors, by gradients of a loss (Wortsman et al., 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from stockpot.errors import ExecutionError, Problem, RecipeError, UnsupportedError
from stockpot.evaluate.candidates import Candidate
from stockpot.evaluate.gradients import LiveModel
from stockpot.evaluate.protocol import Differentiable, Lessons
from stockpot.evaluate.run import naming
from stockpot.evaluate.suite import Suite
from stockpot.recipe.model import Recipe
from stockpot.search.judge import Judge
from stockpot.search.mixing.ingredients import Ingredients
from stockpot.search.mixing.losses import fitting, with_loss
from stockpot.search.mixing.shares import Adam, for_logits, softmax
from stockpot.search.objective import Objective
from stockpot.search.recipes import mixture_of

__all__ = ["Epoch", "Learned", "Learning", "Per", "learn"]

Floats = npt.NDArray[np.float64]
Per: TypeAlias = Literal["model", "tensor"]

_SEEDS = 1 << 64


@dataclass(frozen=True)
class Learning:
    """How shares are learned; what is not said is as in the paper's code.

    Args:
        per: Whether each model has one share, or one for each tensor.
        epochs: How often all examples are seen.
        rate: Of Adam, for logits that begin at 0; there is no weight decay.
        batch: Examples of each task in a step. A step reads every model twice.
        seed: Key of the order of examples.
        fit: The role of the data whose loss is minimised, ``tune`` or ``select``.
    """

    per: Per = "model"
    epochs: int = 5
    rate: float = 0.05
    batch: int = 32
    seed: int = 0
    fit: Literal["tune", "select"] = "tune"

    def __post_init__(self) -> None:
        good = self.epochs >= 1 and self.batch >= 1 and 0 < self.rate < math.inf and self.per in ("model", "tensor")
        if not good or self.fit not in ("tune", "select"):
            fix = "per: model or tensor; epochs and batch from 1 on; rate above 0; fit: tune or select"
            raise RecipeError(Problem(f"shares cannot be learned so: {self}", fix=fix))


@dataclass(frozen=True)
class Epoch:
    """The soup after an epoch, or before the first.

    Args:
        loss: On the data that is fitted; None where it failed.
        value: Of the objective on select data; None where it failed.
        scale: The factor of the logits by then; it is no part of the soup.
    """

    loss: float | None
    value: float | None
    scale: float | None


@dataclass(frozen=True)
class Learned:
    """What was learned.

    Args:
        how: As it was asked for.
        models: Names, in the order of the shares.
        shares: Of each model; with shares by tensor, their mean over elements.
        tensors: Tensor → the share of each model; empty with one share a model.
        epochs: The first is the uniform soup.
        chosen: Which of them the soup is.
    """

    how: Learning
    models: tuple[str, ...]
    shares: tuple[float, ...]
    tensors: Mapping[str, tuple[float, ...]]
    epochs: tuple[Epoch, ...]
    chosen: int

    def as_data(self) -> dict[str, Any]:
        """Everything as JSON data."""
        return {
            "how": asdict(self.how),
            "shares": dict(zip(self.models, self.shares, strict=True)),
            "tensors": {name: dict(zip(self.models, own, strict=True)) for name, own in self.tensors.items()},
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "chosen": self.chosen,
        }


def learn(members: Sequence[Candidate], objective: Objective, judge: Judge, how: Learning) -> tuple[Recipe, Learned]:
    """The soup of ``members`` whose loss is least, and how it was found.

    After each epoch the soup, as its recipe gives it, is measured on select data; the best of them and of the uniform
    one that all begins with is taken, of equal ones the last. So it never scores below the uniform soup there.

    Args:
        members: At least two; the first gives config, small files and integers.
        objective: What epochs are chosen by; the losses of its tasks are what is minimised, on the mean.

    Raises:
        RecipeError: when a task has no data to fit with.
        UnsupportedError: when a task cannot be differentiated.
        ExecutionError: when a loss is not finite, or no epoch could be measured, or there is one model.
    """
    suite = fitting(judge.suite, objective, how.fit)
    if len(members) < 2:
        raise ExecutionError(Problem(f"shares are of two models or more, and only {members[0].name} could be measured"))
    fit = _Fit(members, suite, how, judge.device)
    found = [_measured(fit, 0, objective, judge)]
    for number in range(1, how.epochs + 1):
        fit.epoch(number)
        found.append(_measured(fit, number, objective, judge))
    chosen = max(range(len(found)), key=lambda i: (found[i].score, i))
    best = found[chosen]
    if best.score == -math.inf:
        raise ExecutionError(Problem("the soup could be measured after no epoch", fix=best.error))
    tensors, mean = fit.told(best.shares)
    epochs = tuple(one.epoch for one in found)
    return best.recipe, Learned(how, tuple(m.name for m in members), mean, tensors, epochs, chosen)


@dataclass(frozen=True)
class _Measured:
    """The soup after an epoch: its shares ``(tensors, models)``, and its score, more being better."""

    shares: Floats
    recipe: Recipe
    epoch: Epoch
    score: float
    error: str | None


def _measured(fit: _Fit, number: int, objective: Objective, judge: Judge) -> _Measured:
    """The soup as it is now, by its recipe."""
    shares, name = fit.shares, f"epoch {number}"
    fit.release()  # room for what is measured
    recipe = mixture_of(fit.ingredients.members, fit.written(shares))
    row = Candidate(name, recipe, name, fit.ingredients.members[0].limits)
    select = judge.chosen([row], objective.within(judge.suite), "select")
    suite, loss = with_loss(fit.suite)
    losses = judge.chosen([row], suite, fit.how.fit)
    epoch = Epoch(loss.value(losses, name), objective.value(select, name), fit.scale)
    error = select.failed[0].error if select.failed else None
    return _Measured(shares, recipe, epoch, objective.score(select, name), error)


class _Fit:
    """Logits of shares, and their gradient: one model in memory, whatever their number."""

    def __init__(self, members: Sequence[Candidate], suite: Suite, how: Learning, device: str | None) -> None:
        self.suite, self.how = suite, how
        self._tasks = [(task.name, _learnable(task.name, task.task)) for task in suite.tasks]
        self.ingredients = Ingredients(members)
        rows = len(self.ingredients.names) if how.per == "tensor" else 1
        self._logits = np.zeros((rows, len(members)))
        self._live = LiveModel(members[0].opened(device), self.ingredients.dtype)
        self._live.fill(self.ingredients.mean(self.shares))
        self._lessons: list[tuple[str, Lessons]] = []
        for task, (name, kind) in zip(suite.tasks, self._tasks, strict=True):
            with naming(f"learning from the task {name}"):
                self._lessons.append((name, kind.lessons(self._live, task.data[how.fit])))
        self._scale = 1.0 if any(lessons.scaled for _, lessons in self._lessons) else None
        self._shares_adam, self._scale_adam = Adam(how.rate), Adam(how.rate)

    @property
    def shares(self) -> Floats:
        """``(tensors, models)``; with one share a model, all rows are equal."""
        return np.broadcast_to(softmax(self._logits), (len(self.ingredients.names), self._logits.shape[1]))

    @property
    def scale(self) -> float | None:
        """The factor of the logits of classes; None where no task has them."""
        return self._scale

    def written(self, shares: Floats) -> Sequence[float] | Sequence[Mapping[str, float]]:
        """Shares as recipes have them: of each model, or of each model by tensor."""
        if self.how.per == "model":
            return [float(share) for share in shares[0]]
        names = self.ingredients.names
        return [dict(zip(names, map(float, column), strict=True)) for column in shares.T]

    def told(self, shares: Floats) -> tuple[dict[str, tuple[float, ...]], tuple[float, ...]]:
        """Shares by tensor (none with one share a model), and of each model: the mean over elements."""
        if self.how.per == "model":
            return {}, tuple(map(float, shares[0]))
        names, sizes = self.ingredients.names, self.ingredients.sizes
        mean = np.average(shares, axis=0, weights=[sizes[name] for name in names])
        by_tensor = {name: tuple(map(float, row)) for name, row in zip(names, shares, strict=True)}
        return by_tensor, tuple(map(float, mean))

    def epoch(self, number: int) -> None:
        """One step for each batch of examples, in an order of its own."""
        for step, batch in enumerate(self._batches(number), 1):
            where = f"in step {step} of epoch {number}"
            loss, products, scale = self.gradient(batch)
            self._check(loss, products, where)
            self._logits = self._shares_adam.step(self._logits, for_logits(softmax(self._logits), products))
            if self._scale is not None:
                self._scale = float(self._scale_adam.step(np.array(self._scale), np.array(scale)))

    def release(self) -> None:
        """Let go of the model in memory until there is another step."""
        self._live.clear()

    def gradient(self, batch: Sequence[Sequence[int]]) -> tuple[float, Floats, float]:
        """The mean loss over tasks, its gradient by shares ``(1 or tensors, models)``, and by the factor.

        Args:
            batch: The places of examples, task by task.
        """
        self._live.clear()
        self._live.fill(self.ingredients.mean(self.shares))
        factor = None if self._scale is None else self._live.factor(self._scale)
        loss = 0.0
        for (name, lessons), places in zip(self._lessons, batch, strict=True):
            with naming(f"learning from the task {name}"):
                for part in lessons.parts(places, factor):
                    own = part / len(self._lessons)
                    own.backward()
                    loss += float(own.detach())
        products = self.ingredients.products(self._live.gradients())
        if self.how.per == "model":
            products = products.sum(axis=0, keepdims=True)
        slope = 0.0 if factor is None or factor.grad is None else float(factor.grad)
        return loss, products, slope

    def _batches(self, epoch: int) -> Iterator[list[list[int]]]:
        """For each step, places of examples of each task: each is seen, twice only where another task has more."""
        counts = [lessons.count for _, lessons in self._lessons]
        steps = max(-(-count // self.how.batch) for count in counts)
        orders = []
        for task, count in enumerate(counts):
            order = np.random.default_rng([self.how.seed % _SEEDS, epoch, task]).permutation(count)
            orders.append(np.array_split(np.resize(order, max(count, steps)), steps))
        for step in range(steps):
            yield [[int(place) for place in order[step]] for order in orders]

    def _check(self, loss: float, products: Floats, where: str) -> None:
        """Raise when something is no number, naming the models that are the cause where that can be told."""
        names = [member.name for member in self.ingredients.members]
        shares = ", ".join(
            f"{name} {share:.3g}" for name, share in zip(names, softmax(self._logits).mean(axis=0), strict=True)
        )
        fix = "a smaller rate, or without the model that diverged"
        if not math.isfinite(loss):
            raise ExecutionError(Problem(f"the loss is {loss} {where}, of a soup with the shares {shares}", fix=fix))
        wrong = [name for name, column in zip(names, products.T, strict=True) if not np.isfinite(column).all()]
        if wrong:
            raise ExecutionError(
                Problem(f"the gradient of the share of {', '.join(wrong)} is not finite {where}", fix=fix)
            )


def _learnable(name: str, task: Any) -> Differentiable:
    if not isinstance(task, Differentiable):
        fix = "tasks of the kinds classification, perplexity and choice can be; or a task of yours with lessons()"
        raise UnsupportedError(Problem(f"the task {name} cannot be differentiated", fix=fix))
    return task
