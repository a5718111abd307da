"""Models that claims share: a lab trains each when it is first asked for, and is kept for all claims of a process."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

from stockpot.reproduce.claim import Setting

__all__ = ["File", "forget", "lab_of"]

File: TypeAlias = Callable[..., Path]
"""Parts of a name → a file of the folder of data; see :meth:`Setting.file`."""

E = TypeVar("E", bound=Hashable)
L = TypeVar("L")


def lab_of(make: Callable[[File, E, int], L], effort: E, setting: Setting) -> L:
    """The lab that ``make`` makes of files, effort and seed: one for all claims.

    Args:
        effort: How much is trained, and on what.
    """
    return cast("L", _made(make, effort, setting.data, setting.seed))


def forget() -> None:
    """Train everything anew."""
    _made.cache_clear()


@cache
def _made(make: Callable[..., Any], effort: Hashable, data: Path | None, seed: int) -> Any:
    return make(Setting(seed, data, Path(), print).file, effort, seed)
