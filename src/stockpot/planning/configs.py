"""The config of a result whose layers were taken from elsewhere: counts of layers, and what is said of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stockpot.architecture.counts import counting_keys, extra_layers, part_of
from stockpot.architecture.layers import layer_counts, layer_of, parse_layer
from stockpot.architecture.perlayer import LayerSource, per_layer
from stockpot.planning.views import Context, View

__all__ = ["layer_entries"]

_NEXT_TOKENS = "num_nextn_predict_layers"


def layer_entries(config: Mapping[str, Any], before: Mapping[str, int], view: View, context: Context) -> dict[str, Any]:
    """Dotted path → new value, for the stacks of ``view`` that are not as in the model that gives the config.

    Args:
        config: The donor's.
        before: The donor's stacks with their lengths.
        view: The result.
        context: Gets what the config cannot express.
    """
    after = layer_counts(view.names)
    changed = list(_changed(before, after, view)) if config else []
    keys = counting_keys(before, config) if changed else {}
    entries: dict[str, Any] = {}
    for stack, sources in changed:
        paths = keys.get(stack, ())
        entries |= _counts(config, stack, (before.get(stack, 0), after.get(stack, 0)), paths, sources, context)
        entries |= _lists(config, before.get(stack, 0), paths[:1], sources, context)
    if view.sliced is not None and view.sliced.stack not in after:
        entries |= _inner(config, view.sliced.stack, view)
    if changed:
        _t5(config, keys, after, entries)
    return entries


def _changed(
    before: Mapping[str, int], after: Mapping[str, int], view: View
) -> Iterator[tuple[str, list[tuple[Mapping[str, Any], int]]]]:
    """Stacks whose layers were taken, with the config and number that each layer had."""
    found: dict[str, dict[int, tuple[Mapping[str, Any], int]]] = {}
    firsts = view.sliced.firsts if view.sliced is not None else frozenset[str]()
    for name in view.names:
        layer = parse_layer(name)
        if layer is None or layer.stack not in before or layer.rest in firsts:
            continue
        config, old = view.origin(name)
        origin = parse_layer(old)
        if origin is not None:
            found.setdefault(layer.stack, {}).setdefault(layer.index, (config, origin.index))
    for stack, layers in found.items():
        sliced = view.sliced is not None and view.sliced.stack == stack
        moved = any(index != new for new, (_, index) in layers.items())
        if sliced or moved or before[stack] != after.get(stack):
            yield stack, [layers[index] for index in sorted(layers)]


def _counts(
    config: Mapping[str, Any],
    stack: str,
    lengths: tuple[int, int],
    paths: tuple[str, ...],
    sources: list[LayerSource],
    context: Context,
) -> dict[str, Any]:
    before, after = lengths
    if not paths and before != after:
        context.note(
            f"no key of config.json is known to count the layers of {stack}, which are {after} now, not {before}",
            fix="check config.json before loading the result",
        )
    entries: dict[str, Any] = {}
    for path in paths:
        extra = extra_layers(config, path, before)
        if not extra:
            entries[path] = after
            continue
        kept = sum(index >= before - extra for _, index in sources)
        if any(index >= before - extra for _, index in sources[: len(sources) - kept]):
            context.problem(
                f"layer {before - extra} of {stack} predicts further tokens and must stay last",
                fix=f"end every layer_range but the last at {before - extra}",
            )
        entries |= {path: after - kept, path[: path.rfind(".") + 1] + _NEXT_TOKENS: kept}
    return entries


def _lists(
    config: Mapping[str, Any], count: int, paths: tuple[str, ...], sources: list[LayerSource], context: Context
) -> dict[str, Any]:
    path = paths[0] if paths else ""
    own, prefix = part_of(config, path), path[: path.rfind(".") + 1]
    told = per_layer(own, count, [(part_of(of, path), index) for of, index in sources])
    for message in told.problems:
        context.problem(message, fix="choose ranges whose dense layers come first")
    for message in told.notes:
        context.note(message, fix="check config.json before loading the result")
    return {prefix + key: value for key, value in told.entries.items() if "." not in key}


def _inner(config: Mapping[str, Any], stack: str, view: View) -> dict[str, Any]:
    """Lists of depths, for a stack within a stage of another: ``encoder.layers.1.blocks`` is the second entry."""
    outer = parse_layer(stack + ".")
    count = 1 + max((layer.index for name in view.names if (layer := layer_of(name, stack))), default=-1)
    depths = config.get("depths")
    if outer is None or not isinstance(depths, list) or outer.index >= len(depths):
        return {}
    return {"depths": [count if i == outer.index else depth for i, depth in enumerate(depths)]}


def _t5(
    config: Mapping[str, Any], keys: Mapping[str, tuple[str, ...]], after: Mapping[str, int], entries: dict[str, Any]
) -> None:
    """T5's config may leave the decoder's number of layers to the encoder's, which is right no longer."""
    key, decoder = "num_decoder_layers", "decoder.block"
    if "t5" in str(config.get("model_type")) and decoder in after and not keys.get(decoder):
        lasting = entries.get("num_layers", config.get("num_layers"))
        if after[decoder] != lasting:
            entries[key] = after[decoder]
