"""What a line of a suite means: a task of lm-eval, or a group of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stockpot.evaluate.harness.backends import Wanted, check_settings
from stockpot.evaluate.harness.groups import Group, found_in
from stockpot.evaluate.harness.task import Harness, single
from stockpot.evaluate.harness.together import Together, together
from stockpot.evaluate.neural import need
from stockpot.evaluate.protocol import Files, Metric, Task

__all__ = ["harness_task", "placed_by"]

_PACKAGES = ("lm_eval", "datasets", "torch", "transformers", "accelerate")


def harness_task(
    task: str,
    folder: Path,
    wanted: Wanted,
    data: Mapping[str, Files],
    asked: Sequence[Metric | str],
    *,
    allowed: bool = False,
) -> Harness | Together:
    """The task or group called ``task``, ready to be run on ``data``.

    Args:
        folder: That the path of a task is relative to.
        data: Role → files or the split that is named; few-shot examples are those of ``train``.
        asked: Metrics, the task's own by name; all of the task's where there are none.
        allowed: Whether code that a task's file names may run.

    Raises:
        StockpotError: says what is wrong with task, data or metrics.
    """
    need(*_PACKAGES, extra="lm-eval")
    check_settings(wanted.settings, wanted.backend)
    found = found_in(task, folder, allowed=allowed)
    if isinstance(found, Group):
        return together(found, wanted, data, asked, allowed=allowed)
    return single(found, wanted, data, asked, allowed=allowed)


def placed_by(task: Task, files: Files) -> Files:
    """The files that ``files``, of a suite, are for a task of this kind."""
    assert isinstance(task, Harness | Together)
    return task.placed(files)
