"""What GGUF's names mean in transformers' terms, for the families that are known.

Names of tensors follow llama.cpp's ``gguf-py`` (``tensor_mapping.py``), what its converter does to weights its
``convert_hf_to_gguf.py``: llama's queries and keys have the two halves of each head interleaved, Gemma's norms have 1
added.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["FAMILIES", "POSITIONS", "Family"]

_ENDS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
_FEED = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_FOUR_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_FUSED = {"attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj"}
_FUSED_FEED = {"ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"}

_NAME = re.compile(r"(?:blk\.(?P<layer>0|[1-9][0-9]{0,5})\.)?(?P<part>[a-z0-9_]+)\.(?P<kind>weight|bias)", re.ASCII)

POSITIONS = ("rope_freqs", "rope_factors_long", "rope_factors_short")
"""Parts that tell how positions are scaled: the model's config says it in transformers."""


@dataclass(frozen=True)
class Family:
    """A family of models.

    Args:
        model_type, class_name: Of transformers.
        layer: GGUF's name of a part of a layer → transformers'.
        turned: Whether queries and keys have the halves of each head interleaved.
        raised: Whether norms are stored with 1 added.
    """

    model_type: str
    class_name: str
    layer: Mapping[str, str]
    turned: bool = False
    raised: bool = False

    def renamed(self, name: str) -> str | None:
        """The name in transformers of the tensor ``name``; None for one that the family does not have.

        >>> FAMILIES["llama"].renamed("blk.3.attn_q.weight")
        'model.layers.3.self_attn.q_proj.weight'
        """
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        part, kind, layer = match["part"], match["kind"], match["layer"]
        if layer is None:
            return f"{_ENDS[part]}.{kind}" if part in _ENDS else None
        return f"model.layers.{int(layer)}.{self.layer[part]}.{kind}" if part in self.layer else None

    def is_turned(self, name: str) -> str | None:
        """``q`` or ``k`` where the tensor (by GGUF's name) has its heads interleaved."""
        match = _NAME.fullmatch(name)
        turned = self.turned and match is not None and match["part"] in ("attn_q", "attn_k")
        return match["part"][-1] if turned and match is not None else None

    def is_raised(self, name: str) -> bool:
        """Whether the tensor (by GGUF's name) has 1 added."""
        return self.raised and name.endswith("norm.weight")


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": Family("llama", "LlamaForCausalLM", _ATTENTION | _FEED | _NORMS, turned=True),
        "qwen2": Family("qwen2", "Qwen2ForCausalLM", _ATTENTION | _FEED | _NORMS),
        "qwen3": Family("qwen3", "Qwen3ForCausalLM", _ATTENTION | _FEED | _NORMS),
        "gemma2": Family("gemma2", "Gemma2ForCausalLM", _ATTENTION | _FEED | _FOUR_NORMS, raised=True),
        "gemma3": Family("gemma3_text", "Gemma3ForCausalLM", _ATTENTION | _FEED | _FOUR_NORMS, raised=True),
        "phi3": Family("phi3", "Phi3ForCausalLM", _FUSED | _FUSED_FEED | _NORMS),
    }
)
"""By the architecture that a file names; Mistral's models call themselves llama."""
