"""Evaluating what is searched over: choices on one role of the data, what is told in the end on another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Self

from stockpot.evaluate.cache import Cache
from stockpot.evaluate.candidates import Candidate
from stockpot.evaluate.ensemble import Ensemble
from stockpot.evaluate.results import Cell, Result
from stockpot.evaluate.run import evaluate
from stockpot.evaluate.suite import Suite

__all__ = ["Judge", "Tell"]

Tell = Callable[[Cell], None]


@dataclass(frozen=True)
class Judge:
    """A suite, and how models are evaluated on it; see :func:`stockpot.evaluate.evaluate`.

    Args:
        choosing: What figures on any data but that of the report choose; None when they choose nothing.
    """

    suite: Suite
    cache: Cache
    device: str | None
    tell: Tell | None
    choosing: str | None

    @classmethod
    @contextmanager
    def of(
        cls, suite: Suite, cache: Cache | None, device: str | None, tell: Tell | None, choosing: str | None
    ) -> Iterator[Self]:
        """One that keeps predictions while it is used, when ``cache`` does not keep them longer."""
        with nullcontext(cache) if cache is not None else Cache(None) as kept:
            yield cls(suite, kept, device, tell, choosing)

    def chosen(
        self, models: Sequence[Candidate], suite: Suite, split: str, ensembles: Sequence[Ensemble] = ()
    ) -> Result:
        """On the data that choices are made with."""
        found = evaluate(
            models,
            suite,
            split=split,
            cache=self.cache,
            device=self.device,
            choosing=self.choosing,
            ensembles=ensembles,
            tell=self.tell,
        )
        return replace(found, triples=())

    def report(
        self, models: Sequence[Candidate], ensembles: Sequence[Ensemble] = (), *, compared: bool = False
    ) -> Result | None:
        """On report data; None when the suite has none.

        Args:
            compared: Whether the first model is the base of the others and the last one a merge of them, so that they
                are worth comparing example by example.
        """
        if not any("report" in task.data for task in self.suite.tasks):
            return None
        found = evaluate(models, self.suite, cache=self.cache, device=self.device, ensembles=ensembles, tell=self.tell)
        return found if compared else replace(found, triples=())
