"""Merging on this machine: threads that write every tensor at its final place, one rename at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.model import Stamp, TensorRef
from stockpot.checkpoint.reader import PayloadReader
from stockpot.checkpoint.storage import cannot_write, pieces_of, write_file
from stockpot.checkpoint.writer import index_files
from stockpot.errors import ExecutionError, Problem, StockpotError, StorageError
from stockpot.execute.card import model_card
from stockpot.execute.evaluate import Evaluator, Phase
from stockpot.execute.fingerprint import fingerprint, small_files
from stockpot.execute.hashing import hash_phases
from stockpot.execute.journal import Finished, Journal, Past
from stockpot.execute.matrices import one_thread
from stockpot.execute.output import Output
from stockpot.execute.receipt import RECEIPT_NAME, make_receipt, read_receipt, receipt_bytes
from stockpot.execute.schedule import run_all
from stockpot.execute.step import Made, Sink, step_phases
from stockpot.execute.survey import grids_of, survey_phases
from stockpot.execute.workplace import Workplace
from stockpot.planning.model import Plan, Step, reads

__all__ = ["Progress", "Result", "compute", "execute", "stream"]

Progress = Callable[[int, int], None]
"""Called with (bytes moved, bytes in all) now and then, in the calling thread."""

Read = dict[tuple[str, str], str]
"""Key of an input tensor → hash of its bytes as they were read."""


@dataclass(frozen=True)
class Result:
    """What a merge left behind.

    Args:
        folder: Where the merged model lies.
        receipt: The receipt as plain data.
        resumed: Number of tensors that an earlier, broken-off merge had finished.
    """

    folder: Path
    receipt: dict[str, Any]
    resumed: int = 0


def execute(
    plan: Plan,
    out: Path,
    *,
    overwrite: bool = False,
    restart: bool = False,
    durable: bool = True,
    progress: Progress | None = None,
) -> Result:
    """Carry out ``plan`` and leave the result in ``out``, which appears only when it is complete.

    Until then the work lies in OUT.partial. Where a merge was broken off, by whatever means, another one
    with the same plan continues it: finished tensors are hashed and kept. After an error that would only
    come again, such as a NaN weight, nothing is left behind.

    Args:
        overwrite: Whether an output that exists is replaced.
        restart: Begin again, whatever an unfinished merge has left.
        durable: Wait until the disk has everything before ``out`` appears.
        progress: Told of the bytes moved.

    Raises:
        PlanError: when another process writes ``out``, or an unfinished merge of another plan is there.
        StorageError: when a file fails or the disk is full; the same call continues when that is mended.
        ExecutionError: when a weight is NaN, or an input was changed meanwhile; nothing is left behind.
    """
    work = Workplace(out)
    with work.claimed():
        now = fingerprint(plan)
        if not restart and work.complete(now):
            work.tidy()
            return Result(out, read_receipt(out), len(plan.steps))
        journal, past = work.begin(now, overwrite=overwrite, restart=restart)
        try:
            receipt, resumed = _made(plan, work.model, journal, past, durable, progress)
            _small_unchanged(plan, now["small files"])
            work.publish(journal, overwrite=overwrite, durable=durable)
        except (StorageError, OSError) as error:
            done = _keep(work, journal)
            told = error if isinstance(error, StorageError) else cannot_write(error.filename or work.folder, error)
            raise (_continued(told, done, plan, work) if done else told) from error
        except StockpotError as error:
            if isinstance(error, ExecutionError):
                work.tidy()
            raise
        except BaseException:
            _keep(work, journal)
            raise
        finally:
            journal.close()
    return Result(out, receipt, resumed)


def compute(plan: Plan, *, progress: Progress | None = None) -> dict[str, npt.NDArray[Any]]:
    """Carry out ``plan`` in memory: name → array, in the dtypes of NumPy and ml_dtypes."""
    arrays = {s.name: np.empty(s.nbytes, np.uint8) for s in plan.steps}

    def sink(step: Step, start: int, data: npt.NDArray[np.uint8]) -> None:
        arrays[step.name][start : start + len(data)] = data

    stream(plan, sink, progress=progress)
    return {s.name: _typed(arrays[s.name], s) for s in plan.steps}


def stream(plan: Plan, sink: Sink, *, progress: Progress | None = None) -> None:
    """Carry out ``plan`` and hand each block to ``sink``; no tensor is kept.

    Blocks are cut the same way whatever the memory and threads, but come in any order and from any thread; what a
    block's bytes lie in is used again once ``sink`` returns.
    """
    with PayloadReader(stamps=_stamps(plan)) as reader:
        counter = _Counter(plan, progress)
        _run(plan, plan.steps, reader, sink, lambda _step, _digest, _told: None, counter)
        counter.end()


def _typed(data: npt.NDArray[np.uint8], step: Step) -> npt.NDArray[Any]:
    if step.dtype.numpy is None:
        return data
    return data.view(step.dtype.numpy).reshape(step.shape)


def _made(
    plan: Plan, folder: Path, journal: Journal, past: Past | None, durable: bool, progress: Progress | None
) -> tuple[dict[str, Any], int]:
    """The receipt of the output, made in ``folder``, and how many of its tensors were there already."""
    counter = _Counter(plan, progress)
    with Output(folder, plan, journal.lost, durable=durable) as output:
        done = _checked(plan, folder, past.finished, counter) if past is not None else {}
        resumed = len(done)
        with PayloadReader(stamps=_stamps(plan), hashing=True) as reader:

            def finished(step: Step, digest: str, told: Mapping[str, Any] | None) -> None:
                entry = Finished(step.file, digest, _read(step, reader), told)
                journal.finished(step.name, entry)
                done[step.name] = entry

            left = [step for step in plan.steps if step.name not in done]
            _run(plan, left, reader, output.write, finished, counter)
            here = {r.ref.key: reader.hash_of(r.ref) for s in plan.steps for r in reads(s.source) if not r.ref.file}
        if durable:
            output.sync()
    _unchanged(plan)
    hashes = {step.name: done[step.name].hash for step in plan.steps}
    read: Read = {key: digest for step in plan.steps for key, digest in done[step.name].read.items()}
    told = {name: entry.told for name, entry in done.items() if entry.told is not None}
    small = _write_small(folder, plan, told, durable)
    receipt = make_receipt(plan, hashes, read | here, small)
    write_file(folder / RECEIPT_NAME, (receipt_bytes(receipt),), durable=durable)
    counter.end()
    return receipt, resumed


def _read(step: Step, reader: PayloadReader) -> Read:
    """Hashes of the stored tensors that a step has read; arrays in memory are left out, since others have them not."""
    return {r.ref.key: reader.hash_of(r.ref) for r in reads(step.source) if r.ref.file is not None}


class _Counter:
    """Bytes moved, told to whoever wants to know."""

    def __init__(self, plan: Plan, progress: Progress | None) -> None:
        self._total, self._progress = plan.cost.read, progress
        self._moved = 0
        self._lock = Lock()

    def count(self, nbytes: int) -> None:
        """From any thread."""
        with self._lock:
            self._moved += nbytes

    def poll(self) -> None:
        """From the calling thread, now and then."""
        if self._progress is not None:
            self._progress(min(self._moved, self._total), self._total)

    def end(self) -> None:
        """All is moved."""
        self._moved = self._total
        self.poll()


def _run(
    plan: Plan,
    steps: list[Step] | tuple[Step, ...],
    reader: PayloadReader,
    sink: Sink,
    finished: Made,
    counter: _Counter,
) -> None:
    """Compute ``steps`` of ``plan``."""
    if not steps:
        return
    settled: dict[tuple[int, str], Evaluator] = {}
    grids = grids_of(plan)

    def made(step: Step, digest: str, told: Mapping[str, Any] | None) -> None:
        reader.check(r.ref for r in reads(step.source))
        finished(step, digest, told)

    with one_thread():
        for survey in plan.surveys:
            phases = survey_phases(survey, reader, settled, counter.count, grids)
            run_all(iter((phases,)), plan.cost.threads, counter.poll)
            reader.check(r.ref for member in survey.members.values() for r in reads(member))
        runs: Iterator[Iterator[Phase]] = (
            step_phases(step, reader, sink, made, counter.count, settled) for step in steps
        )
        run_all(runs, plan.cost.threads, counter.poll)


def _checked(plan: Plan, folder: Path, finished: Mapping[str, Finished], counter: _Counter) -> dict[str, Finished]:
    """Those of ``finished`` whose bytes are on the disk: what a journal tells may have been lost with the power."""
    good: dict[str, Finished] = {}

    def phases(step: Step, reader: PayloadReader) -> Iterator[Phase]:
        def found(digest: str) -> None:
            if digest == finished[step.name].hash:
                good[step.name] = finished[step.name]
                counter.count(step.input_bytes)

        ref = TensorRef(step.name, step.dtype, step.shape, str(folder / step.file), step.offset)
        return hash_phases(ref, reader, lambda _: None, found)

    with PayloadReader() as reader:
        steps = [step for step in plan.steps if step.name in finished]
        run_all((phases(step, reader) for step in steps), plan.cost.threads, counter.poll)
    return good


def _stamps(plan: Plan) -> dict[str, Stamp]:
    return {path: stamp for source in plan.sources.values() for path, stamp in source.stamps.items()}


def _unchanged(plan: Plan) -> None:
    """Raise when an input is not what it was when the merge was planned: what was read may be a mixture."""
    for path, stamp in _stamps(plan).items():
        try:
            same = Stamp.of(os.stat(path)) == stamp  # noqa: PTH116 - a string
        except OSError as error:
            fix = "put it back, and run the same command again"
            raise StorageError(Problem(f"an input is gone: {error.strerror}", file=path, fix=fix)) from error
        if not same:
            message = "the file was changed while it was merged; what was made of it is thrown away"
            raise ExecutionError(Problem(message, file=path, fix="run again when nothing changes it"))


def _small_unchanged(plan: Plan, before: Mapping[str, Any]) -> None:
    """Raise when a small file that was copied is not what it was when the merge began."""
    now = small_files(plan)
    for name, content in plan.sidecars:
        if now[name] != before[name]:
            fix = "put it back as it was, or begin again with --restart"
            raise StorageError(Problem("the file was changed during the merge", file=str(content), fix=fix))


def _write_small(folder: Path, plan: Plan, told: Mapping[str, Mapping[str, Any]], durable: bool) -> dict[str, str]:
    """Write the files beside the tensors, reports of what was ``told`` of them too: name → hexadecimal xxh3-128."""
    files: dict[str, bytes | Path] = {**dict(plan.sidecars), "README.md": model_card(plan).encode()}
    files |= index_files(plan.shards)
    written = {
        name: write_file(folder / name, (c,) if isinstance(c, bytes) else _copied(c), durable=durable)
        for name, c in files.items()
    }
    reports = {r.name: write_file(folder / r.name, r.content(told), durable=durable) for r in plan.reports}
    return written | reports


def _copied(path: Path) -> Iterator[bytes]:
    """The content of a small file, which may be as large as a budget allows no second time."""
    try:
        yield from pieces_of(path)
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        raise StorageError(
            Problem(message, file=str(path), fix="put it back, and run the same command again")
        ) from error


def _keep(work: Workplace, journal: Journal) -> int:
    """Number of finished tensors; where there are none, nothing is worth keeping."""
    if not journal.count:
        work.tidy()
    return journal.count


def _continued(error: StorageError, done: int, plan: Plan, work: Workplace) -> StorageError:
    """``error`` with the way on."""
    first, *others = error.problems
    again = f"run the same command again: {done} of {len(plan.steps)} tensors are kept in {work.folder}"
    fix = again if first.fix is None else f"{first.fix}; then {again}"
    return StorageError(replace(first, fix=fix), *others)
