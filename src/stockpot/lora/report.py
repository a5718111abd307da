"""What an adapter that was made holds of what was asked for, module by module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Intended", "Loss", "Part", "Report", "table"]


@dataclass(frozen=True)
class Loss:
    """One module.

    Args:
        module: Its name.
        rank: Of the factors that were written.
        norm: Frobenius norm of the change before it was cut.
        retained: Share of its square that is left, in [0, 1]; of compat forms, of their own result.
        distance: Of PEFT's forms: ‖form − exact merge‖ / ‖exact merge‖; None elsewhere.
    """

    module: str
    rank: int
    norm: float
    retained: float
    distance: float | None = None

    @property
    def error(self) -> float:
        """‖what is lost‖ / ‖the change‖."""
        return math.sqrt(max(0.0, 1.0 - self.retained))


@dataclass(frozen=True)
class Report:
    """All of them.

    Args:
        modules: In the order of the file.
        whole: Names of tensors that are stored whole.
        dropped: Name of each tensor that was left out on demand → norm of its change.
        notes: What a user may want to know.
        memory: Bytes of resident memory that were planned.
        exact: Of PEFT's forms: the norm of the exact merge, for the distance of the whole.
    """

    modules: tuple[Loss, ...]
    whole: tuple[str, ...] = ()
    dropped: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    memory: int = 0
    exact: float | None = None
    apart: float | None = None

    @property
    def retained(self) -> float:
        """Share of the squared norm of all changes that is left."""
        total = math.fsum(m.norm**2 for m in self.modules)
        return math.fsum(m.retained * m.norm**2 for m in self.modules) / total if total else 1.0

    @property
    def distance(self) -> float | None:
        """Of PEFT's forms, over all modules: ‖form − exact merge‖ / ‖exact merge‖."""
        if self.exact is None or self.apart is None:
            return None
        return self.apart / self.exact if self.exact else 0.0

    def as_data(self) -> dict[str, Any]:
        """As JSON data, modules as they stand in the file."""
        modules = [
            {k: v for k, v in {**asdict(m), "error": m.error}.items() if v is not None or k != "distance"}
            for m in self.modules
        ]
        data: dict[str, Any] = {"retained": self.retained, "distance": self.distance, "modules": modules}
        data |= {"whole": list(self.whole), "dropped": dict(self.dropped), "notes": list(self.notes)}
        return {k: v for k, v in data.items() if v is not None}


@dataclass(frozen=True)
class Part:
    """One module that would get factors.

    Args:
        module: Its name.
        shape: Of the weight.
        rank: At most that of its factors.
        dense: Whether its whole change is formed; else its factors alone.
    """

    module: str
    shape: tuple[int, ...]
    rank: int
    dense: bool

    @property
    def elements(self) -> int:
        """At most those of both factors."""
        return self.rank * (self.shape[0] + math.prod(self.shape[1:]))


@dataclass(frozen=True)
class Intended:
    """What a command would do.

    Args:
        file: Name of the file of weights.
        modules: That would get factors.
        whole: Tensors that would be stored whole; of an extraction, those that would be where they have changed.
        memory: Bytes of resident memory that it would take.
        bits: Of an element of the factors.
        notes: What a user may want to know.
    """

    file: str
    modules: tuple[Part, ...]
    whole: tuple[str, ...]
    memory: int
    bits: int
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Of all factors, at most."""
        return sum(part.elements for part in self.modules) * self.bits // 8

    def as_data(self) -> dict[str, Any]:
        """As JSON data."""
        modules = [{**asdict(part), "shape": list(part.shape)} for part in self.modules]
        told = {"file": self.file, "bytes": self.nbytes, "memory": self.memory, "modules": modules}
        return {"dry_run": True, **told, "whole": list(self.whole), "notes": list(self.notes)}


def table(modules: Sequence[Loss], most: int | None = None) -> list[str]:
    """The modules as lines of a table, those that lost most first.

    Args:
        most: No more rows than this, the number of the others told.
    """
    apart = any(m.distance is not None for m in modules)
    head = ("module", "rank", "norm", "retained", "error", *(("distance",) if apart else ()))
    worst = sorted(modules, key=lambda m: (-(m.distance or 0.0), m.retained, m.module))
    shown = worst if most is None else worst[:most]
    rows = [
        (
            m.module,
            str(m.rank),
            f"{m.norm:.4g}",
            f"{100 * m.retained:.2f} %",
            f"{m.error:.4f}",
            *((f"{m.distance or 0.0:.3f}",) if apart else ()),
        )
        for m in shown
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in (head, *rows)
    ]
    return lines + ([f"… and {len(worst) - len(shown)} more"] if len(shown) < len(worst) else [])
