"""Stockpot combines neural networks in weight space: merge, average, stack, exactly and streamed.

>>> import stockpot as sp
>>> sorted(name for name in dir(sp) if name.startswith("o"))
['open']

``sp.open`` gives models, operators and methods (``sp.ties``, ``sp.slerp``, …) combine them lazily,
``sp.save`` writes the result. Importing the package is cheap: its parts are loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stockpot.api import compute, layers, merge, open, plan, save, stack
    from stockpot.errors import (
        CheckpointError,
        ExecutionError,
        ExpressionError,
        PlanError,
        Problem,
        RecipeError,
        StockpotError,
        UnsupportedError,
    )
    from stockpot.expression import Expression
    from stockpot.functions import (
        dare_linear,
        dare_ties,
        linear,
        model_stock,
        nuslerp,
        passthrough,
        slerp,
        task_arithmetic,
        ties,
        wise_ft,
    )

__version__ = "0.1.0"

_API = ("compute", "layers", "merge", "open", "plan", "save", "stack")
_ERRORS = (
    "CheckpointError",
    "ExecutionError",
    "ExpressionError",
    "PlanError",
    "Problem",
    "RecipeError",
    "StockpotError",
    "UnsupportedError",
)
_FUNCTIONS = (
    "dare_linear",
    "dare_ties",
    "linear",
    "model_stock",
    "nuslerp",
    "passthrough",
    "slerp",
    "task_arithmetic",
    "ties",
    "wise_ft",
)

__all__ = [  # noqa: PLE0604
    *sorted(("Expression", *_API, *_ERRORS, *_FUNCTIONS)),
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    homes = ((_API, "api"), (_ERRORS, "errors"), (_FUNCTIONS, "functions"), (("Expression",), "expression"))
    for names, module in homes:
        if name in names:
            return getattr(import_module(f"stockpot.{module}"), name)
    raise AttributeError(f"module 'stockpot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
