"""The hash of a tensor: of its bytes, taken in pieces, so that they may come in any order and from any thread."""

from __future__ import annotations

from threading import Lock

import xxhash

__all__ = ["PIECE", "TensorHash"]

PIECE = 1 << 19
"""Bytes of a piece: those of a block of 16-bit numbers."""

_DIGEST = 16


class TensorHash:
    r"""Hash of a tensor of ``nbytes`` bytes: xxh3-128 of the xxh3-128 digests of its pieces, one after the other.

    Bytes may be given more than once; the first time counts. All methods may be called from any thread.

    >>> whole = TensorHash(4)
    >>> whole.add(2, memoryview(b"cd"))
    >>> whole.missing()
    (0, 4)
    >>> whole.add(0, memoryview(b"ab"))
    >>> whole.hexdigest() == xxhash.xxh3_128_hexdigest(xxhash.xxh3_128_digest(b"abcd"))
    True
    """

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        count = -(-nbytes // PIECE)
        self._digests = bytearray(_DIGEST * count)
        self._have = bytearray(count)
        self._left = count
        self._parts: dict[int, _Part] = {}
        self._lock = Lock()

    def add(self, start: int, data: memoryview) -> None:
        """Take the bytes from byte ``start`` of the tensor on."""
        if not self._left:
            return
        stop = start + data.nbytes
        for number in range(start // PIECE, -(-stop // PIECE)):
            if self._have[number]:
                continue
            first, last = self._bounds(number)
            part = data[max(first, start) - start : min(last, stop) - start]
            if part.nbytes == last - first:
                self._settle(number, xxhash.xxh3_128_digest(part))
            else:
                self._gather(number, max(first, start) - first, part)

    def missing(self) -> tuple[int, int] | None:
        """(first byte, number of bytes) of a piece that is not complete; None when all are."""
        number = self._have.find(0) if self._left else -1
        if number < 0:
            return None
        first, last = self._bounds(number)
        return first, last - first

    def hexdigest(self) -> str:
        """The hash, hexadecimal.

        Raises:
            ValueError: while bytes are missing.
        """
        if self._left:
            raise ValueError(f"{self._left} pieces are missing")
        return str(xxhash.xxh3_128_hexdigest(self._digests))

    def _bounds(self, number: int) -> tuple[int, int]:
        return number * PIECE, min((number + 1) * PIECE, self._nbytes)

    def _settle(self, number: int, digest: bytes) -> None:
        with self._lock:
            if not self._have[number]:
                self._digests[number * _DIGEST : (number + 1) * _DIGEST] = digest
                self._have[number] = 1
                self._left -= 1

    def _gather(self, number: int, start: int, data: memoryview) -> None:
        """Some bytes of a piece, from its byte ``start`` on."""
        first, last = self._bounds(number)
        with self._lock:
            part = self._parts.setdefault(number, _Part())
            part.add(start, data)
            digest = part.hash.digest() if part.done == last - first else None
            if digest is not None:
                del self._parts[number]
        if digest is not None:
            self._settle(number, digest)


class _Part:
    """A piece that comes in parts; those that come too early wait."""

    def __init__(self) -> None:
        self.hash = xxhash.xxh3_128()
        self.done = 0
        self._waiting: dict[int, bytes] = {}

    def add(self, start: int, data: memoryview) -> None:
        if start > self.done:
            if data.nbytes > len(self._waiting.get(start, b"")):
                self._waiting[start] = bytes(data)
            return
        self._take(start, data)
        while self._waiting and (first := min(self._waiting)) <= self.done:
            self._take(first, memoryview(self._waiting.pop(first)))

    def _take(self, start: int, data: memoryview) -> None:
        fresh = data[self.done - start :]
        self.hash.update(fresh)
        self.done += fresh.nbytes
