"""Every exception that Stockpot raises on purpose.

::

    StockpotError
    ├── RecipeError        the recipe's text is wrong (exit code 3)
    ├── ExpressionError    spaces, arity or parameters do not fit (exit code 3)
    ├── CheckpointError    a file is missing, broken or not what it says (exit code 4)
    ├── PlanError          inputs do not fit each other, or the output cannot be written (exit code 5)
    ├── ExecutionError     the merge failed while running, e.g. a NaN weight (exit code 6)
    │   └── StorageError   a file could not be read or written then, e.g. a full disk: it can be continued
    └── UnsupportedError   understood, but not available in this version (exit code 7)

An error carries one or more :class:`Problem`; each names what is known (tensor, file, recipe line) and
the fix. Nothing else is ever raised for bad input; anything else that escapes is a bug.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stockpot.printable import printable, redacted

__all__ = [
    "CheckpointError",
    "ExecutionError",
    "ExpressionError",
    "PlanError",
    "Problem",
    "RecipeError",
    "StockpotError",
    "StorageError",
    "UnsupportedError",
]


_LONGEST_NAME = 500
_LONGEST_PATH = 5000
_LONGEST_MESSAGE = 20_000


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, with everything known about where it is and how to mend it.

    ``line`` is one of the user's text, a recipe or what ``within`` says. Fields hold names as they are in files; as
    text, control characters are written out, secrets are hidden and what is very long is cut, so that it can be printed
    anywhere.
    """

    message: str
    tensor: str | None = None
    file: str | None = None
    line: int | None = None
    fix: str | None = None
    within: str = "recipe"

    def __str__(self) -> str:
        places = []
        if self.tensor is not None:
            places.append(f"tensor {_name(self.tensor, _LONGEST_NAME)}")
        if self.file is not None:
            places.append(f"file {_name(self.file, _LONGEST_PATH)}")
        if self.line is not None:
            places.append(f"{self.within} line {self.line}")
        text = _cut(self.message, _LONGEST_MESSAGE)
        if places:
            text += f" [{', '.join(places)}]"
        if self.fix is not None:
            text += f"\n  fix: {_cut(self.fix, _LONGEST_MESSAGE)}"
        return printable(redacted(text))


def _name(text: str, longest: int) -> str:
    """A name on one line: one that holds line ends could pass for a message of ours."""
    return printable(_cut(text, longest), lines=False)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"


class StockpotError(Exception):
    """Root of the tree. ``problems`` holds everything that was found, in order."""

    exit_code = 1

    def __init__(self, *problems: Problem | str) -> None:
        self.problems: tuple[Problem, ...] = tuple(p if isinstance(p, Problem) else Problem(p) for p in problems)
        super().__init__("\n".join(str(p) for p in self.problems))

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> StockpotError:
        """One error that holds all ``problems``."""
        return cls(*problems)


class RecipeError(StockpotError):
    """The recipe's text is wrong."""

    exit_code = 3


class ExpressionError(StockpotError):
    """Spaces, arity or parameters of an expression do not fit."""

    exit_code = 3


class CheckpointError(StockpotError):
    """A checkpoint is missing, broken or not what it says it is."""

    exit_code = 4


class PlanError(StockpotError):
    """The inputs do not fit each other, or the output cannot be written."""

    exit_code = 5


class ExecutionError(StockpotError):
    """The merge failed while it was running."""

    exit_code = 6


class StorageError(ExecutionError):
    """A file could not be read or written during the merge; what was finished is kept, and can be continued."""


class UnsupportedError(StockpotError):
    """Understood, but not available in this version."""

    exit_code = 7
