"""What a layer adds to its input: the projections at the end of its attention, of its MLP, of its mixer.

With these scaled by zero, a layer whose branches are added to what it is given gives just that: it is the identity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["outputs_of"]

_OUTPUT = re.compile(
    r"(^|\.)((o_proj|out_proj|down_proj|c_proj|dense_4h_to_h|fc2|fc_out|wo|w2)"
    r"|((self_?)?attention|attn|self_attn)\.(dense|proj)|output\.dense|(Self|EncDec)Attention\.o)"
    r"([._](weight|bias))?$"
)
_INNER = frozenset(("fc1", "intermediate", "norm", "norm1", "norm2", "norm3"))
"""Matrices that stand beside the output they lead to, not below one name with it."""

_AFTER = re.compile(r"output\.LayerNorm|(sa|output)_layer_norm|attention\.output\.(?!dense)")
_NORM_LAST = frozenset(("bart", "blenderbot-small", "marian", "openai-gpt", "xlm", "flaubert", "fsmt", "plbart", "led"))


def outputs_of(rests: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> frozenset[str] | str:
    """Those of a layer's tensors that make what it adds to its input; a word on why that is not known.

    Args:
        rests: What stands after a layer's number → shape.
        config: The model's.

    >>> names = {".attn.q.weight": (4, 4), ".attn.o_proj.weight": (4, 4), ".mlp.up.weight": (8, 4), ".norm.w": (4,)}
    >>> outputs_of(names, {})
    'nothing is known of mlp'
    >>> sorted(outputs_of({**names, ".mlp.down_proj.weight": (4, 8)}, {}))
    ['.attn.o_proj.weight', '.mlp.down_proj.weight']
    """
    if _normalised(rests, config):
        return "it normalises what it gives, so that no layer of its kind is the identity"
    found = frozenset(rest for rest in rests if _OUTPUT.search(rest))
    known = {_branch(rest) for rest in found} | _INNER
    unknown = dict.fromkeys(_branch(r) for r, shape in rests.items() if len(shape) > 1 and _branch(r) not in known)
    if unknown or not found:
        return f"nothing is known of {', '.join(unknown) or 'its tensors'}"
    return found


def _branch(rest: str) -> str:
    """The module of the layer that a tensor belongs to."""
    first, _, more = rest.removeprefix(".").partition(".")
    number = more.partition(".")[0]
    return f"{first}.{number}" if number.isdecimal() else first


def _normalised(rests: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether a layer ends with a norm over the sum, as BERT's do."""
    if config.get("do_layer_norm_before") is False or config.get("normalize_before") is False:
        return True
    if str(config.get("model_type")) in _NORM_LAST or config.get("apply_residual_connection_post_layernorm"):
        return True
    if str(config.get("model_type")).startswith(("wav2vec2", "hubert", "wavlm")):
        return not config.get("do_stable_layer_norm", False)
    return any(_AFTER.search(rest) for rest in rests)
