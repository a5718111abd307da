"""A config.json for transformers, made of a GGUF file's metadata."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from stockpot.checkpoint.gguf.families import POSITIONS, Family

__all__ = ["heads_of", "made_config"]

_DIRECT = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
_TOKENS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}

_LARGEST = {"gemma2": 46, "gemma3_text": 62}
"""Layers of the models (27B) whose attention is scaled by hidden size over heads, as llama.cpp has it."""


def heads_of(architecture: str, metadata: Mapping[str, Any]) -> tuple[int, int] | None:
    """Heads of queries and of keys; None where the metadata does not tell, or tells several."""
    heads = metadata.get(f"{architecture}.attention.head_count")
    keys = metadata.get(f"{architecture}.attention.head_count_kv", heads)
    if type(heads) is not int or type(keys) is not int or heads < 1 or keys < 1:
        return None
    return heads, keys


def made_config(
    architecture: str, family: Family, metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Any], str]:
    """The config, and why it would not be true (empty where it is).

    Args:
        shapes: Of the tensors, by GGUF's names.
    """

    def said(key: str, default: Any = None) -> Any:
        return metadata.get(f"{architecture}.{key}", default)

    config: dict[str, Any] = {"model_type": family.model_type, "architectures": [family.class_name]}
    config |= {key: said(word) for key, word in _DIRECT.items()}
    heads = heads_of(architecture, metadata)
    lacking = [word for key, word in _DIRECT.items() if type(config[key]) not in (int, float)]
    if heads is None or lacking:
        return config, f"its metadata does not tell {', '.join(lacking) or 'the number of heads'}"
    config |= {"num_attention_heads": heads[0], "num_key_value_heads": heads[1]}
    config["head_dim"] = _head(family, said, config)
    config["vocab_size"] = shapes.get("token_embd.weight", (said("vocab_size", 0),))[0]
    config["tie_word_embeddings"] = "output.weight" not in shapes
    config["rope_theta"] = said("rope.freq_base", 10000.0)
    config |= {key: metadata.get(f"tokenizer.ggml.{word}") for key, word in _TOKENS.items()}
    config |= _own(family, said, config, shapes)
    scaling, fault = _scaling(said)
    if scaling is not None:
        config["rope_scaling"] = scaling
    return config | {"torch_dtype": "bfloat16"}, fault or _unsaid(shapes)


def _head(family: Family, said: Any, config: Mapping[str, Any]) -> int:
    """Elements of a head."""
    usual = config["hidden_size"] // config["num_attention_heads"]
    found = said("attention.key_length", said("rope.dimension_count", usual) if family.turned else usual)
    return found if type(found) is int else usual


def _own(family: Family, said: Any, config: Mapping[str, Any], shapes: Collection[str]) -> dict[str, Any]:
    """What one family has and others have not."""
    kind = family.model_type
    if kind == "llama":
        return {
            "attention_bias": "blk.0.attn_q.bias" in shapes,
            "mlp_bias": "blk.0.ffn_up.bias" in shapes,
        }
    if kind in _LARGEST:
        shared = config["num_hidden_layers"] == _LARGEST[kind]
        of_heads = config["hidden_size"] // config["num_attention_heads"]
        found = {
            "query_pre_attn_scalar": of_heads if shared else config["head_dim"],
            "sliding_window": said("attention.sliding_window", 4096),
            "hidden_activation": "gelu_pytorch_tanh",
        }
        if kind == "gemma2":
            caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
            found |= {key: said(key, default) for key, default in caps.items()}
        else:
            found["rope_local_base_freq"] = said("rope.freq_base_swa", 10000.0)
        return found
    if kind == "phi3":
        rotated = said("rope.dimension_count", config["head_dim"])
        return {
            "sliding_window": said("attention.sliding_window"),
            "original_max_position_embeddings": said("rope.scaling.original_context_length", 4096),
            "partial_rotary_factor": rotated / config["head_dim"],
        }
    return {"attention_bias": "blk.0.attn_q.bias" in shapes} if kind == "qwen3" else {}


def _scaling(said: Any) -> tuple[dict[str, Any] | None, str]:
    """``rope_scaling``, and why it cannot be told."""
    kind = said("rope.scaling.type", "none")
    factor = said("rope.scaling.factor", 1.0)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None, ""
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}, ""
    original = said("rope.scaling.original_context_length")
    if kind == "yarn" and type(original) is int:
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}, ""
    return None, f"its positions are scaled in a way that its metadata does not tell in full ({str(kind)[:40]})"


def _unsaid(shapes: Collection[str]) -> str:
    names = [f"{part}.weight" for part in POSITIONS if f"{part}.weight" in shapes]
    names += [n for n in shapes if n.startswith("blk.") and n.split(".")[2:3] and n.split(".")[2] in POSITIONS][:1]
    return f"{names[0]} scales positions in a way that its metadata does not tell" if names else ""
