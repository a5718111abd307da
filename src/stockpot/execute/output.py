"""The output's files, open for writing at any place from any thread."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Condition
from typing import Self

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.storage import cannot_write, start_storing, write_all
from stockpot.checkpoint.writer import create_files
from stockpot.errors import Problem, StorageError
from stockpot.planning.model import Plan, Step

__all__ = ["Output"]

_STRETCH = 1 << 25
"""Bytes of a file that the disk is given at a time, long before the end."""


class Output:
    """Files of a plan in ``folder``: made with their headers when entered, closed at the end.

    Args:
        durable: Whether :meth:`sync` will be called: storing then begins early.
        lost: Called with the name of a file of which the disk has lost what was written: reading it may still
            give the right bytes, for a while.

    Raises:
        StorageError: when a file cannot be made, written or closed.
    """

    def __init__(self, folder: Path, plan: Plan, lost: Callable[[str], None], *, durable: bool = False) -> None:
        self._folder, self._plan, self._lost, self._durable = folder, plan, lost, durable
        self._files: dict[str, int] = {}
        self._state = Condition()
        self._writing = 0

    def __enter__(self) -> Self:
        create_files(self._folder, self._plan.shards)
        for shard in self._plan.shards:
            path = self._folder / shard.file
            try:
                self._files[shard.file] = os.open(path, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0))
            except OSError as error:
                self._close()
                raise cannot_write(path, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def write(self, step: Step, start: int, data: npt.NDArray[np.uint8]) -> None:
        """Put bytes of a tensor where they belong; refused once the output is closed."""
        with self._state:
            descriptor = self._files.get(step.file)
            if descriptor is None:
                raise StorageError(Problem("the merge was stopped", tensor=step.name))
            self._writing += 1
        try:
            write_all(descriptor, data.data.cast("B"), place := step.offset + start)
            before = place // _STRETCH * _STRETCH
            if self._durable and (place + len(data)) // _STRETCH * _STRETCH > before:
                start_storing(descriptor, before, _STRETCH)
        except OSError as error:
            raise cannot_write(self._folder / step.file, error, step.name) from error
        finally:
            with self._state:
                self._writing -= 1
                self._state.notify_all()

    def sync(self) -> None:
        """Wait until the disk has every byte."""
        for name, descriptor in self._files.items():
            try:
                os.fsync(descriptor)
            except OSError as error:
                self._lost(name)
                raise cannot_write(self._folder / name, error) from error

    def _close(self) -> None:
        """Close every file once the writes under way are done: a thread may still be at work when a merge stops."""
        with self._state:
            files, self._files = self._files, {}
            while self._writing:
                self._state.wait()
        failed = None
        for name, descriptor in files.items():
            try:
                os.close(descriptor)  # network file systems tell here that writing has failed
            except OSError as error:
                self._lost(name)
                failed = cannot_write(self._folder / name, error)
        if failed is not None:
            raise failed
