"""Weights in 8-bit floats with scales beside them: which tensors belong together, told by names and shapes.

Stored is ``X`` (F8_E4M3 or F8_E5M2) and beside it ``X_scale_inv`` or ``X_scale``; the value is their product. A scale
may hold for a whole tensor, a row, or a block. DeepSeek-V3 and transformers' ``fp8`` have blocks of 128 × 128,
``fbgemm_fp8`` rows, compressed-tensors (``float-quantized``) any of the three; files of diffusion models marked
``scaled_fp8`` have one ``scale_weight`` for each ``weight``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from stockpot.checkpoint.dtypes import DTYPES, DType
from stockpot.checkpoint.model import Checkpoint, Coding, TensorRef
from stockpot.errors import Problem

__all__ = ["coded", "is_activation", "is_fp8", "scale_format"]

_SUFFIXES = ("_scale_inv", "_scale")
"""What the name of a scale adds to that of its weight."""

_ACTIVATIONS = (
    "input_scale", "input_scale_ub", "activation_scale", "output_scale", "q_scale", "k_scale", "v_scale",
    "scale_input", "scaled_fp8",
)  # fmt: skip
"""Last words of the names of tensors that scale activations, or mark such a file: without 8-bit arithmetic they mean
nothing."""

_DEFAULT_BLOCK = (128, 128)
_MOST = 20
_FLOATS = ("float-quantized", "naive-quantized")


def is_fp8(dtype: DType) -> bool:
    """Whether values of ``dtype`` are 8-bit floats that kernels know."""
    return dtype.code in ("F8_E4M3", "F8_E5M2")


def is_activation(name: str) -> bool:
    """Whether a tensor of this name scales activations, in a model of 8-bit weights."""
    return name.rpartition(".")[2] in _ACTIVATIONS


def coded(checkpoint: Checkpoint) -> Checkpoint:
    """``checkpoint`` with the scales of its 8-bit weights understood, or with the reasons why it cannot be merged."""
    config, tensors = checkpoint.config, checkpoint.tensors
    codings, aside = _codings(config, tensors)
    problems = []
    for message, tensor, fix in _unfit(config, tensors, codings):
        problems.append(Problem(f"{checkpoint.label}: {message}", tensor=tensor, fix=fix))
        if len(problems) == _MOST:
            break
    if not codings and not problems:
        return checkpoint
    return replace(checkpoint, codings=codings, aside=aside, unfit=tuple(problems))


def _codings(config: Mapping[str, Any], tensors: Mapping[str, TensorRef]) -> tuple[dict[str, Coding], frozenset[str]]:
    """Those 8-bit weights whose scales are understood, and the tensors that are none of the model's."""
    codings: dict[str, Coding] = {}
    dtype, blocks = _values_dtype(config), _blocks(config)
    for name, ref in tensors.items():
        if not is_fp8(ref.dtype):
            continue
        scale = _scale_of(name, tensors)
        found = None if scale is None else _fitted(ref.shape, scale, blocks)
        if found is not None:
            codings[name] = Coding(dtype, scale, *found)
    if not codings:
        return {}, frozenset()
    scales = (c.scale.name for c in codings.values() if c.scale is not None)
    return codings, frozenset((*scales, *filter(is_activation, tensors)))


def _unfit(
    config: Mapping[str, Any], tensors: Mapping[str, TensorRef], codings: Mapping[str, Coding]
) -> Iterator[tuple[str, str | None, str]]:
    """Why a checkpoint cannot be merged as it is: (message, tensor, what to do), nothing where it can."""
    told = config.get("quantization_config") or config.get("compression_config")
    method = _method(told) if told else None
    plain = "use the model in bfloat16, float16 or float32"
    if method is not None:
        yield f"is quantised ({method}) and cannot be merged", None, _FIXES.get(method.partition(" ")[0], plain)
        return
    for name, ref in tensors.items():
        if not is_fp8(ref.dtype) and not (told and ref.dtype.code in ("F8_E4M3FNUZ", "F8_E5M2FNUZ")):
            continue
        scale = _scale_of(name, tensors)
        if name in codings or (scale is None and not told):
            continue
        if scale is None or not is_fp8(ref.dtype):
            lacks = "no scale that is known" if is_fp8(ref.dtype) else f"dtype {ref.dtype.code}"
            yield f"is quantised, but this tensor has {lacks}", name, f"{plain}, or download it again"
        else:
            message = f"scales {scale.name} of {scale.dtype.code}{list(scale.shape)} fit no weight of {list(ref.shape)}"
            yield message, name, "the checkpoint is damaged, or of an unknown layout: use it in bfloat16"


_FIXES = {
    "gptq": "use the model it was made from, or save it dequantised (GPTQModel's dequantize_model)",
    "awq": "use the model it was made from, in bfloat16 or float16",
    "bitsandbytes": "use the model it was made from, or call model.dequantize() in transformers and save it",
    "mxfp4": "load it in transformers with Mxfp4Config(dequantize=True), and save it",
}


def _method(told: Any) -> str | None:
    """Name of a way to quantise that is not read; None for those that are."""
    if not isinstance(told, Mapping):
        return "quantization_config is no map"
    name = str(told.get("quant_method", "compressed-tensors" if "config_groups" in told else "an unnamed method"))
    if name in ("fp8", "fbgemm_fp8"):
        return None
    if name not in ("compressed-tensors", "compressed_tensors"):
        return name[:80]
    form, groups = told.get("format"), told.get("config_groups")
    groups = groups if isinstance(groups, Mapping) else {}
    weights = [group.get("weights") for group in groups.values() if isinstance(group, Mapping)]
    eight = all(isinstance(w, Mapping) and (w.get("type"), w.get("num_bits")) == ("float", 8) for w in weights)
    return None if form in _FLOATS and weights and eight else f"compressed-tensors {str(form)[:60]}"


def _values_dtype(config: Mapping[str, Any]) -> DType:
    """The dtype that the model computes in, as its config says; bfloat16 where it says nothing of use."""
    by_name = {d.torch_name: d for d in (DTYPES["BF16"], DTYPES["F16"], DTYPES["F32"])}
    said = config.get("dtype", config.get("torch_dtype"))
    return by_name.get(said, DTYPES["BF16"]) if isinstance(said, str) else DTYPES["BF16"]


def _blocks(config: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """Rows and columns of a block, as the config says, else as is usual."""
    told = config.get("quantization_config")
    said = told.get("weight_block_size") if isinstance(told, Mapping) else None
    if isinstance(said, list) and len(said) == 2 and all(type(n) is int and 0 < n < 1 << 31 for n in said):
        return ((said[0], said[1]),)
    return (_DEFAULT_BLOCK,)


def scale_format(config: Mapping[str, Any]) -> str:
    """``ue8m0`` where the config says that scales are powers of two, else an empty text."""
    told = config.get("quantization_config")
    return "ue8m0" if isinstance(told, Mapping) and told.get("scale_fmt") == "ue8m0" else ""


def _scale_of(name: str, tensors: Mapping[str, TensorRef]) -> TensorRef | None:
    for found in map(tensors.get, _scale_names(name)):
        if found is not None and (found.dtype.is_float or found.dtype.code == "F8_E8M0"):
            return found
    return None


def _scale_names(name: str) -> Iterator[str]:
    """What the scale of a weight may be called."""
    for suffix in _SUFFIXES:
        yield name + suffix
    stem, _, last = name.rpartition(".")
    if last == "weight":
        yield f"{stem}.scale_weight" if stem else "scale_weight"


def _fitted(
    shape: tuple[int, ...], scale: TensorRef, blocks: tuple[tuple[int, int], ...]
) -> tuple[int, tuple[int, int]] | None:
    """Rows of a matrix, and of each scale the rows and columns that it holds for; None when shapes disagree."""
    if len(shape) < 2 or prod(shape) == 0:
        return None
    *lead, rows, columns = shape
    every, form, before = prod(shape[:-1]), scale.shape, tuple(lead)
    if prod(form) == 1:
        return every, (every, columns)
    if form in ((*before, rows, 1), (*before, rows)):
        return rows, (1, columns)
    for down, across in blocks:
        if form == (*before, -(-rows // down), -(-columns // across)):
            return rows, (down, across)
    if form in (before, (*before, 1, 1)):
        return rows, (rows, columns)
    return None
