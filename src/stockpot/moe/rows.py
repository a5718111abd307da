"""The rows of a router, by each way of making them; float64, one (experts, hidden) for each layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stockpot.execute.noise import normal_numbers
from stockpot.execute.rows import random_key
from stockpot.kernels.random import philox_block
from stockpot.kernels.sizes import ROW
from stockpot.methods.declare import Floats
from stockpot.moe.examples import Example
from stockpot.moe.states import States
from stockpot.moe.training import trained_rows

__all__ = ["even_weights", "from_prompts", "random_rows", "trained_router"]


def random_rows(layers: int, experts: int, hidden: int, seed: int, *, uniform: bool) -> Floats:
    """Standard normal rows, or uniform ones in ±1/√hidden; keyed by seed and layer, counted by element.

    Returns:
        (layers, experts, hidden).
    """
    found = np.empty((layers, experts, hidden))
    for layer in range(layers):
        if uniform:
            words = np.empty(-(-experts * hidden // ROW) * ROW, np.uint32)
            philox_block(0, words.size // ROW, *random_key(f"router {layer}", seed, "uniform"), words)
            values = (words[: experts * hidden] * 2.0**-32 * 2.0 - 1.0) / np.sqrt(hidden)
        else:
            values = normal_numbers(0, experts * hidden, f"router {layer}", seed, "router")
        found[layer] = values.reshape(experts, hidden)
    return found


def from_prompts(
    pooled: Floats, examples: Sequence[Example], experts: int, left_out: Sequence[int] = (), *, total: bool = False
) -> Floats:
    """Rows from states of prompts: mean of those that an expert wants less that of those it does not, of length 1.

    An expert none of whose prompts is left keeps them. A row is zero where both sides are the same.

    Args:
        pooled: (layers, examples, hidden).
        examples: The prompts.
        experts: How many experts.
        left_out: Numbers of the prompts that are not to be used.
        total: Take sums in place of means.

    Returns:
        (layers, experts, hidden).
    """
    found = np.zeros((pooled.shape[0], experts, pooled.shape[2]))
    for expert in range(experts):
        for sign, chosen in (
            (1.0, [i for i, e in enumerate(examples) if expert in e.experts]),
            (-1.0, [i for i, e in enumerate(examples) if expert in e.against]),
        ):
            kept = [i for i in chosen if i not in left_out] or (chosen if sign > 0 else [])
            if kept:
                part = pooled[:, kept].sum(axis=1)
                found[:, expert] += sign * (part if total else part / len(kept))
    lengths = np.linalg.norm(found, axis=2, keepdims=True)
    rows: Floats = np.divide(found, lengths, out=np.zeros_like(found), where=lengths > 0)
    return rows


def even_weights(examples: Sequence[Example], owner: npt.NDArray[np.int64], experts: int) -> Floats:
    """A weight for each token, so that every expert's prompts count alike, and each prompt of an expert too.

    Tokens of prompts that no expert wants get 0.
    """
    counts = np.bincount(owner, minlength=len(examples))
    found = np.zeros(len(owner))
    for expert in range(experts):
        own = [i for i, e in enumerate(examples) if expert in e.experts and counts[i]]
        for number in own:
            found[owner == number] += 1.0 / (experts * len(own) * counts[number])
    return found


def trained_router(states: States, examples: Sequence[Example], experts: int, left_out: Sequence[int] = ()) -> Floats:
    """Rows that were trained, layer by layer, to tell from a token of a prompt the expert that wants the prompt.

    An expert none of whose prompts is left keeps them.

    Returns:
        (layers, experts, hidden).
    """
    kept = set(range(len(examples))) - set(left_out)
    for expert in range(experts):
        own = [i for i, e in enumerate(examples) if expert in e.experts]
        kept |= set(own) if not kept & set(own) else set()
    wanted = np.array([i in kept and bool(examples[i].experts) for i in states.owner])
    owner = states.owner[wanted]
    targets = np.zeros((len(owner), experts))
    for row, number in enumerate(owner):
        targets[row, list(examples[number].experts)] = 1.0 / len(examples[number].experts)
    weights = even_weights(examples, owner, experts)
    return np.stack([trained_rows(own[wanted].astype(np.float64), targets, weights) for own in states.tokens])
