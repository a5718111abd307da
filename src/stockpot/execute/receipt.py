"""The receipt: what was merged, from what, with what; enough to verify or repeat a merge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import xxhash

from stockpot.checkpoint.tensorhash import PIECE
from stockpot.execute.versions import versions
from stockpot.expression import Leaf, leaves
from stockpot.planning.model import Plan
from stockpot.printable import redacted
from stockpot.provenance.expressions import as_records
from stockpot.provenance.identity import described
from stockpot.provenance.receipts import FORMAT, RECEIPT_NAME, file_hash, read_receipt, receipt_bytes, sealed

__all__ = ["RECEIPT_NAME", "labels_of", "make_receipt", "plain", "read_receipt", "receipt_bytes"]


def make_receipt(
    plan: Plan, hashes: Mapping[str, str], read: Mapping[tuple[str, str], str], small: Mapping[str, str]
) -> dict[str, Any]:
    """The receipt of a finished merge as plain data; hashes are hexadecimal.

    A function of recipe, inputs and versions alone. What ``read`` and ``small`` lack is left out.

    Args:
        plan: What was carried out.
        hashes: Output tensor name → hash of its bytes (:class:`~stockpot.checkpoint.tensorhash.TensorHash`).
        read: Key of an input tensor (:attr:`TensorRef.key`) → hash of its bytes as they were read.
        small: Name of every small file beside the tensors → hash of its bytes.
    """
    receipt: dict[str, Any] = {
        "format": FORMAT,
        "versions": versions(),
        "seed": int(plan.seed),
        "recipe": redacted(plan.recipe_text),
        "resolved": plain(dict(plan.resolved)),
        **_asked(plan),
        "inputs": {label: described(source, read) for label, source in sorted(plan.sources.items())},
        "hash": f"xxh3_128; of a tensor, of the digests of its pieces of {PIECE} bytes; of a file of tensors, "
        "of the digests of its header and tensors",
        "tensors": {
            step.name: {
                "file": step.file,
                "dtype": step.dtype.code,
                "shape": list(step.shape),
                "hash": hashes[step.name],
            }
            for step in plan.steps
        },
        "files": _files(plan, hashes, small),
    }
    return sealed(receipt)


def labels_of(plan: Plan) -> dict[tuple[str, str | None, int], str]:
    """Key of each leaf → the label under which its checkpoint stands among the plan's sources."""
    found = [] if plan.recipe is None else list(leaves(plan.recipe.expression))
    donor = None if plan.recipe is None else plan.recipe.donor
    if donor is not None and all(leaf.key != donor.key for leaf in found):
        found.append(donor)  # a base that is not merged, and only gives its config
    return dict(zip((leaf.key for leaf in found), plan.sources, strict=False))


def _asked(plan: Plan) -> dict[str, Any]:
    """What the merge was asked for, in the form from which it can be repeated."""
    recipe = plan.recipe
    if recipe is None:
        return {}
    labels = labels_of(plan)

    def label(leaf: Leaf) -> str:
        return labels[leaf.key]

    return {
        "expression": as_records(recipe.expression, label),
        "dtype": recipe.dtype,
        **({} if recipe.quantize is None else {"quantize": recipe.quantize}),
        "donor": None if recipe.donor is None else labels.get(recipe.donor.key),
        "shard_size": int(plan.shard_size),
        **({"mismatched": "base"} if recipe.mismatched else {}),
        **({} if recipe.chat_template is None else {"chat_template": recipe.chat_template}),
    }


def _files(plan: Plan, hashes: Mapping[str, str], small: Mapping[str, str]) -> dict[str, Any]:
    """Every file that was written but the receipt."""
    files: dict[str, Any] = {}
    for shard in plan.shards:
        header = xxhash.xxh3_128_hexdigest(shard.header)
        whole = file_hash(header, (hashes[name] for name in shard.offsets))
        files[shard.file] = {"bytes": shard.size, "header_xxh3": header, "xxh3": whole}
    return files | {name: {"xxh3": digest} for name, digest in sorted(small.items()) if name != RECEIPT_NAME}


def plain(data: Any) -> Any:
    """JSON data: secrets hidden; numbers that are not finite, which JSON lacks, are words."""
    if isinstance(data, Mapping):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    return redacted(data) if isinstance(data, str) else data
