"""What JSON data must look like: small checks that combine, for files that strangers made."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

__all__ = [
    "Check",
    "Misshapen",
    "anything",
    "file_name",
    "hexadecimal",
    "list_of",
    "map_of",
    "natural",
    "optional",
    "real",
    "record",
    "text",
    "whole",
]

Check = Callable[[Any, str], None]
"""(data, where it stands) → None, or :class:`Misshapen`."""


class Misshapen(ValueError):  # noqa: N818 - it says what the data is
    """Data that is not what it should be; the message says where."""


def anything(_data: Any, _where: str) -> None:
    """Whatever JSON can hold."""


def text(data: Any, where: str) -> None:
    """A string."""
    if not isinstance(data, str):
        raise Misshapen(f"{where} is no text")


def whole(data: Any, where: str) -> None:
    """A whole number."""
    if type(data) is not int:
        raise Misshapen(f"{where} is no whole number")


def natural(data: Any, where: str) -> None:
    """A whole number in [0, 2^64)."""
    if type(data) is not int or not 0 <= data < 2**64:
        raise Misshapen(f"{where} is no whole number")


def real(data: Any, where: str) -> None:
    """A number."""
    if type(data) not in (int, float):
        raise Misshapen(f"{where} is no number")


def hexadecimal(digits: int) -> Check:
    """A hash of so many hexadecimal digits."""
    pattern = re.compile(f"[0-9a-f]{{{digits}}}")

    def check(data: Any, where: str) -> None:
        if not isinstance(data, str) or pattern.fullmatch(data) is None:
            raise Misshapen(f"{where} is no hash of {digits} hexadecimal digits")

    return check


def file_name(data: Any, where: str) -> None:
    """The name of a file in a folder, with ``/`` for folders below; it may not climb out."""
    text(data, where)
    posix, windows = PurePosixPath(data), PureWindowsPath(data)
    if not posix.parts or "\0" in data or windows.drive or windows.root or ".." in posix.parts + windows.parts:
        raise Misshapen(f"{where} names a file outside its folder")


def optional(check: Check) -> Check:
    """What ``check`` takes, or null."""
    return lambda data, where: None if data is None else check(data, where)


def list_of(check: Check) -> Check:
    """A list of what ``check`` takes."""

    def check_all(data: Any, where: str) -> None:
        if not isinstance(data, list):
            raise Misshapen(f"{where} is no list")
        for number, item in enumerate(data):
            check(item, f"{where}[{number}]")

    return check_all


def map_of(check: Check, key: Check = text) -> Check:
    """An object whose values ``check`` takes, and whose names ``key`` takes."""

    def check_all(data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise Misshapen(f"{where} is no object")
        for name, value in data.items():
            inside = f"{where}[{_short(name)}]"
            key(name, inside)
            check(value, inside)

    return check_all


def record(needed: Mapping[str, Check], others: Mapping[str, Check]) -> Check:
    """An object with all the keys ``needed``; of ``others``, those that are there are checked."""

    def check_all(data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise Misshapen(f"{where} is no object")
        for name, check in {**needed, **others}.items():
            if name in data:
                check(data[name], f"{where}.{name}")
            elif name in needed:
                raise Misshapen(f"{where} has no {name}")

    return check_all


def _short(name: str) -> str:
    shown = ascii(name)
    return shown if len(shown) <= 60 else shown[:57] + "..."
