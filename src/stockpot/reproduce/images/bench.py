"""Where a claim works: its models as folders, its data as suites, and figures read from results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from stockpot.errors import ExecutionError, Problem
from stockpot.evaluate import Candidate, Result, Suite, candidate, load_suite
from stockpot.evaluate.neural import need
from stockpot.reproduce.claim import Setting

if TYPE_CHECKING:
    from stockpot.demo.data import Split
    from stockpot.demo.network import Parameters
    from stockpot.reproduce.images.lab import Lab
    from stockpot.reproduce.images.pictures import Task

__all__ = ["Bench", "mean_percent", "percent"]

_HEAD = "# what the claim is measured on; figures need no intervals here\nseed: 0\nresamples: 20\ntasks:\n"


class Bench:
    """A bed and the folder that a claim may write to.

    Args:
        bed: Name of one of the beds.
        setting: What the claim is measured with.

    Raises:
        UnsupportedError: when a package is missing that the bed needs.
    """

    def __init__(self, bed: str, setting: Setting) -> None:
        need("scipy", "sklearn", "safetensors", *(() if bed == "digits" else ("torch",)))
        from stockpot.reproduce.images.lab import lab_of

        self.lab: Lab = lab_of(bed, setting)
        self._setting = setting

    def model(self, name: str, theta: Parameters) -> Candidate:
        """A model, written to a folder of its name."""
        from stockpot.demo.runs import save_model

        folder = self.folder_of(name)
        save_model(theta, folder, {"model_type": self.lab.network.predict})
        return candidate(folder, name=name, threads=1)

    def folder_of(self, name: str) -> Path:
        """Where a model of that name is written."""
        return self._setting.folder / "models" / name.replace(" ", "-")

    def models(self, given: Mapping[str, Parameters]) -> list[Candidate]:
        """Models, by name."""
        return [self.model(name, theta) for name, theta in given.items()]

    def shifts(self) -> Suite:
        """``clean``, and a task for each shift of the bed."""
        from stockpot.reproduce.images.pictures import shifted

        own, seed = self.lab.pictures, self.lab.seed
        select, report = shifted(own.select, own.shifts, 2 * seed), shifted(own.report, own.shifts, 2 * seed + 1)
        return self.suite({name: {"select": select[name], "report": report[name]} for name in report})

    def suite(self, tasks: Mapping[str, Mapping[str, Split]], firsts: Mapping[str, int] | None = None) -> Suite:
        """A suite of classification tasks.

        Args:
            tasks: Name → role → images and labels.
            firsts: Name → the number of the task's first output, where each task has ten of its own.
        """
        folder = self._setting.folder / "suite"
        folder.mkdir(parents=True, exist_ok=True)
        lines = [_HEAD]
        for name, roles in tasks.items():
            predict = self.lab.network.predict if firsts is None else f"outputs:{name}"
            lines.append(f"  {name}:\n    kind: classification\n    predict: {predict}\n    split:\n")
            for role, split in roles.items():
                file = f"{name.replace(' ', '-')}-{role}.npz"
                np.savez(folder / file, inputs=split.images, labels=split.labels)
                lines.append(f"      {role}: {file}\n")
        (folder / "suite.yml").write_text("".join(lines), encoding="utf-8")
        if firsts is not None:
            (folder / "outputs.py").write_text(_outputs(self.lab.network.predict, firsts), encoding="utf-8")
        return load_suite(folder / "suite.yml", allow_code=True)

    def tasks(self, data_of: Callable[[Task], Mapping[str, Split]] | None = None) -> Suite:
        """The bed's several tasks.

        Args:
            data_of: A task → role → images and labels; by default those of ``select`` and ``report``.
        """
        own, given = self.lab.tasks, data_of or (lambda task: {"select": task.select, "report": task.report})
        one_head = len({task.first for task in own.values()}) == 1
        data = {name: given(task) for name, task in own.items()}
        return self.suite(data, None if one_head else {name: task.first for name, task in own.items()})


def percent(result: Result, model: str, task: str) -> float:
    """The ranking figure of a cell, of 100.

    Raises:
        ExecutionError: when it failed.
    """
    cell = result.cell(model, task)
    if not cell.figures:
        raise ExecutionError(Problem(f"{model} could not be measured on {task}: {cell.error}"))
    return 100 * cell.figures[0].value


def mean_percent(result: Result, model: str, tasks: Iterable[str]) -> float:
    """The mean of :func:`percent` over tasks."""
    return fmean(percent(result, model, task) for task in tasks)


def _outputs(predict: str, firsts: Mapping[str, int]) -> str:
    """A module with a function for each task, which takes the task's ten outputs."""
    module, _, function = predict.partition(":")
    lines = [f"from {module} import {function}\n"]
    for name, first in firsts.items():
        lines.append(
            f"\n\ndef {name}(tensors, inputs):\n    return {function}(tensors, inputs)[:, {first} : {first + 10}]\n"
        )
    return "".join(lines)
