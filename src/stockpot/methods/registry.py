"""The registry: every method by name. One line per method."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from stockpot.errors import ExpressionError, Problem
from stockpot.methods.declare import Method
from stockpot.methods.elementwise.arcee_fusion import ARCEE_FUSION
from stockpot.methods.elementwise.breadcrumbs import BREADCRUMBS, BREADCRUMBS_TIES
from stockpot.methods.elementwise.consensus import CONSENSUS, TALL_MASK
from stockpot.methods.elementwise.dare import DARE_LINEAR, DARE_TIES
from stockpot.methods.elementwise.della import DELLA, DELLA_LINEAR
from stockpot.methods.elementwise.emr import EMR, EMR_MASK, EMR_TASK
from stockpot.methods.elementwise.fisher import FISHER
from stockpot.methods.elementwise.magmax import MAGMAX
from stockpot.methods.elementwise.masked import MASKED
from stockpot.methods.elementwise.nearswap import NEARSWAP
from stockpot.methods.elementwise.pcb import PCB
from stockpot.methods.elementwise.prune import MAGNITUDE_PRUNE, RANDOM_PRUNE
from stockpot.methods.elementwise.ram import RAM, RAMPLUS_TL
from stockpot.methods.elementwise.sce import SCE
from stockpot.methods.elementwise.ties import TIES
from stockpot.methods.matrix.cart import CART
from stockpot.methods.matrix.isotropic import ISO_C, ISO_CTS
from stockpot.methods.matrix.low_rank import LOW_RANK, SUBSPACE_BOOSTING
from stockpot.methods.matrix.opcm import OPCM
from stockpot.methods.matrix.regmean import REGMEAN
from stockpot.methods.matrix.task_singular_vectors import TSV_M
from stockpot.methods.matrix.wudi import WUDI
from stockpot.methods.span.checkpoints import EMA, WSM
from stockpot.methods.span.cocktail import LM_COCKTAIL
from stockpot.methods.span.linear import LINEAR, TASK_ARITHMETIC, WISE_FT
from stockpot.methods.span.lines import LINES
from stockpot.methods.span.median import GEOMETRIC_MEDIAN
from stockpot.methods.span.model_stock import MODEL_STOCK
from stockpot.methods.span.relative import COSINE_WEIGHTED, PERPENDICULAR
from stockpot.methods.span.sphere import KARCHER, MULTISLERP
from stockpot.methods.span.spherical import NUSLERP, SLERP
from stockpot.methods.span.warp import WARP
from stockpot.methods.structural.passthrough import PASSTHROUGH

__all__ = ["METHODS", "method_named"]

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            LINEAR,
            TASK_ARITHMETIC,
            WISE_FT,
            SLERP,
            NUSLERP,
            MULTISLERP,
            KARCHER,
            WARP,
            MODEL_STOCK,
            GEOMETRIC_MEDIAN,
            PERPENDICULAR,
            COSINE_WEIGHTED,
            LINES,
            LM_COCKTAIL,
            WSM,
            EMA,
            TIES,
            DARE_LINEAR,
            DARE_TIES,
            DELLA,
            DELLA_LINEAR,
            BREADCRUMBS,
            BREADCRUMBS_TIES,
            MAGNITUDE_PRUNE,
            RANDOM_PRUNE,
            SCE,
            PCB,
            CONSENSUS,
            TALL_MASK,
            EMR,
            EMR_TASK,
            EMR_MASK,
            MASKED,
            RAM,
            RAMPLUS_TL,
            MAGMAX,
            NEARSWAP,
            ARCEE_FUSION,
            FISHER,
            TSV_M,
            ISO_C,
            ISO_CTS,
            CART,
            WUDI,
            REGMEAN,
            OPCM,
            SUBSPACE_BOOSTING,
            LOW_RANK,
            PASSTHROUGH,
        )
    }
)
"""Every method under its own name."""

_ALIASES = {alias: method for method in METHODS.values() for alias in method.aliases}


def method_named(name: str, line: int | None = None) -> Method:
    """The method called ``name``, by its name or an alias.

    Raises:
        ExpressionError: for an unknown name, with the nearest known one.
    """
    found = METHODS.get(name) or _ALIASES.get(name)
    if found is not None:
        return found
    known = [*METHODS, *_ALIASES]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    fix = f"did you mean {near[0]}?" if near else f"known methods: {', '.join(sorted(known))}"
    raise ExpressionError(Problem(f"unknown method {name!r}", line=line, fix=fix))
