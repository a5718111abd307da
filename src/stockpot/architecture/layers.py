"""Layers from tensor names alone, so that unknown models work.

A name's first numeric component is its layer: ``model.layers.3.mlp.up_proj.weight`` is layer 3 of the
stack ``model.layers``. What stands outside any stack lies before it (embeddings) or after it (final
norm, heads), judged by the words in the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from stockpot.architecture.tied import is_head

__all__ = ["LayerName", "layer_counts", "layer_of", "parse_layer", "position", "recomputed_buffer"]

_LAYER = re.compile(r"^(?P<stack>(?:[^.]+\.)*?\d*[^.\d][^.]*)\.(?P<index>\d+)(?=\.|$)(?P<rest>.*)$", re.DOTALL)
_NUMBER = re.compile(r"(?P<index>\d+)(?=\.|$)(?P<rest>.*)$", re.DOTALL)
_BEFORE = re.compile(
    r"(?<!un)embed|wte|wpe|tok_|patch|shared\.weight|pos_|cls_token|conv1|encoder\.conv2|(^|\.)(bn1|stem|ln_pre)\."
    r"|pre_layr?norm|feature_(extractor|projection)|project_in|norm_pre"
)
_RECOMPUTED = re.compile(r"(rotary_emb\.inv_freq|attn\.masked_bias|position_ids|attention\.(masked_)?bias|attn\.bias)$")


@dataclass(frozen=True)
class LayerName:
    """A tensor name split at its layer number: ``stack``.``index````rest``."""

    stack: str
    index: int
    rest: str

    def at(self, index: int) -> str:
        """The same tensor's name in layer ``index``."""
        return f"{self.stack}.{index}{self.rest}"


def parse_layer(name: str) -> LayerName | None:
    """Split ``name`` at its layer number; ``None`` when it stands outside any stack.

    >>> parse_layer("model.layers.3.mlp.experts.5.w1")
    LayerName(stack='model.layers', index=3, rest='.mlp.experts.5.w1')
    >>> parse_layer("lm_head.weight") is None
    True
    """
    match = _LAYER.match(name)
    if match is None:
        return None
    return LayerName(match["stack"], int(match["index"]), match["rest"])


def layer_of(name: str, stack: str) -> LayerName | None:
    """Split ``name`` at its layer number in ``stack``, which may lie within the layers of another.

    >>> layer_of("encoder.layers.1.blocks.0.w", "encoder.layers.1.blocks")
    LayerName(stack='encoder.layers.1.blocks', index=0, rest='.w')
    >>> layer_of("encoder.norm", "encoder.layers.1.blocks") is None
    True
    """
    if not name.startswith(stack + "."):
        return None
    match = _NUMBER.match(name, len(stack) + 1)
    return None if match is None else LayerName(stack, int(match["index"]), match["rest"])


def layer_counts(names: Iterable[str]) -> Mapping[str, int]:
    """Stack → number of layers (highest index + 1), in order of first appearance.

    Bare weights in a row, as in a head or projector, are no stack where others hold whole layers.

    >>> layer_counts(["h.0.mlp.weight", "h.1.mlp.weight", "head.0.weight", "head.2.weight"])
    {'h': 2}
    """
    counts: dict[str, int] = {}
    whole: set[str] = set()
    for name in names:
        layer = parse_layer(name)
        if layer is not None:
            counts[layer.stack] = max(counts.get(layer.stack, 0), layer.index + 1)
            if layer.rest not in (".weight", ".bias"):
                whole.add(layer.stack)
    return {stack: count for stack, count in counts.items() if stack in whole or not whole}


def position(name: str) -> Literal["before", "after"]:
    """Whether a tensor outside the stacks lies before the first layer or after the last.

    >>> position("model.embed_tokens.weight"), position("lm_head.weight")
    ('before', 'after')
    """
    return "before" if _BEFORE.search(name) and not is_head(name) else "after"


def recomputed_buffer(name: str) -> bool:
    """Whether ``name`` is a buffer that the model code recomputes, which some checkpoints leave out."""
    return _RECOMPUTED.search(name) is not None
