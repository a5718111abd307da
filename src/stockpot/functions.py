"""Every method as a Python function over expressions: ``sp.ties(a - base, b - base, density=0.2)``.

Parameters that each model has take one value for all or a list with one per model. A value may be a
number, a gradient over depth ``[0, 0.5, 1]`` or values by name ``[{"filter": "mlp", "value": 0.3}, …]``.
Defaults and ranges stand in the declaration: ``help(sp.ties)`` or ``stockpot methods ties``.
"""

from __future__ import annotations

from typing import Any, final

from stockpot.expression import Apply, Expression, apply
from stockpot.methods.bibtex import bibliography
from stockpot.methods.declare import REQUIRED, Method
from stockpot.methods.elementwise.dare import DARE_LINEAR, DARE_TIES
from stockpot.methods.elementwise.ties import TIES
from stockpot.methods.registry import METHODS
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

__all__ = [
    "MethodFunction",
    "cosine_weighted",
    "dare_linear",
    "dare_ties",
    "ema",
    "geometric_median",
    "karcher",
    "linear",
    "lines",
    "lm_cocktail",
    "model_stock",
    "multislerp",
    "nuslerp",
    "passthrough",
    "perpendicular",
    "slerp",
    "task_arithmetic",
    "ties",
    "warp",
    "wise_ft",
    "wsm",
]


@final
class MethodFunction:
    """A method of the registry, callable on expressions.

    >>> ties
    <stockpot method ties>
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.__doc__ = _documented(method)

    def __call__(
        self, *models: Expression, variant: str | None = None, compat: str | None = None, **parameters: Any
    ) -> Apply:
        """The method applied to ``models``; nothing is computed yet.

        Args:
            models: Weights or differences, as the method declares; all of one kind.
            variant: A variant that it declares.
            compat: ``"mergekit"`` for that tool's numerics.
            parameters: By name; ``lambda`` does not exist here: multiply the result.

        Raises:
            ExpressionError: for a wrong number or kind of models, or a parameter out of range.
        """
        return apply(self.method, models, parameters, variant=variant, compat=compat == "mergekit")

    def citation(self) -> str:
        """Its reference as BibTeX; keys are those of ``stockpot methods --cite``, so entries can stand side by side.

        >>> print(slerp.citation().splitlines()[2])
          title = {{Animating rotation with quaternion curves}},
        """
        cites = self.method.cites
        return bibliography([*(m.cites for m in METHODS.values()), cites])[cites]

    def __repr__(self) -> str:
        return f"<stockpot method {self.method.name}>"


def _documented(method: Method) -> str:
    lines = [method.summary, "", f"    {method.formula}", "", "Args:"]
    for p in method.parameters:
        default = "required" if p.default is REQUIRED else f"default {p.default}"
        each = ", per model" if p.per_model else ""
        words = f"; one of {', '.join(p.choices)}" if p.choices else ""
        lines.append(f"    {p.python_name}: {p.doc} ({default}{each}{words})")
    return "\n".join([*lines, "", *method.notes, f"Source: {method.cites}"])


cosine_weighted = MethodFunction(COSINE_WEIGHTED)
dare_linear = MethodFunction(DARE_LINEAR)
dare_ties = MethodFunction(DARE_TIES)
ema = MethodFunction(EMA)
geometric_median = MethodFunction(GEOMETRIC_MEDIAN)
karcher = MethodFunction(KARCHER)
linear = MethodFunction(LINEAR)
lines = MethodFunction(LINES)
lm_cocktail = MethodFunction(LM_COCKTAIL)
model_stock = MethodFunction(MODEL_STOCK)
multislerp = MethodFunction(MULTISLERP)
nuslerp = MethodFunction(NUSLERP)
passthrough = MethodFunction(PASSTHROUGH)
perpendicular = MethodFunction(PERPENDICULAR)
slerp = MethodFunction(SLERP)
task_arithmetic = MethodFunction(TASK_ARITHMETIC)
ties = MethodFunction(TIES)
warp = MethodFunction(WARP)
wise_ft = MethodFunction(WISE_FT)
wsm = MethodFunction(WSM)
