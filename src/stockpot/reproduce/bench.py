"""Where a claim works: its models as folders, its data as suites, and figures read from results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

import stockpot as sp
from stockpot.errors import ExecutionError, Problem
from stockpot.evaluate import Candidate, Result, Suite, candidate, load_suite
from stockpot.evaluate.results import Figure

__all__ = [
    "Diverse",
    "Forgetting",
    "Negated",
    "Shifted",
    "Tasked",
    "Workplace",
    "Written",
    "classified",
    "figure",
    "kept",
    "mean_percent",
    "percent",
    "read",
    "run_by",
]

_HEAD = "# what the claim is measured on; figures need no intervals here\nseed: 0\nresamples: 20\ntasks:\n"


class Shifted(Protocol):
    """A bed with one task at home and under shift, a start, and fine-tunes of it."""

    def shifts(self) -> Suite:
        """The task at home, with select data, and the same under each shift."""

    def ends(self) -> tuple[Candidate, Candidate]:
        """The start, and its ordinary fine-tune."""

    def fine_tunes(self) -> list[Candidate]:
        """Fine-tunes with different settings, the last of which diverged."""


class Tasked(Protocol):
    """A bed with several tasks that one model can learn."""

    def tasks(self) -> Suite:
        """All of them, each with select data."""

    def specialists(self) -> list[Candidate]:
        """The base, and the fine-tune of it on each task, called as the task."""

    def together(self) -> Candidate:
        """A fine-tune of the base on all tasks at once."""


class Diverse(Protocol):
    """A bed with one task in several domains, some of which no model is trained on."""

    def domains(self) -> Suite:
        """The task on the domains that runs are trained on, with select data, and on each domain left out."""

    def diverse(self) -> list[Candidate]:
        """Runs with mild settings, from one start whose head was trained first."""

    def recycled(self) -> list[Candidate]:
        """The same runs, in turn from that start and from fine-tunes of it on something else."""


@dataclass(frozen=True)
class Forgetting:
    """What is to be forgotten, and how.

    Args:
        suite: Has a task for the target, and one for the control.
        base, tuned: The model, and its fine-tune on the target.
        target, control: Names of tasks.
        keep: Share of the base's control that is kept on select data.
        values: Lambdas that are tried.
    """

    suite: Suite
    base: Candidate
    tuned: Candidate
    target: str
    control: str
    keep: float
    values: tuple[float, ...]


class Negated(Protocol):
    """A bed with something to forget."""

    def forgetting(self) -> Forgetting:
        """What that is."""


@dataclass(frozen=True)
class Written:
    """A task of a suite, to be written.

    Args:
        keys: As the suite has them.
        ending: Of the names of its files.
        files: Role → what writes its data to a path.
    """

    keys: Mapping[str, Any]
    ending: str
    files: Mapping[str, Callable[[Path], object]]


def classified(predict: str, roles: Mapping[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]], **keys: Any) -> Written:
    """A classification task.

    Args:
        predict: ``module:function``.
        roles: Role → inputs and labels.
        keys: Further keys of the task.
    """

    def writer(inputs: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Callable[[Path], object]:
        return lambda path: np.savez(path, inputs=inputs, labels=labels)

    files = {role: writer(*data) for role, data in roles.items()}
    return Written({"kind": "classification", "predict": predict, **keys}, "npz", files)


def read(roles: Mapping[str, Sequence[str]]) -> Written:
    """Texts whose perplexity counts, by role."""
    lines = {role: "".join(json.dumps({"text": text}) + "\n" for text in own) for role, own in roles.items()}
    return Written({"kind": "perplexity", "documents": "jsonl"}, "jsonl", {r: _text(own) for r, own in lines.items()})


def run_by(run: str, metric: str, roles: Mapping[str, Any]) -> Written:
    """A task that a function runs.

    Args:
        run, metric: ``module:name``.
        roles: Role → what the function is given, as JSON.
    """
    files = {role: _text(json.dumps(own)) for role, own in roles.items()}
    return Written({"kind": "own", "run": run, "metrics": [metric]}, "json", files)


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text, encoding="utf-8")


class Workplace:
    """A folder that a claim may write to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder_of(self, name: str) -> Path:
        """Where a model of that name is written."""
        return self._folder / "models" / name.replace(" ", "-")

    def model(self, name: str, tensors: Mapping[str, npt.NDArray[Any]]) -> Candidate:
        """A model, written to a folder of its name."""
        sp.save(sp.open(tensors, name=name), self.folder_of(name), durable=False, threads=1)
        return self.stored(name)

    def stored(self, name: str) -> Candidate:
        """The model that was written to the folder of that name."""
        return candidate(self.folder_of(name), name=name, threads=1)

    def models(self, given: Mapping[str, Mapping[str, npt.NDArray[Any]]]) -> list[Candidate]:
        """Models, by name."""
        return [self.model(name, tensors) for name, tensors in given.items()]

    def suite(self, tasks: Mapping[str, Written], code: Mapping[str, str] | None = None) -> Suite:
        """A suite of tasks.

        Args:
            code: Name of a file beside it → source.
        """
        folder = self._folder / "suite"
        folder.mkdir(parents=True, exist_ok=True)
        lines = [_HEAD]
        for name, task in tasks.items():
            lines.append(f"  {name}:\n")
            lines += [f"    {key}: {json.dumps(value)}\n" for key, value in task.keys.items()]
            lines.append("    split:\n")
            for role, write in task.files.items():
                file = f"{name.replace(' ', '-')}-{role}.{task.ending}"
                write(folder / file)
                lines.append(f"      {role}: {file}\n")
        for file, source in (code or {}).items():
            (folder / file).write_text(source, encoding="utf-8")
        (folder / "suite.yml").write_text("".join(lines), encoding="utf-8")
        return load_suite(folder / "suite.yml", allow_code=True)


def figure(result: Result, model: str, task: str) -> Figure:
    """The ranking figure of a cell.

    Raises:
        ExecutionError: when it failed.
    """
    cell = result.cell(model, task)
    if not cell.figures:
        raise ExecutionError(Problem(f"{model} could not be measured on {task}: {cell.error}"))
    return cell.figures[0]


def percent(result: Result, model: str, task: str) -> float:
    """:func:`figure`, of 100."""
    return 100 * figure(result, model, task).value


def mean_percent(result: Result, model: str, tasks: Iterable[str]) -> float:
    """The mean of :func:`percent` over tasks."""
    return fmean(percent(result, model, task) for task in tasks)


def kept(result: Result, model: str, tasks: Iterable[str]) -> float:
    """The mean over tasks of a model's figure in percent of its specialist's, which is called as the task."""
    return fmean(100 * percent(result, model, task) / percent(result, task, task) for task in tasks)
