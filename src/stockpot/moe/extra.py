"""Packages of the extra ``torch``: imported when they are needed, with an error that says how to get them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from stockpot.errors import Problem, UnsupportedError

__all__ = ["extra"]


def extra(package: str, purpose: str) -> Any:
    """The module ``package``.

    Raises:
        UnsupportedError: when it is not installed; it names the extra.
    """
    try:
        return import_module(package)
    except ImportError as error:
        message = f"{purpose} needs {package}, which cannot be imported ({error})"
        raise UnsupportedError(Problem(message, fix="pip install 'stockpot[torch]'")) from error
