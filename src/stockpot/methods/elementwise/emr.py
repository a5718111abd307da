"""EMR-Merging: one unified task vector; a mask and a rescaler for each task."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.kernels import codes
from stockpot.methods.declare import Base, Citation, Elementwise, Law, Method, Resolved, Space
from stockpot.methods.elementwise.atoms import Atom, Combine, Elect, MatchL1, restoring_l1
from stockpot.methods.elementwise.magmax import Largest
from stockpot.methods.elementwise.operation import Operation, Sums, operation
from stockpot.methods.elementwise.parameters import MODEL_SCOPE, TASK, chosen

__all__ = ["EMR", "EMR_MASK", "EMR_TASK"]

_HUANG_2024 = Citation(
    "Chenyu Huang and Peng Ye and Tao Chen and Tong He and Xiangyu Yue and Wanli Ouyang",
    "EMR-Merging: Tuning-Free High-Performance Model Merging",
    2024,
    "arXiv:2405.17461",
    "algorithm 1",
)

_VARIANTS = {"tensor_means": "the rescaler compares sums of each tensor's mean magnitude (the official code)"}
_SIGNS = "Where the task vectors add up to 0, the unified sign is + (the official code takes -)."


@dataclass(frozen=True)
class Restore:
    """The unified entry where the chosen input agrees with its sign; 0 elsewhere and in the other inputs."""

    chosen: tuple[float, ...]

    def operations(self, models: int) -> tuple[Operation, ...]:
        """An election, the largest, a mask."""
        return (operation(codes.RESTORE, models, (1.0,) * models, self.chosen),)


@dataclass(frozen=True)
class MaskL1:
    """The factor that :class:`MatchL1` would multiply with, where entries are not 0."""

    means: bool

    def operations(self, models: int) -> tuple[Operation, ...]:
        """A pass that adds up, then a mask."""
        return (operation(codes.BINARY, models, needs=(Sums(restoring_l1, means=self.means),)),)


def _emr(_: Resolved) -> tuple[Atom, ...]:
    return (Elect(), Largest(), Combine("none"))


def _means(p: Resolved) -> bool:
    return p.variant == "tensor_means"


def _emr_task(p: Resolved) -> tuple[Atom, ...]:
    return (Restore(chosen(p["task"], p.models)), MatchL1(means=_means(p)), Combine("none"))


def _emr_mask(p: Resolved) -> tuple[Atom, ...]:
    return (Restore(chosen(p["task"], p.models)), MaskL1(_means(p)), Combine("none"))


EMR = Method(
    name="emr",
    summary="The unified task vector: per entry the elected sign and the largest magnitude that has it.",
    formula="base + lambda * u,  u = s max{ |d_i| : sign(d_i) = s },  s = sign(sum_i d_i),  d_i = x_i - base",
    cites=_HUANG_2024,
    family=Elementwise(_emr),
    base=Base.REQUIRED,
    on="delta",
    laws=frozenset({Law.IDEMPOTENT, Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    notes=("An ingredient: emr_mask gives the mask and rescaler of each task, masked puts them together.", _SIGNS),
    scaled=True,
)

EMR_TASK = Method(
    name="emr_task",
    summary="One task's model restored from the unified task vector, its mask and its rescaler.",
    formula="base + r_t m_t u,  m_t = [d_t u > 0],  r_t = sum |d_t| / sum |m_t u|,  for one task t; u as in emr",
    cites=_HUANG_2024,
    family=Elementwise(_emr_task),
    base=Base.REQUIRED,
    on="delta",
    parameters=(TASK, MODEL_SCOPE),
    laws=frozenset({Law.IDEMPOTENT, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    variants=_VARIANTS,
    notes=(_SIGNS,),
    scaled=True,
)

EMR_MASK = Method(
    name="emr_mask",
    summary="One task's mask times its rescaler: a checkpoint that restores the task's model from the unified one.",
    formula="r_t m_t,  m_t = [d_t u > 0],  r_t = sum |d_t| / sum |m_t u|,  for one task t; u as in emr",
    cites=_HUANG_2024,
    family=Elementwise(_emr_mask),
    base=Base.REQUIRED,
    on="delta",
    parameters=(TASK, MODEL_SCOPE),
    laws=frozenset({Law.DETERMINISTIC}),
    variants=_VARIANTS,
    notes=("The result is a mask, not a model; dtype: float32 keeps the rescaler exact.", _SIGNS),
    gives=Space.WEIGHTS,
)
