"""Models in 8-bit floats, made and undone in NumPy."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from files import write_model

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
BF16 = np.dtype(ml_dtypes.bfloat16)


def fp8_config(**more):
    told = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    return {"model_type": "llama", "torch_dtype": "bfloat16", "quantization_config": told | more}


def spread(scale, shape, block):
    """A scale for each element."""
    down, across = block
    wide = np.repeat(np.repeat(np.asarray(scale, np.float64), down, -2), across, -1)
    return wide[..., : shape[-2], : shape[-1]]


def values(weight, scale, block):
    """What an 8-bit weight with scales stands for, in float64."""
    return weight.astype(np.float64) * spread(scale, weight.shape, block)


def largest(array, block):
    """The largest magnitude of each block of a matrix."""
    down, across = block
    rows, columns = array.shape
    return np.array(
        [
            [np.abs(array[i : i + down, j : j + across]).max() for j in range(0, columns, across)]
            for i in range(0, rows, down)
        ]
    )


def quantised(array, block, dtype=np.float32):
    """8-bit floats and scales, each rounded once; E4M3's rounding is that of ml_dtypes from exact float32 quotients."""
    scale = (largest(array, block) / 448.0).astype(dtype)
    scale[scale == 0] = 1
    ratio = np.clip(array / spread(scale, array.shape, block), -448, 448)
    return nearest(ratio), scale


ALL = np.arange(256, dtype=np.uint8).view(E4M3)
_CODES = np.argsort(np.where(np.isnan(ALL.astype(float)), np.inf, ALL.astype(float)), kind="stable")[:254]
_LEVELS = ALL[_CODES].astype(np.float64)


def nearest(ratio):
    """The nearest number of E4M3, of two as near the one whose last bit is 0; straight from float64."""
    place = np.clip(np.searchsorted(_LEVELS, ratio), 1, len(_LEVELS) - 1)
    below, above = _LEVELS[place - 1], _LEVELS[place]
    even = (_CODES[place - 1] & 1) == 0
    down = (ratio - below < above - ratio) | ((ratio - below == above - ratio) & even)
    found = np.where(down, below, above).astype(E4M3)
    return np.copysign(found.astype(np.float32), ratio).astype(E4M3)


def random_fp8(rng, shape, block=(128, 128), dtype=np.float32):
    """An 8-bit matrix as it comes of quantising random weights."""
    return quantised(rng.standard_normal(shape) * rng.uniform(0.5, 2, (shape[0], 1)), block, dtype)


def write_fp8(folder, rng, shapes, block=(128, 128), config=None, suffix="_scale_inv", dtype=np.float32):
    """A model whose ``shapes`` (name → shape) are 8-bit matrices, with a norm in bfloat16; its arrays."""
    arrays = {}
    for name, shape in shapes.items():
        arrays[name], arrays[name + suffix] = random_fp8(rng, shape, block, dtype)
    arrays["model.norm.weight"] = rng.standard_normal(64).astype(BF16)
    write_model(folder, arrays, config=config or fp8_config())
    return arrays


def as_exponents(folder):
    """Have the header of a model call its tensors of bytes F8_E8M0."""
    file = folder / "model.safetensors"
    raw = file.read_bytes()
    length = 8 + int.from_bytes(raw[:8], "little")
    text = raw[8:length].replace(b'"U8"', b'"F8_E8M0"')
    file.write_bytes(len(text).to_bytes(8, "little") + text + raw[length:])
