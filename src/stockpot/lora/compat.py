"""PEFT's own forms of ``add_weighted_adapter``, for those who need its numbers.

Most of them work on the factors A and B one by one. A and B are defined only up to an invertible matrix between them,
so such a result depends on how a change happens to be split, and holds products of one adapter's A with another's B.
It is not a merge of the changes; how far it is from one is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from stockpot.execute.matrices import Normals
from stockpot.lora.factors import Product, stacked
from stockpot.methods.declare import Floats

__all__ = ["FORMS", "Form", "Member", "exact", "merged"]


@dataclass(frozen=True)
class Form:
    """One of PEFT's forms.

    Args:
        prune: What is done to each tensor first: ``none``, ``magnitude`` or ``random``.
        elect: Whether a sign is elected for each entry, and only those that agree are averaged.
        on: ``factors``, ``changes`` (then cut by SVD) or ``stack`` (factors side by side).
    """

    prune: str = "none"
    elect: bool = False
    on: str = "factors"

    @property
    def needs_density(self) -> bool:
        """Whether it has a density."""
        return self.prune != "none"


_PER_FACTOR = {
    "linear": Form(),
    "ties": Form("magnitude", elect=True),
    "dare_linear": Form("random"),
    "dare_ties": Form("random", elect=True),
    "magnitude_prune": Form("magnitude"),
}

FORMS = {
    **_PER_FACTOR,
    "cat": Form(on="stack"),
    "svd": Form(on="changes"),
    **{f"{n}_svd": Form(f.prune, f.elect, "changes") for n, f in _PER_FACTOR.items() if n != "linear"},
}
"""By PEFT's names of them."""


@dataclass(frozen=True)
class Member:
    """An adapter's part in one module, as PEFT stores it: B · A is its change.

    Args:
        b, a: Factors as they were trained, without the scale.
        scale: alpha / rank.
        weight: What the user gave.
    """

    b: Floats
    a: Floats
    scale: float
    weight: float

    @property
    def change(self) -> Product:
        """Its change, not weighted."""
        return Product(self.scale * self.b, self.a)


def merged(form: Form, members: Sequence[Member], density: float, normals: Normals) -> Product:
    """What PEFT makes of ``members``; for forms on changes, before they are cut (left is dense, right the identity).

    Raises:
        ValueError: for ranks that differ where factors are combined one by one.
    """
    if form.on == "stack":
        return _stack(members)
    if form.on == "changes":
        dense = _combined(form, [m.change.dense for m in members], [m.weight for m in members], density, normals)
        return Product(dense, np.eye(dense.shape[1]))
    if len({m.a.shape[0] for m in members}) > 1:
        ranks = ", ".join(str(m.a.shape[0]) for m in members)
        raise ValueError(f"factors of ranks {ranks} cannot be combined one by one")
    given = [m.weight * m.scale for m in members]
    signed = [math.copysign(math.sqrt(abs(w)), w) for w in given]
    a = _combined(form, [m.a for m in members], signed, density, normals)
    b = _combined(form, [m.b for m in members], [math.sqrt(abs(w)) for w in given], density, normals)
    return Product(b, a)


def exact(form: Form, members: Sequence[Member], density: float) -> Product:
    """The same form on the changes themselves, to which a per-factor form is compared.

    What is dropped at random has its own value as expectation, so nothing is dropped here.
    """
    if form.prune == "magnitude" or form.elect:
        own = Form("magnitude" if form.prune == "magnitude" else "none", form.elect, "changes")
        return merged(own, members, density, Normals("", 0))
    return _stack(members)


def _stack(members: Sequence[Member]) -> Product:
    first = members[0]
    parts = [Product(m.b, m.weight * m.scale * m.a) for m in members]
    return stacked(parts, first.b.shape[0], first.a.shape[1])


def _combined(
    form: Form, tensors: Sequence[Floats], weights: Sequence[float], density: float, normals: Normals
) -> Floats:
    prune: dict[str, Callable[[Floats], Floats]] = {
        "none": lambda x: x,
        "magnitude": partial(_largest, density=density),
        "random": partial(_dropped, density=density, normals=normals),
    }
    kept = [prune[form.prune](x) for x in tensors]
    if not form.elect:
        total: Floats = sum((w * x for w, x in zip(weights[1:], kept[1:], strict=True)), weights[0] * kept[0])
        return total
    elected = np.where(sum(kept[1:], kept[0]) >= 0, 1.0, -1.0)
    agree = [np.sign(x) == elected for x in kept]
    parts = [w * x * own for w, x, own in zip(weights, kept, agree, strict=True)]
    count = sum((own.astype(np.float64) for own in agree[1:]), agree[0].astype(np.float64))
    found: Floats = sum(parts[1:], parts[0]) / np.maximum(count, 1.0)
    return found


def _largest(x: Floats, density: float) -> Floats:
    """int(density · n) entries of largest magnitude, of equal ones the first."""
    if density >= 1.0:
        return x
    flat = x.reshape(-1)
    order = np.argsort(-np.abs(flat), kind="stable")[: int(density * flat.size)]
    found = np.zeros_like(flat)
    found[order] = flat[order]
    return found.reshape(x.shape)


def _dropped(x: Floats, density: float, normals: Normals) -> Floats:
    """Each entry kept with probability ``density``, and divided by it."""
    if density >= 1.0:
        return x
    kept = normals.even(x.size).reshape(x.shape) < density
    found: Floats = np.where(kept, x / density, 0.0) if density > 0.0 else np.zeros_like(x)
    return found
