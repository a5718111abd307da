"""What the tensors of a model are, as far as an adapter needs to know: from names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from stockpot.architecture.tied import embedding_of, is_head
from stockpot.errors import PlanError, Problem
from stockpot.planning.views import Meta

__all__ = ["CATEGORIES", "Saved", "category_of", "stored_crossed"]

Saved = Literal["embeddings", "heads", "norms", "biases", "others", "weights"]

CATEGORIES: tuple[Saved, ...] = ("embeddings", "heads", "norms", "biases", "others", "weights")
"""Kinds of tensors that can be stored whole; ``weights`` are those that could be factorised."""

_NORM = re.compile(
    r"(^|[._])(ln|norm|layernorm|rmsnorm|bn|batchnorm|groupnorm)[_\d]*($|[._])|norm$|^ln_|(^|\.)ln_", re.IGNORECASE
)


def category_of(name: str, shape: Sequence[int]) -> Saved:
    """The kind of a tensor, from its name and shape.

    >>> category_of("model.layers.0.q_proj.weight", (4, 4)), category_of("model.norm.weight", (4,))
    ('weights', 'norms')
    """
    module, _, last = name.rpartition(".")
    if is_head(name):
        return "heads"
    if embedding_of([name]) is not None or re.search(r"(^|[._])(embed\w*|wpe|wte)($|[._])", module):
        return "embeddings"
    if last == "bias" and not _NORM.search(module.rpartition(".")[2]):
        return "biases"
    if _NORM.search(module.rpartition(".")[2]) or (last == "weight" and len(shape) == 1):
        return "norms"
    return "weights" if last == "weight" and len(shape) in (2, 4) else "others"


def stored_crossed(metas: Mapping[str, Meta]) -> bool | None:
    """Whether matrices are stored as (in, out), told by the lengths of the biases beside them; None where none tells.

    Raises:
        PlanError: where layers of both kinds stand in one model, and a square one could be either.
    """
    votes: dict[bool, str] = {}
    square = None
    for name, meta in metas.items():
        bias = metas.get(name.removesuffix("weight") + "bias")
        if not name.endswith(".weight") or len(meta.shape) != 2 or bias is None or len(bias.shape) != 1:
            continue
        if meta.shape[0] == meta.shape[1]:
            square = name
        elif bias.shape[0] in meta.shape:
            votes[bias.shape[0] == meta.shape[1]] = name
    if len(votes) == 2 and square is not None:
        message = (
            f"{votes[True]} is stored as (in, out), {votes[False]} as (out, in): of square weights nobody can tell"
        )
        raise PlanError(Problem(message, tensor=square, fix="--exclude what is stored otherwise"))
    return next(iter(votes), None)
