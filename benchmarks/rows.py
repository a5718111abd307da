"""The rows of the benchmark: methods with their recipes, the models that they read, and what they may take."""

import math
from dataclasses import dataclass

MOST_FLOORS = 4.0
"""No method may take longer than this many floors, however many passes it declares."""


@dataclass(frozen=True)
class Method:
    """One row of the benchmark.

    `models` are the checkpoints it reads. `k_target` is the most that (wall - 1 s) / floor may be; None
    is 1.5 for each pass that the plan declares, at most 4; infinite for decompositions, which take what they
    take. `mergekit_target` is the least that mergekit's
    wall over stockpot's should be.
    """

    name: str
    models: tuple[str, ...]
    recipe: str
    k_target: float | None = None
    mergekit_target: float = 0.0
    method: str = ""

    def most(self, passes: int) -> float:
        """The target of k."""
        return min(1.5 * passes, MOST_FLOORS) if self.k_target is None else self.k_target


def _entries(models: tuple[str, ...], parameters: str) -> str:
    """The `models:` part of a recipe, each model with the same parameters (or none)."""
    lines = ["models:"]
    for model in models:
        lines.append(f"  - model: {{{model}}}")
        if parameters:
            lines.append(f"    parameters: {{{parameters}}}")
    return "\n".join(lines) + "\n"


def _methods(tuned: tuple[str, ...]) -> tuple[Method, ...]:
    """The rows of the benchmark; the methods for many models take the fine-tunes `tuned`."""
    pair = ("ft1", "ft2")
    base = "base_model: {base}\n"
    weighted = _entries(tuned, "weight: 0.4")
    trimmed = _entries(tuned, "weight: 0.4, density: 0.5") + base
    between = _entries(pair, "") + "base_model: {ft1}\nparameters: {t: 0.4}\n"
    return (
        Method("linear", tuned, weighted, 1.5, 8),
        Method("task_arithmetic", ("base", *tuned), weighted + base, 1.5, 8),
        Method("slerp", pair, between, 2, 8),
        Method("model_stock", ("base", *pair), _entries(pair, "") + base, 2, 5),
        Method("ties", ("base", *tuned), trimmed, 3, 40),
        Method("dare_ties", ("base", *tuned), trimmed, 2.5, 25),
    )


def _streamed() -> tuple[Method, ...]:
    """The other streamed methods, on three fine-tunes where they take so many."""
    tuned, base = ("ft1", "ft2", "ft3"), "base_model: {base}\n"
    rows = (
        ("ties over the model", "ties", "weight: 0.4, density: 0.5", "scope: model", 3),
        ("breadcrumbs", "breadcrumbs", "weight: 0.4, density: 0.5", "", 3),
        ("breadcrumbs_ties", "breadcrumbs_ties", "weight: 0.4, density: 0.5", "", 3),
        ("della", "della", "weight: 0.4, density: 0.5", "", 3),
        ("della_linear", "della_linear", "weight: 0.4, density: 0.5", "", 3),
        ("dare_linear", "dare_linear", "weight: 0.4, density: 0.5", "", 3),
        ("magnitude_prune", "magnitude_prune", "density: 0.5", "", 3),
        ("sce", "sce", "", "select_topk: 0.5", 3),
        ("pcb", "pcb", "", "", 3),
        ("consensus", "consensus", "", "", 3),
        ("emr", "emr", "", "", 3),
        ("emr_task", "emr_task", "", "task: 1", 3),
        ("ram", "ram", "", "", 3),
        ("ramplus_tl", "ramplus_tl", "", "", 3),
        ("magmax", "magmax", "", "", 3),
        ("nearswap", "nearswap", "", "t: 0.001", 1),
        ("arcee_fusion", "arcee_fusion", "", "", 1),
        ("nuslerp, rows", "nuslerp", "weight: 0.4", "nuslerp_flatten: false", 2),
        ("multislerp", "multislerp", "weight: 0.4", "", 3),
        ("geometric_median", "geometric_median", "", "", 3),
        ("warp", "warp", "", "", 3),
        ("lines", "lines", "", "alpha: 0.3, beta: 0.4", 3),
    )
    return tuple(
        Method(
            name,
            ("base", *tuned[:count]),
            _entries(tuned[:count], each) + base + (f"parameters: {{{whole}}}\n" if whole else ""),
            method=method,
        )
        for name, method, each, whole, count in rows
    )


MATRIX = tuple(
    Method(name, ("base", "ft1", "ft2", "ft3"), _entries(("ft1", "ft2", "ft3"), "") + rest, math.inf)
    for name, rest in (
        ("tsv_m", "base_model: {base}\n"),
        ("iso_c", "base_model: {base}\n"),
        ("iso_cts", "base_model: {base}\n"),
        ("cart", ""),
        ("wudi", "base_model: {base}\n"),
        ("opcm", "base_model: {base}\n"),
        ("subspace_boosting", "base_model: {base}\n"),
        ("low_rank", "base_model: {base}\n"),
    )
)
"""RegMean is missing: it needs Gram matrices of activations, which random models have none of."""

CORE = _methods(("ft1", "ft2", "ft3"))
METHODS = (*CORE, *_streamed(), *MATRIX)
BIG_METHODS = _methods(("ft1", "ft2"))
