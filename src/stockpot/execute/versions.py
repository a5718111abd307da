"""What computed a result: the versions that a receipt tells, and that must not change in the middle of a merge."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

__all__ = ["versions", "versions_of"]

_PACKAGES = ("stockpot", "numpy", "numba", "ml_dtypes")


def versions() -> dict[str, str]:
    """Package → version, of all that decides what a merge computes."""
    return {"python": platform.python_version(), **versions_of(*_PACKAGES)}


def versions_of(*packages: str) -> dict[str, str]:
    """Package → version as it is installed, told without importing it."""
    return {package: _version(package) for package in packages}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
