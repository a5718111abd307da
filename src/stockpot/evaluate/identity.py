"""What makes two models the same model: the content of what they are computed from, and how, not where it lies."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import xxhash

from stockpot.checkpoint.model import Checkpoint, Stamp
from stockpot.custom import identity_of
from stockpot.evaluate.examples import content_of, digest
from stockpot.execute.receipt import labels_of
from stockpot.execute.verify import hash_tensors
from stockpot.execute.versions import versions
from stockpot.expression import Apply, Expression, Leaf
from stockpot.methods.declare import Blockwise
from stockpot.planning.model import Plan
from stockpot.provenance.expressions import as_records

__all__ = ["Memory", "NoMemory", "content_hash", "model_hash"]

_FRESH_NS = 2_000_000_000
"""A file may be written twice in one tick of its clock: what is so new is hashed again another time."""


class Memory(Protocol):
    """Remembers hashes of files by path, size and time of writing."""

    def recall(self, key: str) -> str | None:
        """The value of ``key``, if it is known."""

    def remember(self, key: str, value: str) -> None:
        """Keep ``value``."""


class NoMemory:
    """Remembers nothing."""

    def recall(self, key: str) -> str | None:  # noqa: ARG002 - the protocol's signature
        """Nothing."""
        return None

    def remember(self, key: str, value: str) -> None:
        """Nothing."""


def model_hash(plan: Plan, memory: Memory) -> str:
    """A hash of all that a model's predictions can depend on.

    It is of the expression as data with each input told by its content; of dtype, seed and small files; and of the
    versions of what computes, unless the model is only read. Paths are not in it, but where a method draws random
    numbers, which are keyed by the inputs' names as written.
    """
    recipe = plan.recipe
    assert recipe is not None
    labels = labels_of(plan)
    contents = {label: content_hash(source, memory) for label, source in plan.sources.items()}
    methods = _methods(recipe.expression)
    named = any(method.random for method in methods)

    def label(leaf: Leaf) -> str:
        known = labels[leaf.key]
        return f"{contents[known]} {plan.sources[known].label}" if named else contents[known]

    records = [_without_lines(record) for record in as_records(recipe.expression, label)]
    own = [identity_of(method) for method in methods if isinstance(method.family, Blockwise)]
    computing = {} if len(records) == 1 and recipe.dtype is None else versions()
    facts = [records, own, recipe.dtype, plan.seed if named else 0, computing]
    small = [part for name, content in plan.sidecars for part in (name, _small(content))]
    return digest(json.dumps(facts, sort_keys=True), *small).hex()


def content_hash(checkpoint: Checkpoint, memory: Memory) -> str:
    """A hash of a checkpoint's tensors (names, dtypes, shapes, bytes) and config.

    Files are read once; later their size and time of writing tell that they are the same.
    """
    key = _key(checkpoint)
    known = None if key is None else memory.recall(key)
    if known is None:
        hashes = hash_tensors(checkpoint)
        rows = [[name, ref.dtype.code, ref.shape, hashes[name]] for name, ref in sorted(checkpoint.tensors.items())]
        known = digest(json.dumps(rows), json.dumps(_told(checkpoint.config), sort_keys=True)).hex()
        if key is not None and _unchanged(checkpoint):
            memory.remember(key, known)
    return known


def _key(checkpoint: Checkpoint) -> str | None:
    """What tells that files are as they were; None where that cannot be told."""
    newest = max((stamp.mtime_ns for stamp in checkpoint.stamps.values()), default=None)
    if newest is None or newest > time.time_ns() - _FRESH_NS:
        return None
    stamps = [[path, s.nbytes, s.mtime_ns] for path, s in sorted(checkpoint.stamps.items())]
    headers = [file.get("header_xxh3") for file in checkpoint.identity.get("files", ())]
    return digest(json.dumps([stamps, headers, _told(checkpoint.config)], sort_keys=True)).hex()


def _unchanged(checkpoint: Checkpoint) -> bool:
    """Whether the files are still those that were opened."""
    try:
        return all(Stamp.of(Path(path).stat()) == stamp for path, stamp in checkpoint.stamps.items())
    except OSError:
        return False


def _told(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "_name_or_path"}


def _methods(expression: Expression) -> list[Any]:
    """Every method in a tree once, in order."""
    found: dict[int, Any] = {}
    seen: set[int] = set()

    def walk(node: Expression) -> None:
        if id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, Apply):
            found.setdefault(id(node.method), node.method)
        for child in node.children:
            walk(child)

    walk(expression)
    return list(found.values())


def _without_lines(record: Mapping[str, Any]) -> dict[str, Any]:
    """A node without its place in the recipe's text; settings keep theirs nowhere else."""
    return {key: value for key, value in record.items() if key != "line"}


def _small(content: bytes | Path) -> str:
    return xxhash.xxh3_128_hexdigest(content) if isinstance(content, bytes) else content_of([content])
