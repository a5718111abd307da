"""What an adapter does, measured on its factors: the product of the two is never formed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from stockpot.architecture.lora import Module, lora_of
from stockpot.architecture.lora_products import Product, Thin
from stockpot.checkpoint.adapters import open_adapter
from stockpot.checkpoint.folder import natural
from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.checkpoint.open import open_checkpoint
from stockpot.checkpoint.reader import PayloadReader
from stockpot.errors import ExecutionError, PlanError, Problem
from stockpot.execute.matrices import one_thread
from stockpot.execute.values import Values, values_of
from stockpot.execute.workspace import Workspace
from stockpot.kernels import convert
from stockpot.kernels.sizes import ROW
from stockpot.methods.declare import Floats
from stockpot.planning.adapters.adapted import AdaptedView
from stockpot.planning.blocks import BLOCK
from stockpot.planning.quantising import must_fit
from stockpot.planning.structure import LeafView
from stockpot.planning.views import Context

__all__ = ["Portrait", "Seen", "portrait", "singular_values", "stored_values"]

Progress = Callable[[int, int], None]

_MOST = 0.9


@dataclass(frozen=True)
class Seen:
    """One module of an adapter.

    Args:
        name: As the adapter calls it.
        rank, alpha, scale: Of it; the rank is 0 where all is stored whole.
        norm: Frobenius norm of the change, scale · B·A.
        relative: That over the norm of the weight; None where the base is not given, or the weight is zero.
        effective_rank: exp(−Σ p log p), p the singular values over their sum; 0 where nothing changes.
        most: How many singular values hold 90 % of the squared norm.
        singular_values: Of the change, the largest first.
        dora: Whether the weights of each output then get a length of their own, which is not in the numbers above.
        kind: ``lora``, ``loha`` or ``lokr``.
    """

    name: str
    rank: int
    alpha: float
    scale: float
    norm: float
    relative: float | None
    effective_rank: float
    most: int
    singular_values: tuple[float, ...]
    dora: bool = False
    kind: str = "lora"


@dataclass(frozen=True)
class Portrait:
    """An adapter.

    Args:
        adapter: As it was written.
        made_for: The base that its settings name.
        modules: What it changes, layer 2 before layer 10.
        whole: Names of the tensors that take the place of the base's.
        added: Names of the tensors that whole tensors are added to.
        others: Component → how many modules of it the file changes, which were not asked for.
    """

    adapter: str
    made_for: str | None
    modules: tuple[Seen, ...]
    whole: tuple[str, ...]
    added: tuple[str, ...] = ()
    others: Mapping[str, int] = field(default_factory=dict)


def portrait(adapter: str, base: str | None = None, *, progress: Progress | None = None) -> Portrait:
    """Measure an adapter.

    Args:
        adapter, base: Folders or hub ids.
        progress: Called with (bytes of the base read, bytes in all).

    Raises:
        StockpotError: when one cannot be opened, or the adapter is not understood or not for this base.
    """
    opened = open_adapter(adapter)
    lora = lora_of(opened)
    with PayloadReader(stamps=opened.stamps) as reader:
        norms = {} if base is None else _norms(open_checkpoint(base), opened, progress)
        changed: dict[str, Module | Product] = {**lora.modules, **lora.products}
        ordered = sorted(changed.items(), key=lambda pair: natural(pair[0]))
        modules = tuple(_seen(module, norms.get(name), reader) for name, module in ordered)
    made_for = opened.config.get("base_model_name_or_path")
    named = made_for if isinstance(made_for, str) else None
    return Portrait(adapter, named, modules, tuple(lora.replaced), tuple(lora.added), lora.others)


def _norms(base: Checkpoint, adapter: Checkpoint, progress: Progress | None) -> Mapping[str, float]:
    """Name of a module → norm of the weight that it changes."""
    context = Context({})
    view = AdaptedView(LeafView(base), adapter, context, None)
    if context.problems:
        raise PlanError(*context.problems)
    changed = {module.name: base.tensors[source] for source, module in view.changed()}
    total, done = sum(ref.nbytes for ref in changed.values()), 0
    found = {}
    must_fit(base, None)
    with PayloadReader(stamps=base.stamps) as reader:
        for name, ref in changed.items():
            found[name] = _norm(ref, values_of(base, ref.name, reader))
            done += ref.nbytes
            if progress is not None:
                progress(done, total)
    return found


def _norm(ref: TensorRef, values_at: Values) -> float:
    """Frobenius norm, block by block."""
    total, space = 0.0, Workspace()
    for start in range(0, ref.elements, BLOCK):
        values = values_at(start, min(BLOCK, ref.elements - start), space)
        _must_be_finite(values, ref)
        total += float(np.dot(values, values))
    return math.sqrt(total)


def stored_values(ref: TensorRef, start: int, n: int, reader: PayloadReader) -> Floats:
    """Elements start … start + n of a tensor as float64.

    Raises:
        ExecutionError: for a number that is not finite.
    """
    raw = np.empty(n * ref.dtype.itemsize, np.uint8)
    reader.read(ref, start * ref.dtype.itemsize, raw.data)
    values = np.empty(n)
    convert.widen_block(raw, ref.dtype.kernel, n, values, np.zeros(ROW))
    _must_be_finite(values, ref)
    return values


def _must_be_finite(values: Floats, ref: TensorRef) -> None:
    if not np.isfinite(values).all():
        raise ExecutionError(Problem("a weight that is not finite", tensor=ref.name, file=ref.file))


def _seen(module: Module | Product, weight: float | None, reader: PayloadReader) -> Seen:
    values = abs(module.scale) * _spectrum(module, reader)
    norm = float(np.sqrt(np.sum(values**2)))
    return Seen(
        module.name,
        module.rank,
        module.alpha,
        module.scale,
        norm,
        None if not weight else norm / weight,
        _effective_rank(values),
        _most(values),
        tuple(float(v) for v in values),
        isinstance(module, Module) and module.magnitude is not None,
        module.kind if isinstance(module, Product) else "lora",
    )


def _spectrum(module: Module | Product, reader: PayloadReader) -> Floats:
    """Singular values of a module's change before it is scaled, the largest first."""
    if isinstance(module, Module):
        return singular_values(*_matrices(Thin(module.b, module.a), reader))
    parts = [_matrices(part, reader) for part in module.parts]
    if module.kind == "lokr":  # those of a Kronecker product are the products of those of its factors
        one, other = (singular_values(*pair) for pair in parts)
        return np.sort(np.multiply.outer(one, other).reshape(-1))[::-1]
    left, right = parts[0]
    for b, a in parts[1:]:  # (B₁A₁) ∘ (B₂A₂) = B·A, B having all products of columns, A of rows
        left = (left[:, :, None] * b[:, None, :]).reshape(len(left), -1)
        right = (right[:, None, :] * a[None, :, :]).reshape(-1, right.shape[1])
    return singular_values(left, right)


def _matrices(part: Thin, reader: PayloadReader) -> tuple[Floats, Floats]:
    """(B, A) whose product ``part`` is; what is stored whole, and the identity."""
    left = stored_values(part.left, 0, part.left.elements, reader).reshape(part.left.shape[0], -1)
    if part.right is None:
        return left, np.eye(part.columns)
    right = stored_values(part.right, 0, part.right.elements, reader).reshape(part.right.shape[0], -1)
    if part.core is not None:
        core = stored_values(part.core, 0, part.core.elements, reader).reshape(*part.core.shape[:2], -1)
        right = np.einsum("ijk,jc->ick", core, right).reshape(part.rank, -1)
    return (left.T if part.crossed else left), right


def singular_values(b: Floats, a: Floats) -> Floats:
    """Singular values of b·a, the largest first: those of the small core that QR leaves of the factors.

    >>> singular_values(np.array([[3.0], [4.0]]), np.array([[2.0, 0.0]])).round(12).tolist()
    [10.0]
    """
    with one_thread():
        left, right = np.linalg.qr(b)[1], np.linalg.qr(a.T)[1]
        found: Floats = np.linalg.svd(left @ right.T, compute_uv=False)
    return found


def _effective_rank(values: Floats) -> float:
    total = values.sum()
    if total == 0:
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-np.sum(shares * np.log(shares))))


def _most(values: Floats) -> int:
    """How many values, the largest first, hold 90 % of the sum of squares."""
    energy = np.cumsum(values**2)
    return int(np.searchsorted(energy, _MOST * energy[-1])) + 1 if energy.size and energy[-1] > 0 else 0
