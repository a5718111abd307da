"""A language model found within a model of language and images, by the names and shapes of its layers.

``model.layers.3.mlp.up_proj.weight`` may be ``language_model.model.layers.3.…`` there, or
``model.language_model.layers.3.…``. Nothing is known of families: a stack of the larger model with the same layers,
tensor by tensor, is looked for, and what its name begins with is taken off here and put on there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from stockpot.architecture.layers import layer_counts, parse_layer, recomputed_buffer
from stockpot.architecture.sides import side_of
from stockpot.architecture.tied import embedding_of, is_head

__all__ = ["Embedded", "embedded"]

Shapes = Mapping[str, tuple[int, ...]]

_BESIDE = re.compile(
    r"vision|visual|image|img|vit(?![a-z])|video|audio|speech|sound|projector|connector|merger|resampler|perceiver"
    r"|aligner|abstractor|q_?former|(^|[._])mm_|multi_modal"
)


@dataclass(frozen=True)
class Embedded:
    """How a model's tensors are called within another that has them all.

    Args:
        names: Name there → name here, for all.
        rules: What names begin with here, and there instead, where that differs.
        lent: Tensors of the other model that this one has nothing of: other towers, and what joins them.
        towers: What the lent tensors belong to: parts of the other model.
    """

    names: Mapping[str, str]
    rules: tuple[tuple[str, str], ...]
    lent: tuple[str, ...]
    towers: tuple[str, ...]


def embedded(own: Shapes, like: Shapes) -> Embedded | None:
    """``own`` as ``like``, or as its language model; None where it is neither, or where more than one place would fit.

    >>> own = {"model.layers.0.up.weight": (2, 2), "model.norm.weight": (2,), "lm_head.weight": (9, 2)}
    >>> like = {f"language_model.{name}": shape for name, shape in own.items()} | {"vision_tower.layers.0.w": (3, 3)}
    >>> found = embedded(own, like)
    >>> found.rules, found.names["language_model.lm_head.weight"], found.towers
    ((('', 'language_model.'),), 'lm_head.weight', ('vision_tower',))
    """
    pairs = _pairs(own, like)
    rules = sorted({_prefixes(here, there) for here, there in pairs}, key=lambda rule: -len(rule[0]))
    names = _renamed(own, like, rules) if pairs else None
    if names is None:
        return None
    embedding = embedding_of(like)
    rest = tuple(n for n in like if n not in names and not (is_head(n) or recomputed_buffer(n) or n == embedding))
    told = tuple(rule for rule in rules if rule[0] != rule[1])
    if not rest:
        return Embedded(names, told, (), ())
    ((_, there), *more) = pairs
    tower = rules[0][1] or there.rpartition(".")[0] + "."
    apart = bool(rules[0][1]) and bool(told)
    lendable = not more and all((apart and not n.startswith(tower)) or _speaks_of_others(n, tower) for n in rest)
    if not lendable or not any(side_of(n).medium in ("vision", "audio") for n in rest if parse_layer(n) is not None):
        return None
    return Embedded(names, told, rest, tuple(dict.fromkeys(_part(n, tower) for n in rest)))


def _pairs(own: Shapes, like: Shapes) -> list[tuple[str, str]]:
    """Each stack with the only one of the other model that has the same layers; none where one has no such."""
    mine, theirs = _layers(own), _layers(like)
    pairs = []
    for stack in layer_counts(own):
        places = [other for other, found in theirs.items() if found == mine.get(stack)]
        medium = side_of(stack).medium
        if len(places) > 1 and medium is not None:
            places = [place for place in places if side_of(place).medium == medium]
        if len(places) != 1:
            return []
        pairs.append((stack, places[0]))
    return pairs


def _layers(shapes: Shapes) -> dict[str, dict[tuple[int, str], tuple[int, ...]]]:
    """Stack → (layer, rest of the name) → shape."""
    found: dict[str, dict[tuple[int, str], tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        layer = parse_layer(name)
        if layer is not None and not recomputed_buffer(layer.rest):
            found.setdefault(layer.stack, {})[layer.index, layer.rest] = shape
    return found


def _prefixes(here: str, there: str) -> tuple[str, str]:
    """What is left of two stacks' names without the components at the end that they share, each with its dot."""
    a, b = here.split("."), there.split(".")
    while a and b and a[-1] == b[-1]:
        a.pop()
        b.pop()
    return "".join(f"{part}." for part in a), "".join(f"{part}." for part in b)


def _renamed(own: Shapes, like: Shapes, rules: Sequence[tuple[str, str]]) -> dict[str, str] | None:
    """Name there → name here; None where a tensor has no place there, or two have one."""
    heads = [name for name in like if is_head(name)]
    found: dict[str, str] = {}
    for name in own:
        taken, put = next((rule for rule in rules if name.startswith(rule[0])), ("", ""))
        new = put + name.removeprefix(taken)
        if new not in like:
            new = name
        if is_head(name) and new not in like and len(heads) == 1:
            new = heads[0]
        if new in found or (new not in like and not is_head(name) and not recomputed_buffer(name)):
            return None
        found[new] = name
    return found


def _speaks_of_others(name: str, tower: str) -> bool:
    """Whether a tensor within the tower, or of a model without towers, is of images or sound by its name."""
    return _BESIDE.search(_part(name, tower)) is not None


def _part(name: str, common: str) -> str:
    """The beginning of a name, up to the first component that is not that of ``common``."""
    shared = list(_shared(name, common))
    return ".".join(name.split(".")[: len(shared) + 1])


def _shared(name: str, common: str) -> Iterator[str]:
    for one, other in zip(name.split("."), common.split("."), strict=False):
        if one != other:
            return
        yield one
