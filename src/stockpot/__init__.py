"""Stockpot combines neural networks in weight space: merge, average, stack, exactly and streamed.

>>> import stockpot as sp
>>> sorted(name for name in dir(sp) if name.startswith("sa"))
['save']

``sp.open`` gives models, operators and methods (``sp.ties``, ``sp.slerp``, …) combine them lazily,
``sp.save`` writes the result. Importing the package is cheap: its parts are loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stockpot.adapters import lora_extract, lora_merge, lora_resize
    from stockpot.api import compute, layers, merge, open, plan, retokenized, save, stack, transplant
    from stockpot.chains import (
        agree,
        band,
        clip,
        drop,
        drop_ranked,
        elect,
        floor,
        largest,
        match_l1,
        mean,
        scale,
        select_varied,
        sum,
        trim,
    )
    from stockpot.custom import PerModel, elementwise, whole_tensor
    from stockpot.errors import (
        CheckpointError,
        ExecutionError,
        ExpressionError,
        PlanError,
        Problem,
        RecipeError,
        StockpotError,
        StorageError,
        UnsupportedError,
    )
    from stockpot.expression import Expression
    from stockpot.functions import (
        arcee_fusion,
        breadcrumbs,
        breadcrumbs_ties,
        cart,
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
        iso_c,
        iso_cts,
        karcher,
        linear,
        lines,
        lm_cocktail,
        low_rank,
        magmax,
        magnitude_prune,
        masked,
        model_stock,
        multislerp,
        nearswap,
        nuslerp,
        opcm,
        passthrough,
        pcb,
        perpendicular,
        ram,
        ramplus_tl,
        random_prune,
        regmean,
        sce,
        slerp,
        subspace_boosting,
        tall_mask,
        task_arithmetic,
        ties,
        tsv_m,
        warp,
        wise_ft,
        wsm,
        wudi,
    )

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ExecutionError",
    "Expression",
    "ExpressionError",
    "PerModel",
    "PlanError",
    "Problem",
    "RecipeError",
    "StockpotError",
    "StorageError",
    "TokenSource",
    "UnsupportedError",
    "agree",
    "arcee_fusion",
    "band",
    "breadcrumbs",
    "breadcrumbs_ties",
    "cart",
    "clip",
    "compute",
    "consensus",
    "cosine_weighted",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "drop",
    "drop_ranked",
    "elect",
    "elementwise",
    "ema",
    "emr",
    "emr_mask",
    "emr_task",
    "fisher",
    "floor",
    "geometric_median",
    "iso_c",
    "iso_cts",
    "karcher",
    "largest",
    "layers",
    "linear",
    "lines",
    "lm_cocktail",
    "lora_extract",
    "lora_merge",
    "lora_resize",
    "low_rank",
    "magmax",
    "magnitude_prune",
    "masked",
    "match_l1",
    "mean",
    "merge",
    "model_stock",
    "multislerp",
    "nearswap",
    "nuslerp",
    "opcm",
    "open",
    "open_adapter",
    "passthrough",
    "pcb",
    "perpendicular",
    "plan",
    "ram",
    "ramplus_tl",
    "random_prune",
    "regmean",
    "retokenized",
    "save",
    "scale",
    "sce",
    "select_varied",
    "slerp",
    "stack",
    "subspace_boosting",
    "sum",
    "tall_mask",
    "task_arithmetic",
    "ties",
    "transplant",
    "trim",
    "tsv_m",
    "warp",
    "whole_tensor",
    "wise_ft",
    "wsm",
    "wudi",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in __all__:
        for home in ("errors", "expression", "functions", "chains", "custom", "api", "tokens", "adapters"):
            module = import_module(f"stockpot.{home}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module 'stockpot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
