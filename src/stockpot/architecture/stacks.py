"""Several stacks in one model: what each is for, which is meant, which tensors go with it.

A stack's side is told by the words in its name: encoder or decoder, text or vision or sound. Words in config
keys tell the same of what they count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from stockpot.architecture.counts import counting_keys
from stockpot.architecture.layers import layer_counts, layer_of, position
from stockpot.architecture.sides import Side, side_of
from stockpot.architecture.tied import is_head

__all__ = ["end_of", "first_only", "main_stack"]

_ENDS = re.compile(r"(^|[._])(head|classifier|score|qa_outputs|cls|logits|output_projection|embed_out|prediction)")


def main_stack(names: Iterable[str], config: Mapping[str, Any]) -> tuple[str, int] | None:
    """The stack that a range of layers means, with its length; None without a single candidate.

    The only stack, or the only one that the config counts; of a model of language and images the language
    model. Encoder and decoder, or two towers of equal rank, are told apart by nobody but the user.

    >>> main_stack(["h.0.w", "h.1.w", "head.0.w"], {"n_layer": 2})
    ('h', 2)
    >>> main_stack(["encoder.block.0.w", "decoder.block.0.w"], {"num_layers": 1}) is None
    True
    """
    names = list(names)
    counts = layer_counts(names)
    if len(counts) > 1:
        keys = counting_keys(counts, config)
        counted = {stack: count for stack, count in counts.items() if keys[stack]}
        if any(side_of(stack).role == "encoder" for stack in counted):
            counted |= {stack: count for stack, count in counts.items() if side_of(stack).role == "decoder"}
        counts = counted or counts
        if len(counted) > 1:
            counts = {s: c for s, c in counts.items() if _speaks(side_of(s), s, names)}
            counts = {s: c for s, c in counts.items() if side_of(s).medium == "text"} or counts
    return next(iter(counts.items())) if len(counts) == 1 else None


def _speaks(side: Side, stack: str, names: Iterable[str]) -> bool:
    """Whether a stack is that of a language model, rather than the text half of a pair."""
    if side.medium == "text":
        return "language" in stack or "llm" in stack or any(is_head(name) for name in names)
    return side.medium is None


def end_of(name: str, stack: str, counts: Mapping[str, int]) -> Literal["first", "last"]:
    """Which part of a stack of models gives a tensor outside of ``stack``.

    Args:
        name: A tensor that is no layer of ``stack``.
        stack: The stack that grows.
        counts: All stacks of the model.

    >>> towers = {"vision.blocks": 2, "model.layers": 2}
    >>> end_of("model.norm.weight", "model.layers", towers), end_of("vision.norm.weight", "model.layers", towers)
    ('last', 'first')
    """
    if len(counts) <= 1:
        return "first" if position(name) == "before" else "last"
    shared = {other: _shared(name, other) for other in counts if not name.startswith(other + ".")}
    own = shared.get(stack, 0)
    if own and own == max(shared.values()) and list(shared.values()).count(own) == 1:
        return "first" if position(name) == "before" else "last"
    if own < max(shared.values(), default=0) or not (is_head(name) or _ENDS.search(name)):
        return "first"
    return "last" if _gives_output(stack, counts) else "first"


def _shared(name: str, stack: str) -> int:
    """How many leading components two names share."""
    count = 0
    for a, b in zip(name.split("."), stack.split("."), strict=False):
        if a != b:
            break
        count += 1
    return count


def _gives_output(stack: str, counts: Mapping[str, int]) -> bool:
    """Whether what follows the model follows this stack: the decoder, or the side of the text."""
    sides = {other: side_of(other) for other in counts}
    if any(side.role == "decoder" for side in sides.values()):
        return sides[stack].role == "decoder" if stack in sides else True
    return side_of(stack).medium in (None, "text")


def first_only(names: Iterable[str], stack: str) -> frozenset[str]:
    """What only the first layer has beside all that the others have, such as T5's relative positions.

    It belongs to the place, not to the layer: whichever layer comes first has it.

    >>> sorted(first_only(["b.0.w", "b.0.bias", "b.1.w"], "b"))
    ['.bias']
    """
    rests: dict[int, set[str]] = {}
    for name in names:
        layer = layer_of(name, stack)
        if layer is not None:
            rests.setdefault(layer.index, set()).add(layer.rest)
    first = rests.pop(0, set())
    others = set[str]().union(*rests.values())
    return frozenset(first - others) if others and others <= first else frozenset()
