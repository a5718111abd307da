"""TALL masks: which entries of a merged task vector matter to a task; consensus: which matter to several."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.kernels import codes
from stockpot.methods.declare import Base, Citation, Elementwise, Law, Method, Parameter, Resolved, Space
from stockpot.methods.elementwise.atoms import Atom, Combine
from stockpot.methods.elementwise.operation import Operation, operation
from stockpot.methods.elementwise.parameters import TASK, chosen

__all__ = ["AGREEMENT", "CONSENSUS", "TALL_MASK", "THRESHOLD", "Agree"]

_WANG_2024 = Citation(
    "Ke Wang and Nikolaos Dimitriadis and Guillermo Ortiz-Jimenez and François Fleuret and Pascal Frossard",
    "Localizing Task Information for Improved Model Merging and Compression",
    2024,
    "arXiv:2405.07813",
    "equations 5 and 7",
)

THRESHOLD = Parameter(
    "threshold",
    "an entry matters to a task when it is larger than this times what the other tasks add up to; 0.2 to 0.6",
    default=0.4,
    per_model=True,
    low=0.0,
)

AGREEMENT = Parameter("agreement", "number of tasks to which an entry must matter", default=2, kind="int", low=0.0)


@dataclass(frozen=True)
class Agree:
    """Keeps the elements that matter to at least ``least`` inputs: |x_i| > threshold_i × |Σ x − x_i|."""

    threshold: tuple[float, ...]
    least: float

    def operations(self, models: int) -> tuple[Operation, ...]:
        """A vote."""
        return (operation(codes.AGREE, models, self.threshold, (self.least,) * models),)


@dataclass(frozen=True)
class TallMask:
    """1 where an element matters to the chosen input; 0 elsewhere."""

    threshold: tuple[float, ...]
    chosen: tuple[float, ...]

    def operations(self, models: int) -> tuple[Operation, ...]:
        """A comparison."""
        return (operation(codes.CHOSEN, models, self.threshold, self.chosen),)


def _consensus(p: Resolved) -> tuple[Atom, ...]:
    return (Agree(p["threshold"], float(p["agreement"])), Combine("none"))


def _tall_mask(p: Resolved) -> tuple[Atom, ...]:
    return (TallMask(p["threshold"], chosen(p["task"], p.models)), Combine("none"))


CONSENSUS = Method(
    name="consensus",
    summary="Adds the task vectors and keeps the entries that matter to at least two tasks.",
    formula="base + lambda * m * T,  T = sum_i d_i,  m = [sum_i [|d_i| > t_i |T - d_i|] >= k],  d_i = x_i - base",
    cites=_WANG_2024,
    family=Elementwise(_consensus),
    base=Base.REQUIRED,
    on="delta",
    parameters=(
        THRESHOLD,
        AGREEMENT,
    ),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    notes=(
        "The multi-task vector T is the plain sum, as in the paper's task arithmetic; lambda is searched in (0, 1].",
        "The paper chooses each threshold on validation data.",
    ),
    scaled=True,
)

TALL_MASK = Method(
    name="tall_mask",
    summary="The mask of the entries that matter to one task: a checkpoint of zeros and ones.",
    formula="[|d_t| > t_t |T - d_t|],  T = sum_i d_i,  d_i = x_i - base,  for one task t",
    cites=_WANG_2024,
    family=Elementwise(_tall_mask),
    base=Base.REQUIRED,
    on="delta",
    parameters=(TASK, THRESHOLD),
    laws=frozenset({Law.DETERMINISTIC}),
    notes=(
        "The result is a mask, not a model; masked applies it: base + mask * (merged - base) restores a task's model.",
        "dtype: float8_e4m3fn stores a mask in one byte an entry, exactly.",
    ),
    gives=Space.WEIGHTS,
)
