"""Hashing stored models, and comparing a folder with what its receipt says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from stockpot.checkpoint.folder import WEIGHT_SUFFIXES
from stockpot.checkpoint.header import Header, HeaderEntry, read_header
from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.checkpoint.places import cannot_read, member, must_be_file
from stockpot.checkpoint.reader import PayloadReader
from stockpot.checkpoint.storage import pieces_of
from stockpot.errors import CheckpointError
from stockpot.execute.evaluate import Phase
from stockpot.execute.hashing import hash_phases
from stockpot.execute.receipt import RECEIPT_NAME, read_receipt, receipt_bytes
from stockpot.execute.schedule import run_all
from stockpot.provenance.receipts import DIGEST, digest_of

__all__ = ["hash_tensors", "model_hash", "small_differences", "verify"]

Progress = Callable[[int, int], None]


def hash_tensors(
    checkpoint: Checkpoint, *, threads: int | None = None, progress: Progress | None = None
) -> dict[str, str]:
    """The hash of every tensor, in one streaming pass: name → hexadecimal digest."""
    hashes: dict[str, str] = {}
    moved = [0]

    def count(nbytes: int) -> None:
        moved[0] += nbytes

    def phases(ref: TensorRef, reader: PayloadReader) -> Iterator[Phase]:
        def finished(digest: str) -> None:
            hashes[ref.name] = digest

        return hash_phases(ref, reader, count, finished)

    with PayloadReader() as reader:
        runs = (phases(ref, reader) for ref in checkpoint.tensors.values())
        run_all(runs, threads or os.cpu_count() or 1, _polled(progress, moved, checkpoint.nbytes))
    return {name: hashes[name] for name in checkpoint.tensors}


def model_hash(hashes: dict[str, str]) -> str:
    """One hash of a model: xxh3-128 over its sorted ``name:hash`` lines."""
    return xxhash.xxh3_128_hexdigest("".join(f"{n}:{h}\n" for n, h in sorted(hashes.items())).encode())


def verify(folder: Path, *, threads: int | None = None, progress: Progress | None = None) -> tuple[str, ...]:
    """Every difference between the model in ``folder`` and its receipt; empty when there is none.

    Tensors are read once; headers, small files and the receipt itself are checked too, and weights that the
    receipt does not know are named. Every byte of every file that the receipt lists is covered.

    Raises:
        CheckpointError: when the receipt cannot be read.
    """
    receipt = read_receipt(folder)
    files = receipt.get("files", {})
    rows: Mapping[str, Any] = receipt["tensors"]
    listed = dict.fromkeys([*(row["file"] for row in rows.values()), *(n for n in files if _holds_tensors(files[n]))])
    strange = [n for n in _weights_in(folder, listed) if n not in listed and n not in files]
    headers, found = _headers(folder, [*listed, *strange])
    refs, twice = _tensors(folder, headers)
    stored = Checkpoint(str(folder), refs)
    hashes = hash_tensors(stored, threads=threads, progress=progress)
    found += twice
    changed = _tensor_differences(rows, refs, hashes)
    where = {n: file for file, header in headers.items() for n in _named(file, header)}
    blamed = {where[n] if n in refs else rows[n]["file"] for n in changed}
    found += changed.values()
    whole = [n for n in headers if n not in blamed and _holds_tensors(files.get(n, {}))]
    found += [told for n in whole if (told := _header_difference(n, headers[n], files[n])) is not None]
    found += [f"{name}: not in the receipt" for name in strange]
    found += small_differences(folder, files)
    return (*found, *_receipt_difference(folder, receipt))


def small_differences(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What differs in the small files of ``folder`` from ``files`` of a receipt."""
    found = []
    for name, row in files.items():
        if _holds_tensors(row):
            continue
        try:
            digest = _hash_of(member(folder, name))
        except CheckpointError as error:
            found.append(f"{name}: {error.problems[0].message}")
            continue
        if digest is None:
            found.append(f"{name}: missing")
        elif digest != row["xxh3"]:
            found.append(f"{name}: its bytes have changed")
    return found


def _hash_of(path: Path) -> str | None:
    """Hash of a whole file; None when there is none."""
    digest = xxhash.xxh3_128()
    try:
        must_be_file(path)
        for piece in pieces_of(path):
            digest.update(piece)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_read(path, error) from error
    return str(digest.hexdigest())


def _holds_tensors(row: Mapping[str, Any]) -> bool:
    return "header_xxh3" in row


def _weights_in(folder: Path, listed: Iterable[str]) -> list[str]:
    """Files that hold weights by their names, in the folder itself and in those of ``listed`` files."""
    places = ["", *sorted({name.rpartition("/")[0] for name in listed} - {""})]
    there = (place for place in places if (folder / place).is_dir())
    return [
        f"{place}/{path.name}" if place else path.name
        for place in there
        for path in sorted((folder / place).iterdir())
        if path.name.endswith(WEIGHT_SUFFIXES) and not path.is_dir()
    ]


def _named(file: str, header: Header) -> dict[str, HeaderEntry]:
    """The tensors of a file by the names that they have in the model: those of a folder begin with its name."""
    place = file.rpartition("/")[0]
    return {f"{place}/{e.name}" if place else e.name: e for e in header.entries}


def _headers(folder: Path, names: list[str]) -> tuple[dict[str, Header], list[str]]:
    """The headers of those files that are there and whole, and what is wrong with the others."""
    headers: dict[str, Header] = {}
    found = []
    for name in names:
        if not name.endswith(".safetensors"):
            continue
        try:
            path = member(folder, name)
            if os.path.lexists(path):
                headers[name] = read_header(path)
            else:
                found.append(f"{name}: missing")
        except CheckpointError as error:
            found.append(f"{name}: {error.problems[0].message}")
    return headers, found


def _tensors(folder: Path, headers: Mapping[str, Header]) -> tuple[dict[str, TensorRef], list[str]]:
    refs: dict[str, TensorRef] = {}
    twice = []
    for file, header in headers.items():
        for name, e in _named(file, header).items():
            if name in refs:
                twice.append(f"{name}: in two files, {Path(refs[name].file or '').name} and {file}")
            else:
                refs[name] = TensorRef(name, e.dtype, e.shape, str(folder / file), e.begin)
    return refs, twice


def _tensor_differences(
    rows: Mapping[str, Any], refs: Mapping[str, TensorRef], hashes: Mapping[str, str]
) -> dict[str, str]:
    """Tensor → what differs."""
    found = {name: f"{name}: missing" for name in rows if name not in refs}
    found |= {name: f"{name}: not in the receipt" for name in refs if name not in rows}
    for name, row in rows.items():
        ref = refs.get(name)
        if ref is None:
            continue
        if [ref.dtype.code, list(ref.shape)] != [row["dtype"], row["shape"]]:
            found[name] = f"{name}: is {ref.dtype.code}{list(ref.shape)}, was {row['dtype']}{row['shape']}"
        elif hashes[name] != row["hash"]:
            found[name] = f"{name}: its bytes have changed"
    return found


def _header_difference(name: str, header: Header, row: Mapping[str, Any]) -> str | None:
    """A header that was rewritten around tensors that are as they were."""
    if header.file_bytes != row.get("bytes", header.file_bytes):
        return f"{name}: has {header.file_bytes} bytes, had {row['bytes']}"
    return None if header.xxh3 == row["header_xxh3"] else f"{name}: its header has changed"


def _receipt_difference(folder: Path, receipt: Mapping[str, Any]) -> list[str]:
    """Whether the receipt is as it was written."""
    if DIGEST not in receipt:
        return [f"{RECEIPT_NAME}: has no hash of itself"]
    whole = receipt_bytes(receipt) == (folder / RECEIPT_NAME).read_bytes()
    return [] if whole and digest_of(receipt) == receipt[DIGEST] else [f"{RECEIPT_NAME}: its bytes have changed"]


def _polled(progress: Progress | None, moved: list[int], total: int) -> Callable[[], None] | None:
    return None if progress is None else lambda: progress(min(moved[0], total), total)
