"""Changes that are more than one product of two factors: LoHa, LoKr, and LoRA with a core between its factors.

Shapes and scales follow LyCORIS (https://github.com/KohakuBlueleaf/LyCORIS) and PEFT, which agree:

=====  ======================================  ===============================================
LoHa   scale · (w1_a · w1_b) ∘ (w2_a · w2_b)   Hyeon-Woo et al. 2022, arXiv:2108.06098
LoKr   scale · (w1 ⊗ w2)                       Yeh et al. 2024, arXiv:2309.14859, §3.3
LoRA   scale · up · (mid ×₂ down)              of convolutions, the kernel in a core of its own
=====  ======================================  ===============================================

Kernels are flattened: a weight of (out, in, h, w) is a matrix of out rows and in·h·w columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

from stockpot.checkpoint.model import TensorRef
from stockpot.errors import CheckpointError, Problem

__all__ = ["KINDS", "Product", "Scaling", "Thin", "product_of"]

Scaling = Callable[[str, int, TensorRef], tuple[float, float]]
"""(module, its rank, one of its tensors) → (alpha, scale)."""

_AGAIN = "get the file again"
_MISFIT = "the file is damaged, or its parts are of different adapters: get it again"


@dataclass(frozen=True)
class Thin:
    """A matrix as an adapter holds it: stored whole, or as the product of factors.

    Args:
        left: The whole of it, or the left factor, (rows, rank); (rank, rows) where ``crossed``.
        right: The right factor, (rank, columns).
        core: Between them, (rank, rank of the right factor, kernel…): then columns are (columns of right) · kernel.
        crossed: Whether the left factor is stored transposed.
    """

    left: TensorRef
    right: TensorRef | None = None
    core: TensorRef | None = None
    crossed: bool = False

    @property
    def refs(self) -> tuple[TensorRef, ...]:
        """What is stored: left, right, core."""
        return tuple(ref for ref in (self.left, self.right, self.core) if ref is not None)

    @property
    def rank(self) -> int:
        """Inner dimension next to the left factor; 0 of a matrix that is stored whole."""
        return 0 if self.right is None else self.left.shape[0 if self.crossed else 1]

    @property
    def rows(self) -> int:
        """Rows of the matrix."""
        return self.left.shape[1 if self.crossed else 0]

    @property
    def columns(self) -> int:
        """Columns of the matrix, those of a kernel counted."""
        if self.right is None:
            return prod(self.left.shape[1:])
        return prod(self.right.shape[1:]) * self.kernel

    @property
    def kernel(self) -> int:
        """Elements of the core's kernel; 1 without a core."""
        return 1 if self.core is None else prod(self.core.shape[2:])

    @property
    def bound(self) -> int:
        """At most its rank as a matrix."""
        return self.rank or min(self.rows, self.columns)

    def fits(self) -> bool:
        """Whether the parts are a matrix."""
        flat = all(len(ref.shape) >= 2 and ref.elements for ref in self.refs)
        if not flat or self.right is None:
            return flat
        if any(n != 1 for n in self.left.shape[2:]):
            return False
        if self.core is None:
            return self.rank == self.right.shape[0]
        return self.core.shape[:2] == (self.rank, self.right.shape[0])


@dataclass(frozen=True)
class Product:
    """What an adapter adds to one module, made of one or two matrices.

    Args:
        name: Of the module, as the adapter calls it.
        kind: ``loha``: of each pair of elements the product; ``lokr``: the Kronecker product; ``lora``: the one matrix.
        parts: The matrices.
        alpha: Numerator of the scale.
        scale: Factor of the product.
    """

    name: str
    kind: Literal["loha", "lokr", "lora"]
    parts: tuple[Thin, ...]
    alpha: float
    scale: float

    @property
    def rank(self) -> int:
        """Inner dimension of the last part that has one; 0 where all are stored whole."""
        return next((part.rank for part in reversed(self.parts) if part.rank), 0)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the change."""
        one, *others = self.parts
        if self.kind != "lokr":
            return one.rows, one.columns
        return one.rows * others[0].rows, one.columns * others[0].columns

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Shape of the change, a kernel's dimensions apart where what is stored tells them."""
        part = self.parts[-1]
        told = part.core if part.core is not None else part.left if part.right is None else part.right
        rows, columns = self.shape
        return (rows, columns // prod(told.shape[2:]), *told.shape[2:])

    @property
    def flattened(self) -> bool:
        """Whether a kernel's dimensions may be hidden in the columns."""
        return self.parts[-1].core is None and self.parts[-1].right is not None and len(self.dimensions) == 2

    @property
    def bound(self) -> int:
        """At most the rank of the change as a matrix: ranks multiply in products of both kinds."""
        return min(*self.shape, prod(part.bound for part in self.parts))

    @property
    def refs(self) -> tuple[TensorRef, ...]:
        """What is stored, in the order of the parts."""
        return tuple(ref for part in self.parts for ref in part.refs)


KINDS: Mapping[str, tuple[str, ...]] = {
    "loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    "lokr": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    "lora": ("up", "down", "mid"),
}
"""Kind → what its parts are called."""


def product_of(
    name: str, kind: Literal["loha", "lokr", "lora"], parts: Mapping[str, TensorRef], scaling: Scaling
) -> Product:
    """The change that ``parts`` are all of.

    Args:
        scaling: What tells (alpha, scale) once the rank is known.

    Raises:
        CheckpointError: when a part is missing or one too many, or they do not fit each other or the settings.
    """
    made = {"loha": _loha, "lokr": _lokr, "lora": _lora}[kind](parts)
    first = next(iter(parts.values()))
    used = {ref.name for part in made or () for ref in part.refs}
    if made is None or len(used) != len(parts):
        held = ", ".join(sorted(parts))
        message = f"{name} has {held}, which are no whole change of the kind {kind}"
        raise CheckpointError(_problem(first, message, _AGAIN))
    product = Product(name, kind, made, 0.0, 0.0)
    problems = list(_misfits(product))
    if problems:
        raise CheckpointError(*problems)
    alpha, scale = scaling(name, product.rank, first)
    return Product(name, kind, made, alpha, scale)


def _loha(parts: Mapping[str, TensorRef]) -> tuple[Thin, ...] | None:
    found = [tuple(parts.get(f"hada_{part}{i}{side}") for part, side in _SIDES) for i in "12"]
    thins = [
        Thin(left, right, core, core is not None)
        for left, right, core in found
        if left is not None and right is not None
    ]
    return tuple(thins) if len(thins) == 2 and (thins[0].core is None) == (thins[1].core is None) else None


_SIDES = (("w", "_a"), ("w", "_b"), ("t", ""))


def _lokr(parts: Mapping[str, TensorRef]) -> tuple[Thin, ...] | None:
    found = []
    for i in "12":
        whole, left, right, core = (parts.get(f"lokr_{key}") for key in (f"w{i}", f"w{i}_a", f"w{i}_b", f"t{i}"))
        if whole is not None and left is None and right is None:
            found.append(Thin(whole))
        elif whole is None and left is not None and right is not None:
            found.append(Thin(left, right, core, core is not None))
    return tuple(found) if len(found) == 2 else None


def _lora(parts: Mapping[str, TensorRef]) -> tuple[Thin, ...] | None:
    if not {"up", "down", "mid"} <= parts.keys():
        return None
    return (Thin(parts["up"], parts["down"], parts["mid"]),)


def _misfits(product: Product) -> Iterator[Problem]:
    """What does not fit among the parts of a change."""
    for ref in product.refs:
        if not ref.dtype.is_float:
            yield _problem(ref, f"dtype {ref.dtype.code} of an adapter is not supported", "save it in float32")
    for part in product.parts:
        if not part.fits():
            shapes = " and ".join(f"{ref.name.rpartition('.')[2]} {ref.shape}" for ref in part.refs)
            yield _problem(part.left, f"{shapes} are no factors of a matrix: their ranks or dimensions differ", _MISFIT)
            return
    if product.kind == "loha" and len({(p.rows, p.columns) for p in product.parts}) > 1:
        one, other = ((p.rows, p.columns) for p in product.parts)
        yield _problem(product.refs[0], f"its two products have shapes {one} and {other}", _MISFIT)


def _problem(ref: TensorRef, message: str, fix: str) -> Problem:
    return Problem(message, tensor=ref.name, file=ref.file, fix=fix)
