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
from stockpot.methods.registry import METHODS

__all__ = [
    "MethodFunction",
    "arcee_fusion",
    "breadcrumbs",
    "breadcrumbs_ties",
    "cart",
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
    "iso_c",
    "iso_cts",
    "karcher",
    "linear",
    "lines",
    "lm_cocktail",
    "low_rank",
    "magmax",
    "magnitude_prune",
    "masked",
    "model_stock",
    "multislerp",
    "nearswap",
    "nuslerp",
    "opcm",
    "passthrough",
    "pcb",
    "perpendicular",
    "ram",
    "ramplus_tl",
    "random_prune",
    "regmean",
    "sce",
    "slerp",
    "subspace_boosting",
    "tall_mask",
    "task_arithmetic",
    "ties",
    "tsv_m",
    "warp",
    "wise_ft",
    "wsm",
    "wudi",
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


arcee_fusion = MethodFunction(METHODS["arcee_fusion"])
breadcrumbs = MethodFunction(METHODS["breadcrumbs"])
breadcrumbs_ties = MethodFunction(METHODS["breadcrumbs_ties"])
cart = MethodFunction(METHODS["cart"])
consensus = MethodFunction(METHODS["consensus"])
cosine_weighted = MethodFunction(METHODS["cosine_weighted"])
dare_linear = MethodFunction(METHODS["dare_linear"])
dare_ties = MethodFunction(METHODS["dare_ties"])
della = MethodFunction(METHODS["della"])
della_linear = MethodFunction(METHODS["della_linear"])
ema = MethodFunction(METHODS["ema"])
emr = MethodFunction(METHODS["emr"])
emr_mask = MethodFunction(METHODS["emr_mask"])
emr_task = MethodFunction(METHODS["emr_task"])
fisher = MethodFunction(METHODS["fisher"])
geometric_median = MethodFunction(METHODS["geometric_median"])
iso_c = MethodFunction(METHODS["iso_c"])
iso_cts = MethodFunction(METHODS["iso_cts"])
karcher = MethodFunction(METHODS["karcher"])
linear = MethodFunction(METHODS["linear"])
lines = MethodFunction(METHODS["lines"])
lm_cocktail = MethodFunction(METHODS["lm_cocktail"])
low_rank = MethodFunction(METHODS["low_rank"])
magmax = MethodFunction(METHODS["magmax"])
magnitude_prune = MethodFunction(METHODS["magnitude_prune"])
masked = MethodFunction(METHODS["masked"])
model_stock = MethodFunction(METHODS["model_stock"])
multislerp = MethodFunction(METHODS["multislerp"])
nearswap = MethodFunction(METHODS["nearswap"])
nuslerp = MethodFunction(METHODS["nuslerp"])
opcm = MethodFunction(METHODS["opcm"])
passthrough = MethodFunction(METHODS["passthrough"])
pcb = MethodFunction(METHODS["pcb"])
perpendicular = MethodFunction(METHODS["perpendicular"])
ram = MethodFunction(METHODS["ram"])
ramplus_tl = MethodFunction(METHODS["ramplus_tl"])
random_prune = MethodFunction(METHODS["random_prune"])
regmean = MethodFunction(METHODS["regmean"])
sce = MethodFunction(METHODS["sce"])
slerp = MethodFunction(METHODS["slerp"])
subspace_boosting = MethodFunction(METHODS["subspace_boosting"])
tall_mask = MethodFunction(METHODS["tall_mask"])
task_arithmetic = MethodFunction(METHODS["task_arithmetic"])
ties = MethodFunction(METHODS["ties"])
tsv_m = MethodFunction(METHODS["tsv_m"])
warp = MethodFunction(METHODS["warp"])
wise_ft = MethodFunction(METHODS["wise_ft"])
wsm = MethodFunction(METHODS["wsm"])
wudi = MethodFunction(METHODS["wudi"])
