"""Predictions that are known already, in an SQLite file that several processes may use at once."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from stockpot.errors import Problem, StorageError
from stockpot.evaluate.arrays import packed, unpacked
from stockpot.evaluate.protocol import Predictions

__all__ = ["Cache", "default_folder"]

_FILE = "evaluate.sqlite"
_TABLES = """
CREATE TABLE IF NOT EXISTS predictions (model TEXT, task TEXT, columns BLOB NOT NULL, PRIMARY KEY (model, task));
CREATE TABLE IF NOT EXISTS known (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS chosen (data TEXT PRIMARY KEY, what TEXT NOT NULL);
"""
_WAIT_SECONDS = 60.0


def default_folder() -> Path:
    """``STOCKPOT_CACHE_DIR``, else the user's cache folder."""
    home = os.environ.get("STOCKPOT_CACHE_DIR")
    if home:
        return Path(home)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "stockpot"


class Cache:
    """Predictions by (model hash, task hash), hashes of files, and which data choices were made with.

    Every change is one transaction; the file is in WAL mode, so that readers never wait for a writer.

    Args:
        folder: Where the file lies; made when missing. None keeps everything in memory and forgets it.
    """

    def __init__(self, folder: Path | None) -> None:
        self._where = ":memory:" if folder is None else str(folder / _FILE)
        with self._trouble():
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._where, timeout=_WAIT_SECONDS, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """No more is asked."""
        self._db.close()

    def predictions(self, model: str, task: str) -> Predictions | None:
        """What is known of a model on a task; an entry that is damaged counts as unknown."""
        with self._trouble():
            row = self._db.execute("SELECT columns FROM predictions WHERE model = ? AND task = ?", (model, task))
            found = row.fetchone()
        if found is None:
            return None
        with contextlib.suppress(ValueError, zipfile.BadZipFile, EOFError, TypeError, KeyError):
            return unpacked(found[0])
        return None

    def keep(self, model: str, task: str, predictions: Predictions) -> None:
        """Remember predictions."""
        self._write("INSERT OR REPLACE INTO predictions VALUES (?, ?, ?)", model, task, packed(predictions))

    def recall(self, key: str) -> str | None:
        """What was remembered under ``key``."""
        return self._one("SELECT value FROM known WHERE key = ?", key)

    def remember(self, key: str, value: str) -> None:
        """Keep ``value`` under ``key``."""
        self._write("INSERT OR REPLACE INTO known VALUES (?, ?)", key, value)

    def choose(self, data: str, what: str) -> None:
        """Note that ``what`` was chosen by figures on the data with this hash."""
        self._write("INSERT OR REPLACE INTO chosen VALUES (?, ?)", data, what)

    def chosen(self, data: str) -> str | None:
        """What was chosen by figures on the data with this hash, if anything was."""
        return self._one("SELECT what FROM chosen WHERE data = ?", data)

    def _one(self, question: str, key: str) -> str | None:
        with self._trouble():
            found = self._db.execute(question, (key,)).fetchone()
        return None if found is None else str(found[0])

    def _write(self, statement: str, *values: str | bytes) -> None:
        with self._trouble():
            self._db.execute(statement, values)

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            fix = "name another folder: --cache DIR, or remove the file when it is damaged"
            raise StorageError(
                Problem(f"the cache of predictions fails: {error}", file=self._where, fix=fix)
            ) from error
