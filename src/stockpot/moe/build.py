"""From a recipe of a mixture to a plan: the layout, the router's file, and the report on it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.architecture.mixtures import LAYOUTS, PARTS, Layout, layout_for
from stockpot.arrangements import Expert, Mixture
from stockpot.checkpoint.model import Checkpoint, from_arrays
from stockpot.checkpoint.open import open_checkpoint
from stockpot.checkpoint.reader import PayloadReader
from stockpot.errors import PlanError, Problem
from stockpot.execute.matrices import one_thread
from stockpot.expression import Leaf
from stockpot.kernels import convert
from stockpot.kernels.sizes import ROW
from stockpot.methods.declare import Floats
from stockpot.moe.examples import Example, examples_of
from stockpot.moe.extra import extra
from stockpot.moe.file import kept, write_router
from stockpot.moe.routing import LayerRouting, Made, Routing, conditions, held_out, measured
from stockpot.moe.rows import from_prompts, random_rows, trained_router
from stockpot.moe.states import HELD, States, states_of, tokens_of
from stockpot.planning.build import build_plan
from stockpot.planning.model import Limits, Plan
from stockpot.planning.place import beside
from stockpot.recipe.mixture import ExpertAsked, MixtureRecipe
from stockpot.recipe.model import Recipe

__all__ = ["Mixed", "default_router", "planned"]

_EMPTY = 16
"""Width of a shared expert of zeros, where a layout has one and none is wanted; tensors are split so many ways."""


@dataclass(frozen=True)
class Mixed:
    """A mixture's plan.

    Args:
        plan: To be carried out.
        routing: The report on its router; None where the router's file has none, or is not made yet.
        router: The file of the router.
    """

    plan: Plan
    routing: Routing | None
    router: Path


def default_router(out: Path) -> Path:
    """Where the router of a mixture lies: beside it."""
    return out.parent / f"{out.name}.router.safetensors"


def planned(
    recipe: MixtureRecipe,
    out: Path,
    limits: Limits,
    *,
    router: Path | None = None,
    measure: bool = False,
    overwrite: bool = False,
    again: bool = False,
    dry: bool = False,
) -> Mixed:
    """The plan of a mixture; its router's file is made where it is missing.

    Args:
        out: Where the mixture goes.
        limits: What may be used.
        router: The router's file; None puts it beside ``out``. One that was made of the same is used as it is, so a
            merge that was broken off continues; one that was made elsewhere too.
        measure: Run the base to measure the routing of routers that do not need it.
        overwrite: Whether ``out`` may exist.
        again: Make the router again, whatever lies there.
        dry: Plan with an empty router; none is made.

    Raises:
        StockpotError: with everything that is wrong.
    """
    base = recipe.donor.checkpoint or open_checkpoint(
        recipe.donor.reference, folder=recipe.donor.folder, line=recipe.donor.line
    )
    layout = _layout(recipe, base)
    file = router or default_router(out)
    if any(place.resolve() in file.resolve().parents for place in (out, beside(out))):
        message = "the router's file lies within the output, which is made after it"
        raise PlanError(Problem(message, file=str(file), fix="choose another place: --router FILE"))
    stand_in = from_arrays("router", _tensors(recipe, base, layout, _nothing(recipe, base)))
    checked = build_plan(_expressed(recipe, layout, stand_in), limits, out, overwrite=overwrite)
    if dry:
        return Mixed(checked, None, file)
    key, found = _key(recipe, base, layout), kept(file)
    routing = None if found is None else found.routing
    if found is not None and found.key is not None and found.key != key and not again:
        message = "the router that lies here was made of something else (recipe, prompts or base)"
        raise PlanError(Problem(message, file=str(file), fix="--restart makes it again; or name another with --router"))
    if found is None or (found.key is not None and (again or (measure and not _was_measured(found.routing)))):
        rows, shared, routing = _made(recipe, base, limits, measure)
        write_router(file, _tensors(recipe, base, layout, rows, shared), key, routing)
    opened = replace(open_checkpoint(str(file)), label="router", folder=None, config={})
    plan = build_plan(_expressed(recipe, layout, opened), _left(limits), out, overwrite=overwrite)
    return Mixed(plan, routing, file)


def _left(limits: Limits) -> Limits:
    """What is left for the merge beside the packages that read the prompts."""
    return replace(limits, memory=limits.memory - HELD) if "torch" in sys.modules else limits


def _was_measured(routing: Routing | None) -> bool:
    return routing is not None and routing.layers[0].load is not None


def _layout(recipe: MixtureRecipe, base: Checkpoint) -> Layout:
    if recipe.architecture is not None:
        layout = LAYOUTS[recipe.architecture]
    else:
        chosen = layout_for(base.config, shared=recipe.shared is not None)
        if chosen is None:
            kind = base.config.get("model_type", "unknown")
            fix = "mixtures are made of llama, mistral, qwen2 and qwen3 models"
            message = f"{base.label} is a model of type {kind}, of which no mixture can be made"
            raise PlanError(Problem(message, line=recipe.donor.line, fix=fix))
        layout = chosen
    if recipe.shared is not None and layout.shared is None:
        fitting = ", ".join(name for name, other in LAYOUTS.items() if other.shared is not None)
        message = f"a {layout.name} has no shared experts"
        raise PlanError(Problem(message, line=recipe.shared.line, fix=f"architecture: one of {fitting}"))
    if recipe.shared is None and layout.always_shared and not layout.own_width:
        fix = "shared_experts: [{source_model: …}], with residual_scale: 0 if it is to give nothing"
        raise PlanError(Problem(f"a {layout.name} needs a shared expert", line=recipe.line, fix=fix))
    return layout


def _sizes(base: Checkpoint) -> tuple[int, int]:
    """(layers, hidden size) of the base."""
    found = tuple(base.config.get(key) for key in ("num_hidden_layers", "hidden_size"))
    if not all(isinstance(n, int) and n > 0 for n in found):
        message = f"{base.label} has no config.json with num_hidden_layers and hidden_size"
        raise PlanError(Problem(message, fix="use a model in the layout of transformers as base_model"))
    layers, hidden = found
    assert isinstance(layers, int)
    assert isinstance(hidden, int)
    return layers, hidden


def _nothing(recipe: MixtureRecipe, base: Checkpoint) -> Floats:
    layers, hidden = _sizes(base)
    return np.zeros((layers, len(recipe.experts), hidden), np.float32)


def _tensors(
    recipe: MixtureRecipe, base: Checkpoint, layout: Layout, rows: Floats, shared: Floats | None = None
) -> dict[str, Floats]:
    """What of a mixture no model gives, by name in the result.

    Args:
        rows: (layers, experts, hidden).
        shared: (layers, hidden), of the gate of the shared expert; None is zero: half of what it gives is added.
    """
    layers, hidden = _sizes(base)
    found: dict[str, Floats] = {}
    for layer in range(layers):
        found[layout.router(layer)] = rows[layer]
        gate, correction = layout.shared_gate(layer), layout.correction(layer)
        if gate is not None:
            found[gate] = np.zeros((1, hidden)) if shared is None else shared[layer][None]
        if correction is not None:
            found[correction] = np.zeros(len(recipe.experts))
        if layout.own_width and recipe.shared is None:
            for part in PARTS:
                shape = (hidden, _EMPTY) if part == "down_proj" else (_EMPTY, hidden)
                found[layout.shared_expert(layer, part)] = np.zeros(shape)
    return {name: np.asarray(values, np.float32) for name, values in found.items()}


def _expressed(recipe: MixtureRecipe, layout: Layout, router: Checkpoint) -> Recipe:
    """The mixture as a recipe that can be planned."""

    def expert(asked: ExpertAsked) -> Expert:
        return Expert(asked.of, asked.noise, asked.residual)

    node = Mixture(
        of=recipe.base,
        experts=tuple(map(expert, recipe.experts)),
        router=Leaf("router", router),
        layout=layout.name,
        per_token=recipe.per_token,
        shared=None if recipe.shared is None else expert(recipe.shared),
        line=recipe.line,
    )
    return Recipe(
        node,
        dtype=recipe.dtype,
        donor=recipe.donor,
        seed=recipe.seed,
        text=recipe.text,
        notes=recipe.notes,
        resolved=recipe.resolved,
    )


def _key(recipe: MixtureRecipe, base: Checkpoint, layout: Layout) -> str:
    """A hash of all that a router is made of."""
    prompts = [[e.name, e.positive, e.negative] for e in (*recipe.experts, *_shared(recipe))]
    stamps = {path: [stamp.nbytes, stamp.mtime_ns] for path, stamp in sorted(base.stamps.items())}
    facts: dict[str, Any] = {
        "mode": [recipe.gate_mode, recipe.pooling, recipe.states, recipe.seed],
        "prompts": prompts,
        "layout": [layout.name, recipe.shared is not None],
        "base": stamps,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _shared(recipe: MixtureRecipe) -> tuple[ExpertAsked, ...]:
    return () if recipe.shared is None else (recipe.shared,)


def _made(
    recipe: MixtureRecipe, base: Checkpoint, limits: Limits, measure: bool
) -> tuple[Floats, Floats | None, Routing]:
    """Rows of the router, the row of the shared expert's gate where it has prompts, and the report."""
    layers, hidden = _sizes(base)
    if (recipe.needs_prompts or measure) and not isinstance(recipe.base, Leaf):
        message = "prompts are read by the base, which must be a model that lies in a folder, not a merge"
        raise PlanError(Problem(message, line=recipe.line, fix="write it first (stockpot merge, stockpot lora fold)"))
    if measure or recipe.gate_mode in ("hidden", "trained"):
        return _seen(recipe, base, limits, layers, hidden)
    if not recipe.needs_prompts:
        rows = random_rows(layers, len(recipe.experts), hidden, recipe.seed, uniform=recipe.gate_mode != "random")
        return rows, None, _unmeasured(recipe, rows)
    rows, shared = _cheap(recipe, base, layers, limits.memory)
    return rows, shared, _unmeasured(recipe, rows)


def _unmeasured(recipe: MixtureRecipe, rows: Floats) -> Routing:
    layers = tuple(LayerRouting(condition) for condition in conditions(rows))
    warned = ("routing was not measured; --measure runs the base over the prompts to do so",)
    return Routing(_told(recipe, recipe.states), tuple(e.name for e in recipe.experts), layers, warnings=warned)


def _told(recipe: MixtureRecipe, states: str) -> str:
    """How a router was made, in words."""
    where = {"layer": "what enters each layer", "router": "what enters each router"}.get(states, states)
    at = "the last token" if recipe.pooling == "last" else "all tokens"
    return {
        "hidden": f"from prompts: states of the base at {at}, of {where}",
        "cheap_embed": "from prompts: sums of embeddings, the same in every layer",
        "random": f"random, normal, seed {recipe.seed}",
        "uniform_random": f"random, uniform, seed {recipe.seed}",
        "trained": "trained: logistic regression on tokens of the prompts, layer by layer",
    }[recipe.gate_mode]


def _seen(
    recipe: MixtureRecipe, base: Checkpoint, limits: Limits, layers: int, hidden: int
) -> tuple[Floats, Floats | None, Routing]:
    """As :func:`_made`, with the base run over the prompts; sums do not depend on the number of threads."""
    with one_thread():
        return _routed(recipe, base, limits, layers, hidden)


def _routed(
    recipe: MixtureRecipe, base: Checkpoint, limits: Limits, layers: int, hidden: int
) -> tuple[Floats, Floats | None, Routing]:
    """Rows of the router, the gate of the shared expert, and the report, from what the base makes of the prompts."""
    extra("torch", "running the base over prompts")
    examples = examples_of((*recipe.experts, *_shared(recipe)))
    if not any(example.experts for example in examples):
        raise PlanError(Problem("there are no prompts to measure the routing with", line=recipe.line))
    count = len(recipe.experts)
    tokens = tokens_of(base, [example.text for example in examples], limits.memory)
    states = states_of(base, tokens, recipe.pooling, limits.memory)
    own = tuple(_of_routed(example, count) for example in examples)
    mode = recipe.gate_mode
    chosen = recipe.states
    if mode == "hidden":
        chosen, rows, shares = _hidden(recipe.states, states, own, count)
    else:
        make: Made
        if mode == "trained":
            make = partial(trained_router, states, own, count)
        elif mode == "cheap_embed":
            pooled = _embedded(base, tokens, layers)
            make = partial(from_prompts, pooled, own, count, total=True)
        else:
            fixed = random_rows(layers, count, hidden, recipe.seed, uniform=mode != "random")
            make = partial(_whatever, fixed)
        rows, shares = make(()), held_out(states, own, count, make)
    if recipe.needs_prompts:
        _check_rows(recipe, rows)
    names = [e.name for e in recipe.experts]
    routing = measured(_told(recipe, chosen), names, rows, states, own, shares)
    shared = (
        _cheap(recipe, base, layers, limits.memory)[1]
        if mode == "cheap_embed"
        else _shared_gate(recipe, states, examples)
    )
    return rows, shared, routing


def _whatever(rows: Floats, left_out: Sequence[int]) -> Floats:
    """Rows that no prompt changes."""
    del left_out
    return rows


def _of_routed(example: Example, count: int) -> Example:
    """An example without the shared expert, which no router chooses."""
    return Example(
        example.text, tuple(e for e in example.experts if e < count), tuple(e for e in example.against if e < count)
    )


def _hidden(wanted: str, states: States, own: Sequence[Example], count: int) -> tuple[str, Floats, Floats]:
    """The states that rows are made of, the rows, and held-out shares; of ``best``, those that route better."""
    kinds = ("layer", "router") if wanted == "best" else (wanted,)
    found = []
    for kind in kinds:
        make = partial(from_prompts, states.pooled[kind], own, count)
        shares = held_out(states, own, count, make)
        score = float(np.nanmean(shares)) if not np.isnan(shares).all() else 0.0
        found.append((score, kind, make(()), shares))
    _, kind, rows, shares = max(found, key=lambda item: item[0])
    return kind, rows, shares


def _check_rows(recipe: MixtureRecipe, rows: Floats) -> None:
    """A row of zeros scores every token alike."""
    for number, expert in enumerate(recipe.experts):
        if not rows[:, number].any(axis=1).all():
            fix = "give it prompts that differ from its negative ones"
            raise PlanError(Problem(f"the prompts of {expert.name} cancel out", line=expert.line, fix=fix))


def _shared_gate(recipe: MixtureRecipe, states: States, examples: Sequence[Example]) -> Floats | None:
    """The row of the shared expert's gate, as of a routed expert; None without prompts."""
    if recipe.shared is None or not recipe.shared.positive or recipe.gate_mode != "hidden":
        return None
    kind = recipe.states if recipe.states != "best" else "router"
    rows: Floats = from_prompts(states.pooled[kind], examples, len(recipe.experts) + 1)[:, -1]
    return rows


def _cheap(recipe: MixtureRecipe, base: Checkpoint, layers: int, memory: int) -> tuple[Floats, Floats | None]:
    """Rows from embeddings alone; torch is not needed."""
    examples = examples_of((*recipe.experts, *_shared(recipe)))
    pooled = _embedded(base, tokens_of(base, [e.text for e in examples], memory), 1)
    found = from_prompts(pooled, examples, len(recipe.experts) + len(_shared(recipe)), total=True)
    found = np.repeat(found, layers, axis=0)
    rows = found[:, : len(recipe.experts)]
    _check_rows(recipe, rows)
    shared = found[:, -1] if recipe.shared is not None and recipe.shared.positive else None
    return rows, shared


def _embedded(base: Checkpoint, tokens: Sequence[Sequence[int]], layers: int) -> Floats:
    """(layers, prompts, hidden): the sum of the embeddings of a prompt's tokens, the same for all layers."""
    ref = base.tensors["model.embed_tokens.weight"]
    width, columns = ref.dtype.itemsize, ref.shape[1]
    found = np.zeros((len(tokens), columns))
    raw, row = np.empty(columns * width, np.uint8), np.empty(columns)
    known: dict[int, Floats] = {}
    with PayloadReader(stamps=base.stamps) as reader:
        for number, ids in enumerate(tokens):
            for token in ids:
                if token not in known:
                    reader.read(ref, token * columns * width, raw.data)
                    convert.widen_block(raw, ref.dtype.kernel, columns, row, np.zeros(ROW))
                    known[token] = row.copy()
                found[number] += known[token]
    return np.broadcast_to(found, (layers, *found.shape))
