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
        arcee_fusion,
        breadcrumbs,
        breadcrumbs_ties,
        consensus,
        cosine_weighted,
        dare_linear,
        dare_ties,
        della,
        della_linear,
        ema,
        emr,
        emr_mask,
        emr_task,
        fisher,
        geometric_median,
        karcher,
        linear,
        lines,
        lm_cocktail,
        magmax,
        magnitude_prune,
        masked,
        model_stock,
        multislerp,
        nearswap,
        nuslerp,
        passthrough,
        pcb,
        perpendicular,
        ram,
        ramplus_tl,
        random_prune,
        sce,
        slerp,
        tall_mask,
        task_arithmetic,
        ties,
        warp,
        wise_ft,
        wsm,
    )

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ExecutionError",
    "Expression",
    "ExpressionError",
    "PlanError",
    "Problem",
    "RecipeError",
    "StockpotError",
    "UnsupportedError",
    "arcee_fusion",
    "breadcrumbs",
    "breadcrumbs_ties",
    "compute",
    "consensus",
    "cosine_weighted",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "ema",
    "emr",
    "emr_mask",
    "emr_task",
    "fisher",
    "geometric_median",
    "karcher",
    "layers",
    "linear",
    "lines",
    "lm_cocktail",
    "magmax",
    "magnitude_prune",
    "masked",
    "merge",
    "model_stock",
    "multislerp",
    "nearswap",
    "nuslerp",
    "open",
    "passthrough",
    "pcb",
    "perpendicular",
    "plan",
    "ram",
    "ramplus_tl",
    "random_prune",
    "save",
    "sce",
    "slerp",
    "stack",
    "tall_mask",
    "task_arithmetic",
    "ties",
    "warp",
    "wise_ft",
    "wsm",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in __all__:
        for home in ("errors", "expression", "functions", "api"):
            module = import_module(f"stockpot.{home}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module 'stockpot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
