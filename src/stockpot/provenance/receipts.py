"""The file ``stockpot-receipt.json``: its bytes, its hashes, and reading one that a stranger made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xxhash

from stockpot.checkpoint.jsons import BadJsonError, Limits, parse_json
from stockpot.errors import CheckpointError, Problem
from stockpot.provenance.shape import (
    Misshapen,
    anything,
    file_name,
    hexadecimal,
    list_of,
    map_of,
    natural,
    optional,
    record,
    text,
    whole,
)
from stockpot.provenance.small import beginning

__all__ = ["DIGEST", "FORMAT", "RECEIPT_NAME", "digest_of", "file_hash", "read_receipt", "receipt_bytes", "sealed"]

RECEIPT_NAME = "stockpot-receipt.json"

FORMAT = 2

DIGEST = "digest"
"""Key of the receipt's hash of itself: xxh3-128 of the bytes it would have without that key."""

MAX_BYTES = 200_000_000
"""A larger file is no receipt; one of 100,000 tensors and four inputs has some 60 MB."""

_BYTES_A_MARK = 20
"""One of ``[ { , :`` comes before each value, which takes some 100 bytes when parsed: so many are not exceeded."""

_MAX_DEPTH = 200
"""A lineage of 32 generations nests some 80 levels deep."""

_XXH3 = hexadecimal(32)
_NAMED = {"name": file_name, "bytes": natural, "header_xxh3": _XXH3}
_INPUT = record(
    {},
    {
        "reference": text,
        "path": text,
        "hub": optional(text),
        "revision": optional(text),
        "files": list_of(record(_NAMED, {"sha256": hexadecimal(64), "xxh3": _XXH3})),
        "tensors": map_of(_XXH3),
        "licence": optional(text),
        "licence_name": text,
        "licence_link": text,
        "ancestry": map_of(anything),
        "adapter": anything,
        "part": text,
        "alphas": _XXH3,
    },
)
_TENSOR = record({"file": file_name, "dtype": text, "shape": list_of(natural), "hash": _XXH3}, {})
_RECEIPT = record(
    {"format": natural, "tensors": map_of(_TENSOR)},
    {
        "versions": map_of(text),
        "seed": whole,
        "recipe": text,
        "resolved": map_of(anything),
        "dtype": optional(text),
        "quantize": text,
        "donor": optional(text),
        "chat_template": optional(text),
        "shard_size": natural,
        "mismatched": text,
        "inputs": map_of(_INPUT),
        "files": map_of(record({"xxh3": _XXH3}, {"bytes": natural, "header_xxh3": _XXH3}), file_name),
        DIGEST: _XXH3,
    },
)


def receipt_bytes(receipt: Mapping[str, Any]) -> bytes:
    r"""The file's content. Half a surrogate pair, which a path may hold, is written as an escape.

    >>> receipt_bytes({"a": "é"}).decode()
    '{\n "a": "é"\n}\n'
    """
    return (json.dumps(receipt, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def digest_of(receipt: Mapping[str, Any]) -> str:
    """The receipt's hash of itself."""
    return str(xxhash.xxh3_128_hexdigest(receipt_bytes({k: v for k, v in receipt.items() if k != DIGEST})))


def sealed(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """``receipt`` with its hash of itself as the last key."""
    return {**receipt, DIGEST: digest_of(receipt)}


def file_hash(header: str, tensors: Iterable[str]) -> str:
    """Hash of a safetensors file: xxh3-128 of the digests of header and tensors, in the file's order.

    The header's bytes and the tensors' are all that such a file holds, so it covers every byte, and can
    be told from hashes that are known without reading the file again.
    """
    return str(xxhash.xxh3_128_hexdigest(b"".join(bytes.fromhex(digest) for digest in (header, *tensors))))


def read_receipt(folder: Path, *, most: int = MAX_BYTES) -> dict[str, Any]:
    """The receipt in ``folder``, every part of the type it should have.

    Args:
        folder: A folder that Stockpot wrote.
        most: A file of more bytes is refused unread.

    Raises:
        CheckpointError: when there is none, or it cannot be read.
    """
    path = folder / RECEIPT_NAME
    limits = Limits(most, most // _BYTES_A_MARK, most_digits=310, depth=_MAX_DEPTH, most_wide=most)
    try:
        receipt = parse_json(beginning(path, most + 1), limits)
        _RECEIPT(receipt, "receipt")
    except FileNotFoundError as error:
        raise CheckpointError(Problem("no receipt: this folder was not written by stockpot", file=str(path))) from error
    except (BadJsonError, Misshapen) as error:
        raise CheckpointError(Problem(f"this is not a receipt of stockpot: {error}", file=str(path))) from error
    except OSError as error:
        raise CheckpointError(Problem(f"the receipt cannot be read: {error}", file=str(path))) from error
    if receipt["format"] != FORMAT:
        message = f"a receipt of format {receipt['format']}; this version knows format {FORMAT}"
        raise CheckpointError(Problem(message, file=str(path), fix="use the version of stockpot that wrote it"))
    return dict(receipt)
