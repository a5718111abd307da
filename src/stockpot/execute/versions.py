"""What computed a result: the versions that a receipt tells, and that must not change in the middle of a merge."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["versions"]

_PACKAGES = ("stockpot", "numpy", "numba", "ml_dtypes")


def versions() -> dict[str, str]:
    """Package → version."""
    return {"python": platform.python_version(), **{p: _version(p) for p in _PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
