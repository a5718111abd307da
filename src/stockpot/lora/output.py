"""The folder of an adapter, as PEFT writes it: weights, settings, a card, a receipt; it appears when it is complete."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import xxhash

from stockpot.architecture.lora_settings import CONFIG_NAME
from stockpot.checkpoint.dtypes import DType
from stockpot.checkpoint.header import HeaderEntry, encode_header
from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.checkpoint.reader import PayloadReader
from stockpot.checkpoint.storage import cannot_write, write_all, write_file
from stockpot.checkpoint.tensorhash import PIECE, TensorHash
from stockpot.errors import ExecutionError, Problem
from stockpot.execute.evaluate import Bytes
from stockpot.execute.receipt import RECEIPT_NAME, plain, receipt_bytes
from stockpot.execute.versions import versions
from stockpot.execute.workplace import Workplace, published
from stockpot.kernels import convert
from stockpot.lora.card import adapter_card
from stockpot.lora.report import Loss, Report
from stockpot.methods.declare import Floats
from stockpot.planning.model import Step
from stockpot.provenance.identity import described
from stockpot.provenance.receipts import FORMAT, file_hash, sealed

__all__ = [
    "SINGLE_NAME",
    "WEIGHTS_NAME",
    "Factors",
    "Files",
    "Made",
    "Put",
    "Writing",
    "one_method",
    "peft_factors",
    "written",
]

WEIGHTS_NAME = "adapter_model.safetensors"

SINGLE_NAME = "pytorch_lora_weights.safetensors"
"""Of a file without settings; diffusers finds it in a folder by that name."""

Put = Callable[[Step | None, int, Bytes], None]
"""Takes the bytes of a tensor from some place on."""

_PIECE = 1 << 20

_ROOT = "base_model.model."
_ENTRY = 400
"""More bytes than an entry of a header takes beside its name, twice as many as real ones have."""


@dataclass(frozen=True)
class Factors:
    """What is written of a module.

    Args:
        module: Its name.
        a, b: Shapes (rank, columns…) and (rows, rank, 1…), as PEFT has them.
        embedding: Whether they are an embedding's.
        loss: What they hold of the change.
        bias: What is added to the module's bias.
        magnitude: Lengths of DoRA, as (ending of its name, values).
    """

    module: str
    a: Floats
    b: Floats
    loss: Loss
    embedding: bool = False
    bias: Floats | None = None
    magnitude: tuple[str, Floats] | None = None

    @property
    def rank(self) -> int:
        """Inner dimension."""
        return int(self.a.shape[0])

    def tensors(self) -> Iterator[tuple[str, Floats]]:
        """Name and values of each tensor."""
        start = f"{_ROOT}{self.module}."
        kind = ("lora_embedding_A", "lora_embedding_B") if self.embedding else ("lora_A.weight", "lora_B.weight")
        yield start + kind[0], self.a
        yield start + kind[1], self.b
        if self.bias is not None:
            yield f"{start}lora_B.bias", self.bias
        if self.magnitude is not None:
            yield start + self.magnitude[0], self.magnitude[1]


def one_method(name: str) -> dict[str, Any]:
    """What stands for the recipe of a verb that has none."""
    return {"documents": [{"merge_method": name}]}


def peft_factors(left: Floats, right: Floats, shape: tuple[int, ...], *, crossed: bool) -> tuple[Floats, Floats]:
    """(A, B) as PEFT has them, of a product that stands for a weight of ``shape`` as the model stores it."""
    if crossed:
        return left.T, right.T
    if len(shape) == 2:
        return right, left
    return right.reshape(-1, *shape[1:]), left.reshape(*left.shape, *(1,) * (len(shape) - 2))


@dataclass
class Files:
    """What a finished adapter consists of, for its receipt.

    Args:
        config: Its settings; None where the names tell everything.
        asked: What it was asked for, as plain data.
        inputs: Label → what was read.
        read: Key of an input's tensor → hash of its bytes.
        title: What the card calls it.
        report: What it holds.
        resolved: A recipe as plain data, or what stands for one: lineage tells its methods.
    """

    config: Mapping[str, Any] | None
    asked: Mapping[str, Any]
    inputs: Mapping[str, Checkpoint]
    read: Mapping[tuple[str, str], str]
    title: str
    report: Report
    seed: int = 0
    resolved: Mapping[str, Any] = field(default_factory=dict)


class Writing:
    """The file of weights: tensors one after the other, the header last, in the room that was left for it.

    Args:
        path: The file.
        names: At least the names of all tensors that will come; only their lengths count.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path = path
        self._room = 8 + _ENTRY + sum(len(json.dumps(name)) + _ENTRY for name in names)
        self._room += -self._room % 8
        self._entries: list[HeaderEntry] = []
        self._hashes: list[TensorHash] = []
        self._place = 0
        self.header = b""
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise cannot_write(path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def begin(self, name: str, dtype: DType, shape: tuple[int, ...]) -> Put:
        """Room for a tensor; returned is what takes its bytes, in any order."""
        size = dtype.nbytes(int(np.prod(shape, dtype=np.int64)))
        place, found = self._place, TensorHash(size)
        self._entries.append(HeaderEntry(name, dtype, tuple(shape), place, place + size))
        self._hashes.append(found)
        self._place += size

        def put(_: Step | None, start: int, data: Bytes) -> None:
            try:
                write_all(self._file, data.data.cast("B"), self._room + place + start)
            except OSError as error:
                raise cannot_write(self._path, error, name) from error
            found.add(start, data.data)

        return put

    def add(self, name: str, dtype: DType, values: Floats) -> None:
        """A tensor that is there, rounded once.

        Raises:
            ExecutionError: when a number is too large for the dtype, or not finite.
        """
        put = self.begin(name, dtype, values.shape)
        flat = np.ascontiguousarray(values, np.float64).reshape(-1)
        out: Bytes = np.empty(dtype.nbytes(flat.size), np.uint8)
        if flat.size and convert.narrow_block(flat, flat.size, out, dtype.kernel):
            message = f"a factor is too large for {dtype.torch_name}, or not finite"
            raise ExecutionError(Problem(message, tensor=name, fix="write another dtype: --dtype float32"))
        if flat.size:
            put(None, 0, out)

    def copy(self, ref: TensorRef, reader: PayloadReader) -> None:
        """A stored tensor, byte for byte."""
        put = self.begin(ref.name, ref.dtype, ref.shape)
        for start in range(0, ref.nbytes, _PIECE):
            data: Bytes = np.empty(min(_PIECE, ref.nbytes - start), np.uint8)
            reader.read(ref, start, data.data)
            put(None, start, data)

    def finish(self, *, durable: bool) -> dict[str, dict[str, Any]]:
        """Write the header; name → row of the receipt, in the order of the file."""
        header = encode_header(self._entries, {"format": "pt"})
        header = (self._room - 8).to_bytes(8, "little") + header[8:] + b" " * (self._room - len(header))
        try:
            write_all(self._file, header, 0)
            os.ftruncate(self._file, self._room + self._place)
            if durable:
                os.fsync(self._file)
        except OSError as error:
            raise cannot_write(self._path, error) from error
        self.header = header
        return {
            entry.name: {
                "file": self._path.name,
                "dtype": entry.dtype.code,
                "shape": list(entry.shape),
                "hash": found.hexdigest(),
            }
            for entry, found in zip(self._entries, self._hashes, strict=True)
        }

    @property
    def name(self) -> str:
        """Of the file, without its folder."""
        return self._path.name

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._room + self._place


@dataclass(frozen=True)
class Made:
    """A finished adapter: where it lies, and what it holds."""

    folder: Path
    report: Report
    nbytes: int


@contextmanager
def _place(out: Path, *, overwrite: bool, durable: bool) -> Iterator[Path]:
    """The folder in which files are made that then become ``out``; after an error nothing is left."""
    work = Workplace(out)
    overwrite = overwrite or published(out)  # of a run that was killed before it had cleaned up: made again, the same
    nothing: dict[str, Any] = {"versions": versions(), "recipe": "an adapter", "inputs": {}, "small files": {}}
    with work.claimed():
        journal, _ = work.begin(nothing, overwrite=overwrite, restart=False)
        try:
            yield work.model
            work.publish(journal, overwrite=overwrite, durable=durable)
        except OSError as error:
            raise cannot_write(error.filename or work.folder, error) from error
        finally:
            journal.close()
            work.tidy()


def written(
    out: Path,
    names: Sequence[str],
    fill: Callable[[Writing], Files],
    *,
    weights: str = WEIGHTS_NAME,
    overwrite: bool = False,
    durable: bool = True,
) -> Made:
    """Make the adapter ``out``.

    Args:
        names: Of all its tensors; see :class:`Writing`.
        fill: Writes them and tells the rest.
        weights: Name of the file of weights.

    Raises:
        PlanError: when ``out`` exists or another process writes it.
        StockpotError: what ``fill`` raises, and for a disk that fails; nothing is left then.
    """
    with _place(out, overwrite=overwrite, durable=durable) as folder, Writing(folder / weights, names) as file:
        files = fill(file)
        rows = file.finish(durable=durable)
        texts = {"README.md": adapter_card(files)}
        if files.config is not None:
            texts[CONFIG_NAME] = json.dumps(files.config, indent=2, ensure_ascii=False) + "\n"
        small = {name: write_file(folder / name, (texts[name].encode(),), durable=durable) for name in sorted(texts)}
        receipt = _receipt(files, rows, file, small)
        write_file(folder / RECEIPT_NAME, (receipt_bytes(receipt),), durable=durable)
    return Made(out, files.report, file.size)


def _receipt(
    files: Files, rows: Mapping[str, Mapping[str, Any]], file: Writing, small: Mapping[str, str]
) -> dict[str, Any]:
    """As that of a merge, without what repeats it."""
    header = xxhash.xxh3_128_hexdigest(file.header)
    whole = file_hash(header, (row["hash"] for row in rows.values()))
    weights = {"bytes": file.size, "header_xxh3": header, "xxh3": whole}
    small_files = {name: {"xxh3": digest} for name, digest in small.items()}
    return sealed(
        {
            "format": FORMAT,
            "versions": versions(),
            "seed": int(files.seed),
            "resolved": plain(dict(files.resolved)),
            "adapter": plain(dict(files.asked)),
            "report": plain(files.report.as_data()),
            "inputs": {label: described(source, files.read) for label, source in sorted(files.inputs.items())},
            "hash": f"xxh3_128; of a tensor, of the digests of its pieces of {PIECE} bytes; of a file of tensors, "
            "of the digests of its header and tensors",
            "tensors": dict(rows),
            "files": {file.name: weights} | small_files,
        }
    )
