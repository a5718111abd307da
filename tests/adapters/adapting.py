"""Adapters on disk, written by PEFT's description of them, and folded in plain NumPy."""

from __future__ import annotations

import json

import numpy as np

from files import write_file, write_model

ROOT = "base_model.model."


def write_adapter(folder, tensors, **settings):
    """A folder as PEFT writes it; names of ``tensors`` are without PEFT's prefix."""
    write_file(folder / "adapter_model.safetensors", {ROOT + name: values for name, values in tensors.items()})
    (folder / "adapter_config.json").write_text(json.dumps(config(**settings)))
    return folder


def config(**settings):
    """Settings of an adapter, those that PEFT needs and some that change nothing."""
    plain = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "fan_in_fan_out": False}
    return plain | {"use_rslora": False, "lora_dropout": 0.1, "task_type": "CAUSAL_LM"} | settings


def factors(rng, name, rows, columns, rank=4, dtype=np.float32):
    """The two factors of a module, as the adapter's file holds them."""
    a, b = rng.normal(size=(rank, columns)), rng.normal(size=(rows, rank))
    return {f"{name}.lora_A.weight": a.astype(dtype), f"{name}.lora_B.weight": b.astype(dtype)}


def ordered_product(left, right):
    """left · right, each element summed over the inner dimension in order: the formula of the kernel."""
    total = np.zeros((left.shape[0], right.shape[1]))
    for k in range(left.shape[1]):
        total = total + left[:, k : k + 1].astype(np.float64) * right[k : k + 1].astype(np.float64)
    return total


SHAPES = {
    "model.embed_tokens.weight": (20, 12),
    "model.layers.0.q_proj.weight": (12, 12),
    "model.layers.0.q_proj.bias": (12,),
    "model.layers.0.up_proj.weight": (31, 12),
    "model.layers.0.conv.weight": (8, 6, 3, 2),
    "model.layers.1.q_proj.weight": (12, 12),
    "model.layers.1.q_proj.bias": (12,),
    "model.layers.1.up_proj.weight": (31, 12),
    "model.layers.1.conv.weight": (8, 6, 3, 2),
    "model.norm.weight": (12,),
    "lm_head.weight": (20, 12),
}


def write_base(folder, seed=0, dtype=np.float32, shapes=None, **more):
    """A small model; returns its arrays."""
    rng = np.random.default_rng(seed)
    arrays = {name: rng.normal(size=shape).astype(dtype) for name, shape in (shapes or SHAPES).items()}
    write_model(folder, arrays, config={"model_type": "llama", "tie_word_embeddings": False} | more)
    return arrays


def same(a, b):
    """Whether two arrays have the same dtype, shape and bytes."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
