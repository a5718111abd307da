"""Models in 8-bit floats and in GGUF as inputs, and outputs that are requantised as the base is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import prod
from os.path import commonprefix

from stockpot.checkpoint.fp8 import is_activation, is_fp8, scale_format
from stockpot.checkpoint.gguf.types import needs_gguf
from stockpot.checkpoint.model import Checkpoint, Coding, TensorRef
from stockpot.checkpoint.places import stands
from stockpot.errors import CheckpointError
from stockpot.planning.coded import Decoded, Requantised
from stockpot.planning.model import Compute, Operand, Read, Step
from stockpot.planning.views import Context, View

__all__ = ["QUANTISE", "must_fit", "note_aside", "requantised", "tell_of_made_config"]

QUANTISE = "same"
"""The one way to requantise: as the model that gives the config is quantised."""

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
_LARGEST = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0}


def must_fit(checkpoint: Checkpoint, line: int | None) -> None:
    """Refuse a model that cannot be merged.

    Raises:
        CheckpointError: for other ways to quantise, damaged scales, unknown GGUF architectures.
        UnsupportedError: when the gguf package is needed and missing.
    """
    if checkpoint.unfit:
        raise CheckpointError(*(replace(p, line=line) for p in checkpoint.unfit))
    packed = next((ref for ref in checkpoint.tensors.values() if ref.dtype.per > 1), None)
    if packed is not None and find_spec("gguf") is None:
        raise needs_gguf(checkpoint.label, packed)


def note_aside(checkpoint: Checkpoint, context: Context, *, quantise: bool) -> None:
    """Tell of what is left out because the output has no place for it."""
    label = checkpoint.label
    positions = [n for n in checkpoint.aside if n in checkpoint.tensors and "rope_f" in n.rpartition(".")[0]]
    if positions:
        context.note(f"{min(positions)} of {label} is left out: the config says how positions are scaled")
    if not quantise and any(map(is_activation, checkpoint.aside)):
        context.note(f"{label}: scales of activations are left out: they mean nothing without 8-bit weights")


def tell_of_made_config(donor: Checkpoint, context: Context) -> None:
    """Tell that the output's config was made from GGUF's metadata; where that would not be true, that is a problem."""
    if donor.config_fault:
        fix = "put the model's config.json beside the file, or merge with its safetensors version, which brings one"
        context.problem(f"no config can be made from {donor.label}: {donor.config_fault}", fix=fix)
    elif donor.folder is None or not any(stands(donor.folder / name) for name in _TOKENIZERS):
        message = f"config.json is made from the metadata of {donor.label}; there is no tokenizer among the inputs"
        context.note(message, fix="copy the tokenizer's files of the original model into the output")


@dataclass(frozen=True)
class _Layout:
    """How the donor stores a weight: its dtype, scales, and coding."""

    stored: TensorRef
    scale: TensorRef
    coding: Coding


def requantised(steps: list[Step], view: View, donor: Checkpoint | None, context: Context) -> list[Step]:
    """``steps`` with each weight that ``donor`` has in 8-bit floats so again, followed by its scales.

    What is copied from a model of the same layout is copied as it is stored.
    """
    layouts = {} if donor is None else dict(_layouts(donor))
    if donor is None or not layouts:
        whose = "no model gives the config" if donor is None else f"{donor.label} is not in 8-bit floats"
        context.problem(f"quantize: same needs a model to do as: {whose}", fix="name the FP8 model as base_model")
        return steps
    found: list[Step] = []
    moved: dict[str, str] = {}
    for step in steps:
        _, origin = view.origin(step.name)
        layout = layouts.get(origin)
        if layout is None or not step.dtype.is_float:
            found.append(step)
        elif layout.stored.shape != step.shape or not _even(layout):
            context.problem(f"cannot be requantised as in {donor.label}: {_why(layout, step)}", tensor=step.name)
        else:
            moved[step.name] = origin
            found += _pair(step, layout, scale_format(donor.config))
    return found + list(_activations(donor, moved, {s.name for s in found}))


def _layouts(donor: Checkpoint) -> Iterator[tuple[str, _Layout]]:
    for name, coding in donor.codings.items():
        if coding.scale is not None and is_fp8(donor.tensors[name].dtype):
            yield name, _Layout(donor.tensors[name], coding.scale, coding)


def _even(layout: _Layout) -> bool:
    """Whether blocks of one matrix do not reach into the next."""
    rows, shape = layout.coding.rows, layout.stored.shape
    return prod(shape[:-1]) == rows or rows % layout.coding.block[0] == 0


def _why(layout: _Layout, step: Step) -> str:
    if layout.stored.shape != step.shape:
        return f"its shape is {step.shape}, there it is {layout.stored.shape}"
    return f"{layout.coding.rows} rows of a matrix are no whole blocks of {layout.coding.block[0]}"


def _pair(step: Step, layout: _Layout, power: str) -> tuple[Step, Step]:
    """The weight and its scales."""
    weight = replace(step, dtype=layout.stored.dtype)
    scale = Step(_scale_name(step.name, layout), layout.scale.dtype, layout.scale.shape, step.source)
    same = _as_stored(step.source, layout)
    if same is not None:
        return replace(weight, source=same[0], passes=1), replace(scale, source=same[1], passes=1)
    shape, rows = step.shape, layout.coding.rows
    form = Requantised(
        scales=False,
        rows=rows,
        columns=shape[-1],
        count=prod(shape[:-1]) // rows,
        block=layout.coding.block,
        largest=_LARGEST[layout.stored.dtype.code],
        dtype=layout.scale.dtype.code,
        power=bool(power) or not layout.scale.dtype.is_float,
    )

    def made(target: Step, own: Requantised) -> Step:
        source = Compute(None, (step.source,), target.shape, key=(step.name, 0), form=own)
        return replace(target, source=source, passes=step.passes + own.passes)

    return made(weight, form), made(scale, replace(form, scales=True))


def _scale_name(weight: str, layout: _Layout) -> str:
    """What the scale of ``weight`` is called, as the donor calls those of its weights."""
    shared: str = commonprefix([layout.stored.name, layout.scale.name])  # noqa: RUF071 - of names, not of paths
    return weight.removesuffix(layout.stored.name.removeprefix(shared)) + layout.scale.name.removeprefix(shared)


def _as_stored(source: Operand, layout: _Layout) -> tuple[Read, Read] | None:
    """Weight and scales of a model of the same layout whose tensor is taken as it is."""
    if not isinstance(source, Compute) or not isinstance(source.form, Decoded) or source.dtype is not None:
        return None
    stored, scale = source.inputs[0], source.companions[0] if source.companions else None
    if not isinstance(stored, Read) or not isinstance(scale, Read):
        return None
    same = (stored.dtype, stored.ref.shape, scale.dtype, scale.ref.shape, source.form.block) == (
        layout.stored.dtype,
        layout.stored.shape,
        layout.scale.dtype,
        layout.scale.shape,
        layout.coding.block,
    )
    return (stored, scale) if same else None


def _activations(donor: Checkpoint, moved: Mapping[str, str], taken: set[str]) -> Iterator[Step]:
    """The donor's scales of activations, where the modules that they belong to are now.

    Args:
        moved: Name of each requantised weight → the donor's.
    """
    for name in donor.tensors:
        if name not in donor.aside or not is_activation(name):
            continue
        home, _, word = name.rpartition(".")
        if not home:
            yield Step(
                name, donor.tensors[name].dtype, donor.tensors[name].shape, Read(donor.tensors[name], donor.label)
            )
            continue
        for new, old in moved.items():
            below = old.removeprefix(home)
            target = f"{new.removesuffix(below)}.{word}"
            if old.startswith(home) and below.startswith(".") and new.endswith(below) and target not in taken:
                taken.add(target)
                ref = donor.tensors[name]
                yield Step(target, ref.dtype, ref.shape, Read(ref, donor.label))
