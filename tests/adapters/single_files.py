"""Adapters in a single file, by their trainers' descriptions: parts of every kind, and the change that they are."""

from __future__ import annotations

import numpy as np

from files import write_file, write_model

RANK = 3


def normal(rng, *shape, dtype=np.float32):
    return rng.normal(size=shape).astype(dtype)


def exact(array):
    return array.astype(np.float64)


def flat(name):
    """A module's name as kohya's scripts write it."""
    return name.replace(".", "_")


def lora(rng, rows, columns, *kernel):
    """Down has the kernel, up is 1×1."""
    ones = (1,) * len(kernel)
    return {
        "lora_down.weight": normal(rng, RANK, columns, *kernel),
        "lora_up.weight": normal(rng, rows, RANK, *ones),
    }


def lora_with_core(rng, rows, columns, *kernel):
    """CP decomposition: down and up are 1×1, the kernel stands between them."""
    ones = (1,) * len(kernel)
    return {
        "lora_down.weight": normal(rng, RANK, columns, *ones),
        "lora_mid.weight": normal(rng, RANK, RANK, *kernel),
        "lora_up.weight": normal(rng, rows, RANK, *ones),
    }


def loha(rng, rows, columns, *kernel):
    """Two products, of which elements are multiplied."""
    columns = columns * int(np.prod(kernel))
    parts = {}
    for i in "12":
        parts |= {f"hada_w{i}_a": normal(rng, rows, RANK), f"hada_w{i}_b": normal(rng, RANK, columns)}
    return parts


def loha_with_cores(rng, rows, columns, *kernel):
    """The same with a kernel in a core of its own; both factors then have the rank first."""
    parts = {}
    for i in "12":
        parts |= {f"hada_w{i}_a": normal(rng, RANK, rows), f"hada_w{i}_b": normal(rng, RANK, columns)}
        parts[f"hada_t{i}"] = normal(rng, RANK, RANK, *kernel)
    return parts


def lokr(rng, rows, columns, *kernel, one=True, two=True, core=False, factor=2):
    """A Kronecker product of two matrices, whole or as products."""
    (a, b), (c, d) = (factor, factor), (rows // factor, columns // factor)
    parts = (
        {"lokr_w1": normal(rng, a, b)}
        if one
        else {
            "lokr_w1_a": normal(rng, a, RANK),
            "lokr_w1_b": normal(rng, RANK, b),
        }
    )
    if two:
        return parts | {"lokr_w2": normal(rng, c, d, *kernel)}
    if core:
        own = {"lokr_w2_a": normal(rng, RANK, c), "lokr_w2_b": normal(rng, RANK, d)}
        return parts | own | {"lokr_t2": normal(rng, RANK, RANK, *kernel)}
    return parts | {"lokr_w2_a": normal(rng, c, RANK), "lokr_w2_b": normal(rng, RANK, d * int(np.prod(kernel)))}


def _tucker(core, left, right):
    """core ×₁ leftᵀ ×₂ rightᵀ, the rank first in both."""
    return np.einsum("ij...,ip,jr->pr...", exact(core), exact(left), exact(right))


def change(parts, shape, alpha=None):
    """The change that ``parts`` are to a weight of that shape, alpha over rank included."""
    p = {name: exact(values) for name, values in parts.items()}
    scale = 1.0 if alpha is None else alpha / RANK
    if "lora_mid.weight" in p:
        up, down = (p[f"lora_{k}.weight"].reshape(-1, RANK) for k in ("up",)), p["lora_down.weight"]
        return scale * _tucker(p["lora_mid.weight"], next(up).T, down.reshape(RANK, -1)).reshape(shape)
    if "lora_up.weight" in p:
        up, down = p["lora_up.weight"].reshape(-1, RANK), p["lora_down.weight"].reshape(RANK, -1)
        return scale * (up @ down).reshape(shape)
    if "hada_t1" in p:
        one, two = (_tucker(p[f"hada_t{i}"], p[f"hada_w{i}_a"], p[f"hada_w{i}_b"]) for i in "12")
        return scale * (one * two).reshape(shape)
    if "hada_w1_a" in p:
        one, two = (p[f"hada_w{i}_a"] @ p[f"hada_w{i}_b"] for i in "12")
        return scale * (one * two).reshape(shape)
    return _kronecker(p, shape, scale)


def _kronecker(p, shape, scale):
    one = p["lokr_w1"] if "lokr_w1" in p else p["lokr_w1_a"] @ p["lokr_w1_b"]
    if "lokr_t2" in p:
        two = _tucker(p["lokr_t2"], p["lokr_w2_a"], p["lokr_w2_b"])
    else:
        two = p["lokr_w2"] if "lokr_w2" in p else p["lokr_w2_a"] @ p["lokr_w2_b"]
    whole = "lokr_w1" in p and "lokr_w2" in p
    kernel = shape[2:]
    two = two.reshape(len(two), -1, *kernel)
    made = np.kron(one.reshape(*one.shape, *(1 for _ in kernel)), two)
    return (1.0 if whole else scale) * made.reshape(shape)


UNET = {
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": (12, 8),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.weight": (8, 12),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.bias": (8,),
    "down_blocks.0.resnets.0.conv1.weight": (8, 6, 3, 3),
    "down_blocks.0.resnets.0.conv1.bias": (8,),
    "down_blocks.0.resnets.0.norm1.weight": (6,),
    "mid_block.attentions.0.proj_in.weight": (10, 8, 1, 1),
    "mid_block.attentions.0.proj_out.weight": (10, 8),
}
TO_Q, TO_OUT, _, CONV, CONV_BIAS, NORM, PROJ_IN, PROJ_OUT = UNET
ENCODER = {
    f"text_model.encoder.layers.{i}.self_attn.{k}_proj.{kind}": (8, 8) if kind == "weight" else (8,)
    for i in range(2)
    for k in "qk"
    for kind in ("weight", "bias")
}
K0 = "text_model.encoder.layers.0.self_attn.k_proj.weight"


def write_component(folder, shapes=None, seed=0, dtype=np.float32):
    """A folder of a pipeline's component; returns its arrays."""
    rng = np.random.default_rng(seed)
    arrays = {name: normal(rng, *shape, dtype=dtype) for name, shape in (shapes or UNET).items()}
    write_model(folder, arrays, config={"_class_name": "UNet2DConditionModel"})
    return arrays


def write_table(path, modules, alphas=None):
    """Module → its parts, and module → alpha, as one file."""
    tensors = {f"{module}.{part}": values for module, parts in modules.items() for part, values in parts.items()}
    tensors |= {f"{module}.alpha": np.array(alpha, np.float32) for module, alpha in (alphas or {}).items()}
    return write_file(path, tensors)
