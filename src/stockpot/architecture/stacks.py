"""Several stacks in one model: what each is for, which is meant, which tensors go with it.

A stack's side is told by the words in its name: encoder or decoder, text or vision or sound. Words in config
keys tell the same of what they count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from stockpot.architecture.counts import counting_keys
from stockpot.architecture.layers import layer_counts, layer_of, parse_layer, position
from stockpot.architecture.sides import Side, side_of
from stockpot.architecture.tied import is_head

__all__ = ["Ends", "first_only", "main_stack"]

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


class Ends:
    """Which part of a stack of models gives a tensor that is no layer: the first, or the last.

    What lies in the tower of the growing stack, by the beginning of its name, comes from the first part when it
    stands before the layers, from the last when after. What lies elsewhere comes from the first, but for heads that
    follow this stack.

    Args:
        stack: The stack that grows.
        counts: All stacks of the model.

    >>> ends = Ends("model.layers", {"vision.blocks": 2, "model.layers": 2})
    >>> ends.of("model.norm.weight"), ends.of("vision.norm.weight"), ends.of("lm_head.weight")
    ('last', 'first', 'last')
    """

    def __init__(self, stack: str, counts: Mapping[str, int]) -> None:
        self._stack, self._alone = stack, len(counts) <= 1
        self._below = Counter(prefix for other in counts for prefix in _prefixes(other))
        self._speaks = _gives_output(stack, counts)

    def of(self, name: str) -> Literal["first", "last"]:
        """The part that gives tensor ``name``."""
        if self._alone:
            return "first" if position(name) == "before" else "last"
        layer = parse_layer(name)
        inside = layer.stack + "." if layer is not None else ""
        tower = next(
            (p for p in reversed(list(_prefixes(name))) if self._below[p] - inside.startswith(p + ".") > 0), ""
        )
        if tower and self._below[tower] == 1 and self._stack.startswith(tower + "."):
            return "first" if position(name) == "before" else "last"
        own = not tower or self._stack.startswith(tower + ".")
        return "last" if own and self._speaks and (is_head(name) or _ENDS.search(name)) else "first"


def _prefixes(name: str) -> Iterator[str]:
    """Beginnings of a name, component by component, short ones first."""
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts)))


def _gives_output(stack: str, counts: Mapping[str, int]) -> bool:
    """Whether what follows the model follows this stack: the decoder, or the side of the text."""
    if any(side_of(other).role == "decoder" for other in counts):
        return side_of(stack).role == "decoder"
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
