"""What lies beside the tensors of a result: which model gives config and small files, and what is corrected in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.architecture.layers import layer_counts, parse_layer, recomputed_buffer
from stockpot.architecture.tied import embedding_of, is_head, ties_embeddings
from stockpot.checkpoint.dtypes import DType, dtype_named
from stockpot.checkpoint.model import Checkpoint
from stockpot.checkpoint.parts import part_of
from stockpot.checkpoint.sidecars import part_config, plan_sidecars
from stockpot.checkpoint.writer import ShardLayout, layout
from stockpot.expression import leaves
from stockpot.planning.configs import layer_entries
from stockpot.planning.matching import whole
from stockpot.planning.model import Step, reads
from stockpot.planning.quantising import tell_of_made_config
from stockpot.planning.structure import LeafView
from stockpot.planning.tokens.tokenizers import Tokenizer
from stockpot.planning.views import Context, View
from stockpot.recipe.model import Recipe
from stockpot.tokens import Retokenized

__all__ = ["check_lent", "donor_of", "layers_of", "layout_of", "models_of", "sidecars_of"]


def donor_of(recipe: Recipe, checkpoints: Mapping[Any, Checkpoint]) -> Checkpoint | None:
    """The checkpoint whose config and small files the result gets.

    It is the larger model, where the recipe's is a part of another. GGUF's metadata says less than a config.json: where
    the recipe's donor is such a file, another model that is merged with it gives both, one of its type if there is one.
    """
    if recipe.donor is None or recipe.donor.key not in checkpoints:
        return None
    models = list(models_of(recipe, checkpoints).values())
    found = whole([LeafView(c) for c in models], LeafView(checkpoints[recipe.donor.key]))
    assert isinstance(found, LeafView)
    donor = found.checkpoint
    if not donor.made_config:
        return donor
    complete = [c for c in models if not c.made_config and c.folder is not None and c.config]
    kind = donor.config.get("model_type")
    return next((c for c in complete if c.config.get("model_type") == kind), complete[0] if complete else donor)


def check_lent(
    donor: Checkpoint | None, steps: Sequence[Step], recipe: Recipe, stacked: bool, context: Context
) -> None:
    """Report a donor that is not merged and whose config is of another model than the result; None: it is merged.

    The sizes of vocabularies are corrected where rows are matched by tokens, numbers of layers where these are stacked.
    """
    told = None if donor is None else _unfit(donor, steps, isinstance(recipe.expression, Retokenized), stacked)
    if donor is not None and told is not None:
        message = f"{donor.label} is not merged and gives config and small files, which do not fit: it {told[1]}"
        line = None if recipe.donor is None else recipe.donor.line
        context.problem(message, tensor=told[0], line=line, fix="name a base_model that fits, or none")


def _unfit(donor: Checkpoint, steps: Sequence[Step], retokenized: bool, stacked: bool) -> tuple[str, str] | None:
    """A tensor in which result and donor differ, and how."""
    own = {name: shape for name, (dtype, shape) in donor.values.items() if dtype.is_float}
    made = {step.name: step.shape for step in steps if step.dtype.is_float}
    kinds = {_kind(name) for name in own}
    for name in dict.fromkeys((*made, *own)):
        token = is_head(name) or embedding_of([name]) is not None
        if name in own and name in made:
            if own[name] != made[name] and not (retokenized and token):
                return name, f"has shape {own[name]} here, the result {made[name]}"
        elif token or recomputed_buffer(name):
            continue
        elif name in own and not stacked:
            return name, "has a tensor that the result lacks"
        elif name in made and (_kind(name) not in kinds if stacked else True):
            return name, "lacks a tensor of the result"
    return None


def _kind(name: str) -> tuple[str, str]:
    """A tensor's name without the number of its layer."""
    layer = parse_layer(name)
    return (name, "") if layer is None else (layer.stack, layer.rest)


def layout_of(donor: Checkpoint | None, steps: Sequence[Step], shard_size: int) -> tuple[ShardLayout, ...]:
    """The output's files: in the folders of the donor's parts, where it has such, called as they are there."""
    parts = list(donor.parts) if donor is not None else []
    tensors: dict[str, list[tuple[str, DType, tuple[int, ...]]]] = {"": []} if not parts else {}
    for step in steps:
        tensors.setdefault(part_of(step.name, parts), []).append((step.name, step.dtype, step.shape))
    shards: list[ShardLayout] = []
    for part, own in tensors.items():
        diffusers = (
            donor is not None and part in donor.parts and donor.parts[part].files[0].name.startswith("diffusion")
        )
        shards += layout(own, shard_size, "diffusion_pytorch_model" if diffusers else "model", part)
    return tuple(shards)


def layers_of(donor: Checkpoint | None, view: View, context: Context) -> Mapping[str, Mapping[str, Any]]:
    """Part of the donor → what stacking changes in its config."""
    if donor is None or (not donor.config and not donor.parts):
        return {}
    if not donor.parts:
        return {"": layer_entries(donor.config, layer_counts(donor.values), view, context)}
    counts = layer_counts(donor.values)
    found = {}
    for part, own in donor.parts.items():
        stacks = {stack: n for stack, n in counts.items() if part_of(stack, list(donor.parts)) == part}
        found[part] = layer_entries(own.config, stacks, view, context) if stacks else {}
    return found


def sidecars_of(
    recipe: Recipe,
    donor: Checkpoint | None,
    steps: Sequence[Step],
    checkpoints: Mapping[Any, Checkpoint],
    layers: Mapping[str, Mapping[str, Any]],
    tokenizer: Tokenizer,
    config: Mapping[str, Any] | None,
    context: Context,
) -> tuple[tuple[str, bytes | Path], ...]:
    """The small files of the result: the donor's, true of what is written, with the tokenizer that was decided.

    ``config`` takes the place of the donor's config, for a result of another kind.
    """
    if donor is None or (donor.folder is None and not donor.made_config):
        return ()
    if donor.made_config:
        tell_of_made_config(donor, context)
    own = {**layers.get("", {}), **tokenizer.entries}
    tied, plain = _tied(donor, steps, checkpoints), recipe.quantize is None
    dtypes = {part: _dtype_told(recipe, donor, part, steps) for part in ("", *donor.parts)}
    found = list(plan_sidecars(donor, dtype=dtypes[""], tied=tied, layers=own, unquantised=plain, config=config))
    for part in filter(None, donor.parts):
        found += part_config(donor, part, dtypes[part], layers.get(part, {}), unquantised=plain)
    kept = [(name, content) for name, content in found if name not in tokenizer.files]
    return (*kept, *((name, content) for name, content in tokenizer.files.items() if content is not None))


def _dtype_told(recipe: Recipe, donor: Checkpoint, part: str, steps: Sequence[Step]) -> DType | None:
    """The dtype that a part's config tells: that of most tensors; with 8-bit weights, the one that was asked for."""
    if recipe.quantize is not None:
        return dtype_named(recipe.dtype) if recipe.dtype is not None else None
    floats = [s.dtype for s in steps if s.dtype.is_float and part_of(s.name, list(donor.parts)) == part]
    return max(dict.fromkeys(floats), key=floats.count) if floats else None


def _tied(donor: Checkpoint, steps: Sequence[Step], checkpoints: Mapping[Any, Checkpoint]) -> bool | None:
    """What tie_word_embeddings must become: False where a head of its own came in, True where the donor's did not."""
    adapters = {str(file) for c in checkpoints.values() if c.is_adapter for file in c.files}
    untied = {c.label for c in checkpoints.values() if not c.is_adapter and not ties_embeddings(c.config)}
    heads = [step for step in steps if is_head(step.name)]
    if any(r.ref.file in adapters for step in heads for r in reads(step.source)):
        return False  # whatever the model's class takes where its config says nothing
    own = any(
        step.name not in donor.values or any(r.model in untied and is_head(r.ref.name) for r in reads(step.source))
        for step in heads
    )
    if not heads and any(map(is_head, donor.values)) and not ties_embeddings(donor.config):
        return True  # a donor that is not merged, unlike all that are
    return False if own and ties_embeddings(donor.config) else None


def models_of(recipe: Recipe, checkpoints: Mapping[Any, Checkpoint]) -> Mapping[Any, Checkpoint]:
    """The checkpoints that are merged; what is read beside them, such as masks and adapters, is left out."""
    merged = {leaf.key for leaf in leaves(recipe.expression, companions=False) if not leaf.adapter}
    return {key: checkpoint for key, checkpoint in checkpoints.items() if key in merged}
