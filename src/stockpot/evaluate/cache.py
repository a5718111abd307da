"""Predictions that are known already, in an SQLite file that several processes may use at once."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import zipfile
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from stockpot.errors import Problem, StorageError
from stockpot.evaluate.arrays import packed, unpacked
from stockpot.evaluate.examples import digest
from stockpot.evaluate.protocol import Predictions

__all__ = ["Cache", "default_folder"]

_FILE = "evaluate.sqlite"
_TABLES = """
CREATE TABLE IF NOT EXISTS predictions (model TEXT, task TEXT, columns BLOB NOT NULL, PRIMARY KEY (model, task));
CREATE TABLE IF NOT EXISTS known (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS chosen (data TEXT PRIMARY KEY, what TEXT NOT NULL);
"""
_WAIT_SECONDS = 60.0
_CHECK = 16
"""Bytes of digest before the columns."""


def default_folder() -> Path:
    """``STOCKPOT_CACHE_DIR``, else the user's cache folder."""
    home = os.environ.get("STOCKPOT_CACHE_DIR")
    if home:
        return Path(home)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "stockpot"


class Cache:
    """Predictions by (model hash, task hash), hashes of files, and which data choices were made with.

    Every change is one transaction; the file is in WAL mode, so that readers never wait for a writer, and a process
    that is killed leaves it sound. It may be used from several threads. What is read is checked against a digest of
    itself and its key, so that damage is never taken for a prediction.

    Keeping predictions is a convenience: when that fails later on (a full disk, a lock that is held for a minute,
    damage), :attr:`trouble` says so and nothing is kept or recalled any more. Notes of what data was used to choose are
    a promise: when these fail, it is an error.

    Args:
        folder: Where the file lies; made when missing. None keeps everything in memory and forgets it.

    Raises:
        StorageError: when the file cannot be opened, or is damaged.
    """

    def __init__(self, folder: Path | None) -> None:
        self._where = ":memory:" if folder is None else str(folder / _FILE)
        self._lock = Lock()
        self._noted: dict[str, str] = {}
        self.trouble: Problem | None = None
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self._db = _opened(self._where)
        except (sqlite3.Error, OSError) as error:
            raise StorageError(self._problem(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """No more is asked."""
        with self._lock, contextlib.suppress(sqlite3.Error):  # what was kept is kept
            self._db.close()

    def predictions(self, model: str, task: str) -> Predictions | None:
        """What is known of a model on a task; an entry that is damaged counts as unknown."""
        found = self._recalled("SELECT columns FROM predictions WHERE model = ? AND task = ?", model, task)
        if not isinstance(found, bytes):
            return None
        check, data = found[:_CHECK], found[_CHECK:]
        if check != _check(model, task, data):
            return None
        with contextlib.suppress(ValueError, zipfile.BadZipFile, EOFError, TypeError, KeyError):
            return unpacked(data)
        return None

    def keep(self, model: str, task: str, predictions: Predictions) -> None:
        """Remember predictions."""
        data = packed(predictions)
        entry = _check(model, task, data) + data
        self._kept("INSERT OR REPLACE INTO predictions VALUES (?, ?, ?)", model, task, entry)

    def recall(self, key: str) -> str | None:
        """What was remembered under ``key``."""
        found = self._recalled("SELECT value FROM known WHERE key = ?", key)
        value, _, check = str(found).rpartition(" ")
        return value if check == _check(key, value).hex() else None

    def remember(self, key: str, value: str) -> None:
        """Keep ``value`` under ``key``."""
        self._kept("INSERT OR REPLACE INTO known VALUES (?, ?)", key, f"{value} {_check(key, value).hex()}")

    def choose(self, data: str, what: str) -> None:
        """Note that ``what`` was chosen by figures on the data with this hash.

        Raises:
            StorageError: when it cannot be noted.
        """
        if self._noted.get(data) != what:
            self._asked("INSERT OR REPLACE INTO chosen VALUES (?, ?)", data, what)
            self._noted[data] = what

    def chosen(self, data: str) -> str | None:
        """What was chosen by figures on the data with this hash, if anything was.

        Raises:
            StorageError: when that cannot be read.
        """
        found = self._asked("SELECT what FROM chosen WHERE data = ?", data)
        return None if found is None else str(found)

    def _recalled(self, question: str, *values: str) -> object:
        """The answer, or None when there is none or trouble."""
        if self.trouble is None:
            try:
                return self._asked(question, *values)
            except StorageError as error:
                self.trouble = error.problems[0]
        return None

    def _kept(self, statement: str, *values: str | bytes) -> None:
        """Carry out ``statement``, if there is no trouble."""
        if self.trouble is None:
            try:
                self._asked(statement, *values)
            except StorageError as error:
                self.trouble = error.problems[0]

    def _asked(self, statement: str, *values: str | bytes) -> object:
        """The first value of the first row, or None."""
        try:
            with self._lock:
                found = self._db.execute(statement, values).fetchone()
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise StorageError(self._problem(error)) from error
        return None if found is None else found[0]

    def _problem(self, error: Exception) -> Problem:
        fix = "go without: --no-cache, or name another folder: --cache DIR"
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            fix = f"remove the file, which is damaged, or {fix}"
        return Problem(f"the cache of predictions fails: {error}", file=self._where, fix=fix)


def _opened(where: str) -> sqlite3.Connection:
    """The database with its tables. SQLite does not wait by itself for others that change the mode of a new file."""
    ends = time.monotonic() + _WAIT_SECONDS
    while True:
        database = sqlite3.connect(where, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(_TABLES)
        except sqlite3.OperationalError as error:
            database.close()
            if "locked" not in str(error) or time.monotonic() > ends:
                raise
            time.sleep(0.05)
        except BaseException:
            database.close()
            raise
        else:
            return database


def _check(*parts: str | bytes) -> bytes:
    """What an entry is checked by: a digest of it with its key, since damage may bring another entry's content."""
    return digest(*parts)
