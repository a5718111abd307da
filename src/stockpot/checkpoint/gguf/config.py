"""A config.json for transformers, made of a GGUF file's metadata."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from stockpot.checkpoint.gguf.families import POSITIONS, Family

__all__ = ["heads_of", "made_config"]

_DIRECT = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
}
_TOKENS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}

_REAL = 3e38
_LOW, _HIGH, _TRAINED = 1.0, 4.0, 8192
_WITHOUT_WINDOW = ("llama", "qwen2", "qwen3")

_LARGEST = {"gemma2": 46, "gemma3_text": 62}
"""Layers of the models (27B) whose attention is scaled by hidden size over heads, as llama.cpp has it."""


def heads_of(architecture: str, metadata: Mapping[str, Any]) -> tuple[int, int] | None:
    """Heads of queries and of keys; None where the metadata does not tell, or tells several."""
    heads = metadata.get(f"{architecture}.attention.head_count")
    keys = metadata.get(f"{architecture}.attention.head_count_kv", heads)
    if type(heads) is not int or type(keys) is not int or heads < 1 or keys < 1:
        return None
    return heads, keys


class _Said:
    """What the metadata says of one architecture; what is of the wrong kind or size is remembered as not said."""

    def __init__(self, architecture: str, metadata: Mapping[str, Any]) -> None:
        self._architecture, self._metadata = architecture, metadata
        self.wrong: list[str] = []

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number from 1 on."""
        found = self._metadata.get(f"{self._architecture}.{key}", default)
        if type(found) is int and 0 < found < 1 << 40:
            return found
        self.wrong.append(key)
        return 1

    def real(self, key: str, default: float | None = None) -> float:
        """A number above 0: that of fewest digits that is the same in float32, as which files hold it."""
        found = self._metadata.get(f"{self._architecture}.{key}", default)
        if type(found) in (int, float) and 0 < abs(found) < _REAL and found > 0:
            return float(np.format_float_scientific(np.float32(found)))
        self.wrong.append(key)
        return 1.0

    def text(self, key: str, default: str) -> str:
        """A text."""
        found = self._metadata.get(f"{self._architecture}.{key}", default)
        if isinstance(found, str):
            return found[:40]
        self.wrong.append(key)
        return default

    def has(self, key: str) -> bool:
        """Whether anything is said."""
        return f"{self._architecture}.{key}" in self._metadata

    def token(self, key: str) -> int | None:
        """The number of a special token, where one is told."""
        found = self._metadata.get(f"tokenizer.ggml.{key}")
        return found if type(found) is int and 0 <= found < 1 << 31 else None


def made_config(
    architecture: str,
    family: Family,
    metadata: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    positions: Sequence[float] | None = None,
) -> tuple[dict[str, Any], str]:
    """The config, and why it would not be true (empty where it is).

    Args:
        shapes: Of the tensors, by GGUF's names.
        positions: What ``rope_freqs.weight`` holds, where there is such a tensor and it is small.
    """
    said = _Said(architecture, metadata)
    config: dict[str, Any] = {"model_type": family.model_type, "architectures": [family.class_name]}
    config |= {key: said.whole(word) for key, word in _DIRECT.items()}
    config["num_attention_heads"] = said.whole("attention.head_count")
    config["num_key_value_heads"] = said.whole("attention.head_count_kv", config["num_attention_heads"])
    config["rms_norm_eps"] = said.real("attention.layer_norm_rms_epsilon")
    config["head_dim"] = _head(family, said, config)
    embedding = shapes.get("token_embd.weight", ())
    config["vocab_size"] = embedding[0] if embedding else said.whole("vocab_size")
    config["tie_word_embeddings"] = "output.weight" not in shapes
    config["rope_theta"] = said.real("rope.freq_base", 10000.0)
    config |= {key: said.token(word) for key, word in _TOKENS.items()}
    config |= _own(family, said, config, shapes)
    scaling, fault = _scaling(said)
    if family.model_type == "llama" and positions is not None and not fault:
        scaling = _llama3(positions, config["rope_theta"])
        fault = "" if scaling is not None else _unsaid(shapes)
    else:
        fault = fault or _unsaid(shapes)
    if scaling is not None:
        config["rope_scaling"] = scaling
    if family.model_type in _WITHOUT_WINDOW and said.has("attention.sliding_window"):
        fault = fault or "its sliding window cannot be told in a config of its type"
    if said.wrong:
        fault = f"its metadata does not tell {', '.join(dict.fromkeys(said.wrong))}"
    return config | {"torch_dtype": "bfloat16"}, fault


def _llama3(positions: Sequence[float], theta: float) -> dict[str, Any] | None:
    """Llama 3.1's scaling of positions, where it is what a file's factors of wave lengths come of; else None.

    Transformers computes the factors from four numbers; three of them are the same in all such models.
    """
    factors = np.array(positions)
    if factors.size == 0 or not np.isfinite(factors).all() or factors.min() < 0.5 or theta <= 1:
        return None
    factor = float(factors.max())
    waves = 2 * math.pi * theta ** (np.arange(factors.size) / factors.size)
    share = np.clip((_TRAINED / waves - _LOW) / (_HIGH - _LOW), 0, 1)
    if not np.allclose(factors, 1 / ((1 - share) / factor + share), rtol=1e-3):
        return None
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": _TRAINED,
    }


def _head(family: Family, said: _Said, config: Mapping[str, Any]) -> int:
    """Elements of a head."""
    usual = max(1, config["hidden_size"] // config["num_attention_heads"])
    rotated = said.whole("rope.dimension_count", usual) if family.turned else usual
    return said.whole("attention.key_length", rotated)


def _own(family: Family, said: _Said, config: Mapping[str, Any], shapes: Collection[str]) -> dict[str, Any]:
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
            "sliding_window": said.whole("attention.sliding_window", 4096),
            "hidden_activation": "gelu_pytorch_tanh",
        }
        if kind == "gemma2":
            caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
            found |= {key: said.real(key, default) for key, default in caps.items()}
        else:
            found["rope_local_base_freq"] = said.real("rope.freq_base_swa", 10000.0)
        return found
    if kind == "phi3":
        rotated, window = said.whole("rope.dimension_count", config["head_dim"]), "attention.sliding_window"
        return {
            "sliding_window": said.whole(window) if said.has(window) else None,
            "original_max_position_embeddings": said.whole("rope.scaling.original_context_length", 4096),
            "partial_rotary_factor": rotated / config["head_dim"],
        }
    return {"attention_bias": "blk.0.attn_q.bias" in shapes} if kind == "qwen3" else {}


def _scaling(said: _Said) -> tuple[dict[str, Any] | None, str]:
    """``rope_scaling``, and why it cannot be told."""
    kind, factor = said.text("rope.scaling.type", "none"), said.real("rope.scaling.factor", 1.0)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None, ""
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}, ""
    if kind == "yarn":
        original = said.whole("rope.scaling.original_context_length")
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}, ""
    return None, f"its positions are scaled in a way that is not known ({kind!a})"


def _unsaid(shapes: Collection[str]) -> str:
    names = [f"{part}.weight" for part in POSITIONS if f"{part}.weight" in shapes]
    names += [n for n in shapes if n.startswith("blk.") and n.split(".")[2:3] and n.split(".")[2] in POSITIONS][:1]
    return f"{names[0]} scales positions in a way that its metadata does not tell" if names else ""
