"""A user's own functions and metrics, by ``module:name``; nothing is imported unless code is allowed."""

from __future__ import annotations

import sysconfig
import traceback
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import stockpot
from stockpot.errors import Problem, RecipeError
from stockpot.evaluate.examples import content_of
from stockpot.recipe.method_files import run_file

__all__ = ["Code", "Own", "place_of"]


@dataclass(frozen=True)
class Own:
    """Something of a user's module.

    Args:
        name: As written, ``module:name``.
        value: The function or metric.
        digest: Hash of the module's file, which tells that it has changed. Other files that it imports are not in it.
    """

    name: str
    value: Any
    digest: str


def place_of(error: BaseException) -> str:
    """``module.py, line 4`` of a user's code that an error came from; empty where it came from what is installed."""
    ours = str(Path(stockpot.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((ours, "<")) and not _installed(f.filename)]
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""


def _installed(file: str) -> bool:
    return any(file.startswith(folder) for folder in sysconfig.get_paths().values() if folder)


class Code:
    """Finds what ``module:name`` means: in ``module.py`` beside the suite, else in an installed module.

    Args:
        folder: The suite's.
        allowed: Whether code may run.
    """

    def __init__(self, folder: Path, allowed: bool) -> None:
        self._folder, self.allowed = folder, allowed
        self._modules: dict[str, tuple[ModuleType, str]] = {}

    def find(self, reference: str) -> Own:
        """What ``reference`` names.

        Raises:
            RecipeError: when code is not allowed, or there is no such thing; without a line.
        """
        module, _, name = reference.partition(":")
        if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
            raise RecipeError(
                Problem(f"{reference!r} is not module:name", fix="tasks:predict, for predict of tasks.py")
            )
        if not self.allowed:
            fix = "read it, then allow it: --allow-code (in Python: allow_code=True)"
            raise RecipeError(Problem(f"{reference} is code, which runs only when it is allowed", fix=fix))
        if module not in self._modules:
            self._modules[module] = self._load(module)
        found, digest = self._modules[module]
        if not hasattr(found, name):
            raise RecipeError(Problem(f"{module} has no {name!r}", file=getattr(found, "__file__", None)))
        return Own(reference, getattr(found, name), digest)

    def _load(self, name: str) -> tuple[ModuleType, str]:
        beside = self._folder.joinpath(*name.split(".")).with_suffix(".py")
        try:
            if beside.is_file():
                return run_file(beside)
            module = import_module(name)
        except RecipeError:
            raise
        except (Exception, SystemExit) as error:
            message = f"cannot import {name}: {type(error).__name__}: {error}"
            raise RecipeError(Problem(message, fix=f"put {beside.name} beside the suite, or install it")) from error
        file = getattr(module, "__file__", None)
        return module, "" if file is None else content_of([Path(file)])
