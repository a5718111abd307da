"""The plan as plain data: operands, steps, and the whole. Made from headers alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Protocol

from stockpot.checkpoint.dtypes import DType
from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.checkpoint.writer import ShardLayout
from stockpot.errors import Problem
from stockpot.methods.declare import Method, Resolved
from stockpot.planning.forms import Form
from stockpot.recipe.model import Recipe

__all__ = [
    "GIB",
    "MIB",
    "Compute",
    "Cost",
    "Limits",
    "Operand",
    "Plan",
    "Read",
    "Report",
    "Step",
    "Survey",
    "bytes_of",
    "ranges",
    "reads",
]

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Read:
    """A tensor of an input checkpoint, as it is stored."""

    ref: TensorRef
    model: str

    @property
    def dtype(self) -> DType:
        """Dtype of its values."""
        return self.ref.dtype


@dataclass(frozen=True, slots=True)
class Compute:
    """A method applied to one tensor of each input.

    Args:
        method: The method; None is a plain linear combination by ``factors``.
        inputs: One operand per model, all of one shape.
        shape: That shape.
        companions: Other tensors that the method reads; ``minus`` says of each whether the base is subtracted.
        base: With a base, inputs stand for their differences to it.
        anchored: Whether the base is added to the result.
        scale: Factor of the result, before the base is added.
        factors: Coefficients of a plain linear combination.
        resolved: Parameters of a method.
        labels: One name per input, which keys its random numbers.
        key: Tensor name and seed, likewise.
        dtype: Rounded to this dtype before it is used further; None keeps float64.
        line: Recipe line of the method.
        group: Number of the survey whose statistics of the whole model it uses; 0 for none.
        form: The way of its own in which the operands make it, where no method does; inputs may have other shapes.
    """

    method: Method | None
    inputs: tuple[Operand, ...]
    shape: tuple[int, ...]
    companions: tuple[Operand, ...] = ()
    minus: tuple[bool, ...] = ()
    base: Operand | None = None
    anchored: bool = False
    scale: float = 1.0
    factors: tuple[float, ...] = ()
    resolved: Resolved | None = None
    labels: tuple[str, ...] = ()
    key: tuple[str, int] = ("", 0)
    dtype: DType | None = None
    line: int | None = None
    group: int = 0
    form: Form | None = None

    @property
    def operands(self) -> tuple[Operand, ...]:
        """Inputs, companions, then the base."""
        return (*self.inputs, *self.companions, *(() if self.base is None else (self.base,)))

    @property
    def name(self) -> str:
        """Name of the method, for people."""
        plain = "sum" if self.form is None else self.form.name
        return plain if self.method is None else self.method.name


Operand = Read | Compute


def reads(operand: Operand) -> Iterator[Read]:
    """Every stored tensor below ``operand``."""
    if isinstance(operand, Read):
        yield operand
        return
    for child in operand.operands:
        yield from reads(child)


def ranges(operand: Operand) -> Iterator[tuple[Read, int, int]]:
    """Every stored tensor below ``operand`` with the first byte and the number of bytes that one pass reads of it."""
    if isinstance(operand, Read):
        yield operand, 0, operand.ref.nbytes
        return
    for number, child in enumerate(operand.operands):
        if isinstance(child, Read) and operand.form is not None:
            first, count = operand.form.taken(number, child.ref.elements)
            yield child, child.dtype.nbytes(first), child.dtype.nbytes(count)
        else:
            yield from ranges(child)


def bytes_of(operand: Operand) -> int:
    """Bytes that one pass over ``operand`` reads."""
    return sum(nbytes for _, _, nbytes in ranges(operand))


@dataclass(frozen=True, slots=True)
class Step:
    """One output tensor: small, serialisable and independent of all others.

    Args:
        name: Name in the output.
        dtype, shape: Of the output.
        source: What to compute; a :class:`Read` is copied byte for byte.
        file, offset: Where its bytes go: name within the output folder, first byte.
        passes: How often its inputs are read.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    source: Operand
    file: str = ""
    offset: int = 0
    passes: int = 1

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the output tensor."""
        return self.dtype.nbytes(self.elements)

    @property
    def input_bytes(self) -> int:
        """Bytes read, all passes counted."""
        return self.passes * bytes_of(self.source)


@dataclass(frozen=True)
class Survey:
    """Passes over all tensors of a merge for statistics of the whole model, before anything is written.

    Args:
        group: Its number.
        method: Name of the method.
        line: Recipe line of the method.
        members: What is surveyed, by tensor name.
        passes: How often these inputs are read.
    """

    group: int
    method: str
    line: int | None
    members: Mapping[str, Compute]
    passes: int

    @property
    def input_bytes(self) -> int:
        """Bytes read, all passes counted."""
        return self.passes * sum(map(bytes_of, self.members.values()))


@dataclass(frozen=True)
class Limits:
    """What a merge may use.

    Args:
        memory: Bytes of resident memory of the whole process.
        threads: Worker threads.
        shard_size: Payload bytes of an output file.
    """

    memory: int = GIB
    threads: int = 2
    shard_size: int = 5_000_000_000


@dataclass(frozen=True)
class Cost:
    """What a merge will take.

    Args:
        read: Bytes read, all passes counted.
        written: Bytes written.
        passes: Most passes that any tensor needs.
        memory: Peak resident bytes expected, with ``threads`` workers.
        threads: Workers that fit the budget.
        disk_free: Free bytes where the output goes; None when nothing is written.
        seconds: Rough time from a warm page cache, at ``assumed_rate`` bytes per second.
    """

    read: int
    written: int
    passes: int
    memory: int
    threads: int
    disk_free: int | None
    seconds: float
    assumed_rate: float


class Report(Protocol):
    """A small file that tells how a merge went, written when all tensors are."""

    @property
    def name(self) -> str:
        """Of the file."""

    def content(self, told: Mapping[str, Mapping[str, Any]]) -> Iterator[bytes]:
        """The file, piece by piece, from what the evaluators of tensors told, by tensor name."""


@dataclass(frozen=True)
class Plan:
    """Everything that will happen, decided; nothing has been read but headers.

    Args:
        steps: One per output tensor, in the order of the output.
        shards: Layout of the output's files.
        sidecars: Small files that go beside them: name → bytes, or the file to copy.
        sources: The opened checkpoints by label.
        cost: What it takes.
        notes: What a user may want to know.
        surveys: Passes over the whole model that come first, in order.
        seed: Key of all random numbers.
        tokenizer: What is told of tokens and rows, where the result's vocabulary was decided.
        recipe: What was planned, to be written down.
        shard_size: Payload bytes of an output file.
        reports: Small files that are made of what is found while the tensors are made.
    """

    steps: tuple[Step, ...]
    shards: tuple[ShardLayout, ...]
    sidecars: tuple[tuple[str, bytes | Path], ...]
    sources: Mapping[str, Checkpoint]
    cost: Cost
    notes: tuple[Problem, ...] = ()
    surveys: tuple[Survey, ...] = ()
    seed: int = 0
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    resolved: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None
    shard_size: int = Limits.shard_size
    reports: tuple[Report, ...] = ()
