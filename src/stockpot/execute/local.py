"""Merging on this machine: threads that write every tensor at its final place, one rename at the end."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.reader import PayloadReader
from stockpot.checkpoint.writer import create_files
from stockpot.errors import ExecutionError, PlanError, Problem
from stockpot.execute.card import model_card
from stockpot.execute.evaluate import Evaluator, Phase
from stockpot.execute.matrices import one_thread
from stockpot.execute.receipt import RECEIPT_NAME, make_receipt, receipt_bytes
from stockpot.execute.schedule import run_all
from stockpot.execute.step import Sink, step_phases
from stockpot.execute.survey import grids_of, survey_phases
from stockpot.planning.build import beside
from stockpot.planning.model import Plan, Step

__all__ = ["Progress", "Result", "compute", "execute"]

Progress = Callable[[int, int], None]
"""Called with (bytes moved, bytes in all) now and then, in the calling thread."""


@dataclass(frozen=True)
class Result:
    """What a merge left behind.

    Args:
        folder: Where the merged model lies.
        receipt: The receipt as plain data.
    """

    folder: Path
    receipt: dict[str, Any]


def execute(plan: Plan, out: Path, *, overwrite: bool = False, progress: Progress | None = None) -> Result:
    """Carry out ``plan`` and leave the result in ``out``, which appears only when it is complete.

    Raises:
        ExecutionError: when a weight is NaN, a file fails, the disk is full; nothing is left behind.
    """
    partial, _ = beside(out)
    try:
        _prepare(partial)
        with _Output(partial, plan) as output:
            hashes = _run(plan, output.write, progress)
        receipt = make_receipt(plan, hashes, {}, {})
        _write_small(partial, plan, receipt)
        _publish(partial, out, overwrite)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise _failed(error, partial) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Result(out, receipt)


def compute(plan: Plan, *, progress: Progress | None = None) -> dict[str, npt.NDArray[Any]]:
    """Carry out ``plan`` in memory: name → array, in the dtypes of NumPy and ml_dtypes."""
    arrays = {s.name: np.empty(s.nbytes, np.uint8) for s in plan.steps}

    def sink(step: Step, start: int, data: npt.NDArray[np.uint8]) -> None:
        arrays[step.name][start : start + len(data)] = data

    _run(plan, sink, progress)
    return {s.name: _typed(arrays[s.name], s) for s in plan.steps}


def _typed(data: npt.NDArray[np.uint8], step: Step) -> npt.NDArray[Any]:
    if step.dtype.numpy is None:
        return data
    return data.view(step.dtype.numpy).reshape(step.shape)


def _run(plan: Plan, sink: Sink, progress: Progress | None) -> dict[str, str]:
    hashes: dict[str, str] = {}
    moved = [0]
    lock = Lock()
    total = plan.cost.read

    def finished(step: Step, digest: str) -> None:
        hashes[step.name] = digest

    def count(nbytes: int) -> None:
        with lock:
            moved[0] += nbytes

    def poll() -> None:
        if progress is not None:
            progress(min(moved[0], total), total)

    with PayloadReader() as reader:
        settled: dict[tuple[int, str], Evaluator] = {}
        grids = grids_of(plan)
        with one_thread():
            for survey in plan.surveys:
                run_all(iter((survey_phases(survey, reader, settled, count, grids),)), plan.cost.threads, poll)
            runs: Iterator[Iterator[Phase]] = (
                step_phases(step, reader, sink, finished, count, settled) for step in plan.steps
            )
            run_all(runs, plan.cost.threads, poll)
    if progress is not None:
        progress(total, total)
    return hashes


class _Output:
    """The output's files, open for writing at any place from any thread."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder, self._plan = folder, plan
        self._files: dict[str, int] = {}

    def __enter__(self) -> Self:
        create_files(self._folder, self._plan.shards)
        for shard in self._plan.shards:
            self._files[shard.file] = os.open(self._folder / shard.file, os.O_WRONLY)
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)

    def write(self, step: Step, start: int, data: npt.NDArray[np.uint8]) -> None:
        """Put bytes of a tensor where they belong."""
        view = data.data.cast("B")
        place = step.offset + start
        try:
            while view.nbytes:
                done = os.pwrite(self._files[step.file], view, place)
                view, place = view[done:], place + done
        except OSError as error:
            raise _failed(error, self._folder / step.file, step.name) from error


def _failed(error: OSError, path: Path, tensor: str | None = None) -> ExecutionError:
    fix = "free some space and run again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    name = error.filename if isinstance(error.filename, str) else str(path)
    return ExecutionError(Problem(f"cannot write: {error.strerror or error}", tensor=tensor, file=name, fix=fix))


def _prepare(partial: Path) -> None:
    try:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
    except OSError as error:
        message = f"cannot create the output: {error.strerror}"
        raise PlanError(Problem(message, file=str(partial), fix="choose a folder that you may write to")) from error


def _write_small(partial: Path, plan: Plan, receipt: dict[str, Any]) -> None:
    for name, content in plan.sidecars:
        target = partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            shutil.copyfile(content, target)
    (partial / "README.md").write_text(model_card(plan), encoding="utf-8")
    (partial / RECEIPT_NAME).write_bytes(receipt_bytes(receipt))


def _publish(partial: Path, out: Path, overwrite: bool) -> None:
    """Rename; an older ``out`` is moved aside first and deleted last, so one of the two always exists."""
    if not out.exists():
        partial.rename(out)
        return
    if not overwrite:
        raise PlanError(Problem("the output exists", file=str(out), fix="give --overwrite"))
    _, old = beside(out)
    if old.exists():
        shutil.rmtree(old)
    out.rename(old)
    partial.rename(out)
    shutil.rmtree(old)
