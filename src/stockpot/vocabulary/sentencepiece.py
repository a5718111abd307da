"""SentencePiece models, which are protocol buffers: pieces with scores and types, and how text is cut.

Only what is needed is read: ``ModelProto.pieces`` (field 1: piece, score, type) and ``trainer_spec.model_type``
(field 2, in it field 3), of the format that google/sentencepiece publishes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = ["MAX_BYTES", "BadModelError", "Piece", "SentencePieces", "parse_pieces"]

MAX_BYTES = 100_000_000
MAX_PIECES = 1_000_000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NORMAL, _UNKNOWN, _CONTROL, _USER = 1, 2, 3, 4
_TYPES = {1: "Unigram", 2: "BPE", 3: "WordLevel", 4: "WordLevel"}


class BadModelError(ValueError):
    """What is wrong with a model, as a clause."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of text: its score, and whether it is the unknown one, stands for no text, or was the user's wish."""

    text: str
    score: float
    unknown: bool = False
    control: bool = False
    user: bool = False


@dataclass(frozen=True)
class SentencePieces:
    """The pieces of a model by number, and how text is cut into them."""

    pieces: tuple[Piece, ...]
    kind: Literal["BPE", "Unigram", "WordLevel"]


def parse_pieces(raw: bytes) -> SentencePieces:
    """The model that ``raw`` holds.

    Raises:
        BadModelError: when it is none, is damaged, or exceeds the limits.
    """
    if len(raw) > MAX_BYTES:
        raise BadModelError(f"larger than {MAX_BYTES} bytes")
    pieces: list[Piece] = []
    kind = 1
    for field, value in _fields(raw):
        if field == 1 and isinstance(value, memoryview):
            pieces.append(_piece(value))
            if len(pieces) > MAX_PIECES:
                raise BadModelError(f"more than {MAX_PIECES} pieces")
        elif field == 2 and isinstance(value, memoryview):
            kind = next((v for f, v in _fields(value) if f == 3 and isinstance(v, int)), kind)
    if not pieces:
        raise BadModelError("no SentencePiece model: it has no pieces")
    if kind not in _TYPES:
        raise BadModelError(f"model type {kind}, which is unknown")
    return SentencePieces(tuple(pieces), _TYPES[kind])  # type: ignore[arg-type]


def _piece(raw: memoryview) -> Piece:
    text, score, kind = "", 0.0, _NORMAL
    for field, value in _fields(raw):
        if field == 1 and isinstance(value, memoryview):
            try:
                text = str(value, "utf-8")
            except UnicodeDecodeError as error:
                raise BadModelError("a piece that is not UTF-8 text") from error
        elif field == 2 and isinstance(value, float):
            score = value
        elif field == 3 and isinstance(value, int):
            kind = value
    return Piece(text, score, kind == _UNKNOWN, kind == _CONTROL, kind == _USER)


def _fields(raw: bytes | memoryview) -> Iterator[tuple[int, int | float | memoryview]]:
    """Number and value of each field of a message."""
    view = memoryview(raw)
    place, end = 0, len(view)
    while place < end:
        tag, place = _varint(view, place)
        field, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            number, place = _varint(view, place)
            yield field, number
            continue
        if wire == _BYTES:
            length, place = _varint(view, place)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise BadModelError(f"no SentencePiece model: wire type {wire}")
        if length > end - place:
            raise BadModelError("cut off, or no SentencePiece model")
        part = view[place : place + length]
        place += length
        yield field, (part if wire == _BYTES else struct.unpack("<f" if length == 4 else "<d", part)[0])


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    """A number and the place after it."""
    found = 0
    for shift in range(0, 70, 7):
        if place >= len(view):
            raise BadModelError("cut off, or no SentencePiece model")
        byte = view[place]
        place += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found, place
    raise BadModelError("no SentencePiece model: a number of more than 64 bits")
