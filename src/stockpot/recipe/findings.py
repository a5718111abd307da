"""What is found while a recipe is read: problems, notes, and features that this version lacks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from stockpot.errors import Problem, RecipeError, UnsupportedError

__all__ = ["Findings", "in_order"]


@dataclass
class Findings:
    """Collects; the only mutable value of this room. All is looked at before anything is raised.

    Args:
        file: Path of the recipe, for errors; None for text.
        lenient: Unknown keys and parameters become notes instead of problems.
        within: What is read, as errors call it.
    """

    file: str | None = None
    lenient: bool = False
    problems: dict[Problem, None] = field(default_factory=dict)
    notes: dict[Problem, None] = field(default_factory=dict)
    unsupported: dict[Problem, None] = field(default_factory=dict)
    blocked: bool = False
    within: str = "recipe"

    def problem(self, message: str, line: int | None, fix: str | None = None) -> None:
        """Something that must be mended."""
        self._add(self.problems, Problem(message, line=line, fix=fix))

    def unknown(self, message: str, line: int | None, fix: str | None = None) -> None:
        """An unknown key or parameter: a problem, or a note when the reading is lenient."""
        self._add(self.notes if self.lenient else self.problems, Problem(message, line=line, fix=fix))

    def note(self, message: str, line: int | None, fix: str | None = None) -> None:
        """Something worth telling that changes nothing."""
        self._add(self.notes, Problem(message, line=line, fix=fix))

    def not_yet(self, message: str, line: int | None, fix: str | None = None, *, blocks: bool = True) -> None:
        """A feature that is missing; ``blocks`` when no expression can be built without it."""
        self.blocked = self.blocked or blocks
        self._add(self.unsupported, Problem(message, line=line, fix=fix))

    def adopt(self, problems: Iterable[Problem]) -> None:
        """Problems of an expression; one that was found in another slice is not repeated."""
        told = {(p.message, p.fix) for p in self.problems}
        for problem in problems:
            if (problem.message, problem.fix) not in told:
                self._add(self.problems, problem)

    def raise_if_any(self) -> None:
        """Raise all problems at once, in the order of their lines.

        Raises:
            RecipeError: when something must be mended (missing features are named with it).
            UnsupportedError: when only missing features stand in the way.
        """
        if self.problems:
            raise RecipeError(*in_order([*self.problems, *self.unsupported]))
        if self.blocked:
            raise UnsupportedError(*in_order(self.unsupported))

    def _add(self, to: dict[Problem, None], problem: Problem) -> None:
        """Each problem once, in the order found: a dict is an ordered set."""
        to[replace(problem, file=self.file, within=self.within)] = None


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """``problems`` by line; those without one come last."""
    return sorted(problems, key=lambda p: (p.line is None, p.line or 0))
