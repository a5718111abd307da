"""Whether the roles of a suite hold different data, and where the same stands when they do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from stockpot.errors import StockpotError
from stockpot.evaluate.examples import read_text
from stockpot.evaluate.protocol import Files, Task, is_named
from stockpot.recipe.findings import Findings

if TYPE_CHECKING:
    from stockpot.evaluate.suite import SuiteTask

__all__ = ["apart", "line_of"]

_TOLERATED = 0.01
"""Share of the smaller of two splits that may occur in the other: real data holds the same short text twice."""
_SHOWN = 60


@dataclass(frozen=True)
class _Data:
    """The data of a task in one role."""

    name: str
    role: str
    task: Task
    files: Files
    examples: frozenset[bytes]

    def __str__(self) -> str:
        return f"{self.name}'s {self.role} data"


def apart(tasks: tuple[SuiteTask, ...], findings: Findings, *, same_data: bool) -> tuple[SuiteTask, ...]:
    """The tasks, those that report on data of another role marked where that is allowed, else reported."""
    reused: dict[str, set[str]] = {task.name: set() for task in tasks}
    for one, other in _pairs(tasks):
        common = one.examples & other.examples
        if not common:
            continue
        share = len(common) / min(len(one.examples), len(other.examples))
        told = f"{len(common)} examples of {one} ({100 * share:.3g} %) are in {other}"
        if share < _TOLERATED:
            findings.note(f"{told}, which is tolerated", None)
        elif same_data:
            findings.note(f"{told}; figures on both are marked", None)
            reused[one.name].add(one.role)
            reused[other.name].add(other.role)
        else:
            fix = "take other examples, or allow it: --same-data (in Python: same_data=True)"
            place = line_of(one.task, one.files, common)
            where = "" if place is None else f"; the first of them ends at {place}"
            findings.problem(f"{told}: one piece of data in two roles{where}", None, fix)
    return tuple(replace(task, reused=frozenset(reused[task.name])) for task in tasks)


def _pairs(tasks: tuple[SuiteTask, ...]) -> Iterator[tuple[_Data, _Data]]:
    """Data of different roles, what a task is fitted on being a role of its own."""
    used = [(t, {**t.data, **({"train": t.fitted} if t.fitted else {})}) for t in tasks]
    sets = [_Data(t.name, r, t.task, f, frozenset(t.task.examples(f))) for t, data in used for r, f in data.items()]
    for i, one in enumerate(sets):
        yield from ((one, other) for other in sets[i + 1 :] if one.role != other.role)


def line_of(task: Task, files: Files, wanted: frozenset[bytes]) -> str | None:
    """Where the first of ``wanted`` examples ends: ``one.txt, line 3: its words``; None in data that has no lines.

    The shortest beginning of a file that holds one is found by halving, with what the task itself takes for examples.
    """
    with TemporaryDirectory(prefix="stockpot-") as folder:
        for path in (path for path in files if not is_named(path) and path.suffix not in (".npz", ".parquet")):
            try:
                lines = read_text(path).split("\n")
                number = _first(task, lines, wanted, Path(folder) / f"part{path.suffix}")
            except (StockpotError, OSError):
                continue
            if number is not None:
                words = lines[number - 1].strip()
                cut = words if len(words) <= _SHOWN else f"{words[:_SHOWN]}…"
                return f"line {number} of {path}: {cut}"
    return None


def _first(task: Task, lines: list[str], wanted: frozenset[bytes], part: Path) -> int | None:
    """The least number of ``lines`` that hold one of ``wanted``; None where all of them hold none."""

    def holds(count: int) -> bool:
        part.write_text("\n".join(lines[:count]), encoding="utf-8", newline="")
        try:
            return not wanted.isdisjoint(task.examples((part,)))
        except StockpotError:  # as of a beginning without examples
            return False

    low, high = 0, len(lines)
    if not holds(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
