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
from stockpot.methods.span.linear import LINEAR, TASK_ARITHMETIC, WISE_FT
from stockpot.methods.span.model_stock import MODEL_STOCK
from stockpot.methods.span.spherical import NUSLERP, SLERP
from stockpot.methods.structural.passthrough import PASSTHROUGH

__all__ = [
    "MethodFunction",
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
        lines.append(f"    {p.python_name}: {p.doc} ({default}{each})")
    return "\n".join([*lines, "", f"Source: {method.cites}"])


dare_linear = MethodFunction(DARE_LINEAR)
dare_ties = MethodFunction(DARE_TIES)
linear = MethodFunction(LINEAR)
model_stock = MethodFunction(MODEL_STOCK)
nuslerp = MethodFunction(NUSLERP)
passthrough = MethodFunction(PASSTHROUGH)
slerp = MethodFunction(SLERP)
task_arithmetic = MethodFunction(TASK_ARITHMETIC)
ties = MethodFunction(TIES)
wise_ft = MethodFunction(WISE_FT)
