"""Hashing tensors in passing: while their bytes are read for something else, in whatever order they come."""

from __future__ import annotations

from threading import Lock

import xxhash

__all__ = ["PassingHash"]

_AHEAD = 1 << 26
"""Bytes beyond the hashed part that are kept until those before them have come; what is farther is let go."""


class PassingHash:
    r"""xxh3-128 of a sequence of ``nbytes`` bytes whose pieces may come in any order, more than once, from any thread.

    >>> whole = PassingHash(4)
    >>> whole.add(2, memoryview(b"cd"))
    >>> whole.hexdigest() is None
    True
    >>> whole.add(0, memoryview(b"ab"))
    >>> whole.hexdigest() == xxhash.xxh3_128_hexdigest(b"abcd")
    True
    """

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._hash = xxhash.xxh3_128()
        self._done = 0
        self._waiting: dict[int, bytes] = {}
        self._lock = Lock()
        self._digest: str | None = None

    @property
    def done(self) -> int:
        """Number of bytes, from the first on, that are in the hash."""
        return self._done

    def add(self, start: int, data: memoryview) -> None:
        """Take the bytes from ``start`` on."""
        stop = start + data.nbytes
        if stop <= self._done:
            return
        with self._lock:
            if start > self._done:
                if stop - self._done <= _AHEAD and data.nbytes > len(self._waiting.get(start, b"")):
                    self._waiting[start] = bytes(data)
                return
            self._take(start, data)
            while self._waiting and (first := min(self._waiting)) <= self._done:
                self._take(first, memoryview(self._waiting.pop(first)))

    def hexdigest(self) -> str | None:
        """The hash once every byte has come, else None."""
        with self._lock:
            if self._digest is None and self._done == self._nbytes:
                self._digest = self._hash.hexdigest()
            return self._digest

    def _take(self, start: int, data: memoryview) -> None:
        fresh = data[self._done - start :]
        self._hash.update(fresh)
        self._done += fresh.nbytes
