"""A language model found within a model of language and images, by the names and shapes of its layers.

``model.layers.3.mlp.up_proj.weight`` may be ``language_model.model.layers.3.…`` there, or
``model.language_model.layers.3.…``. Nothing is known of families: a stack of the larger model with the same layers,
tensor by tensor, is looked for, and what its name begins with is taken off here and put on there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
    """How a model's tensors are called within a larger one.

    Args:
        names: Name there → name here, for all.
        taken, put: What names begin with here, and there instead.
        lent: Tensors of the larger model that this one has nothing of: other towers, and what joins them.
    """

    names: Mapping[str, str]
    taken: str
    put: str
    lent: tuple[str, ...]

    @property
    def towers(self) -> tuple[str, ...]:
        """What the lent tensors belong to: the parts of the larger model."""
        common = self.put or self.taken
        return tuple(dict.fromkeys(_part(name, common) for name in self.lent))


def embedded(own: Shapes, like: Shapes) -> Embedded | None:
    """``own`` as a part of ``like``; None where it is none, or where more than one would fit.

    >>> own = {"model.layers.0.up.weight": (2, 2), "model.norm.weight": (2,), "lm_head.weight": (9, 2)}
    >>> like = {f"language_model.{name}": shape for name, shape in own.items()} | {"vision_tower.layers.0.w": (3, 3)}
    >>> found = embedded(own, like)
    >>> found.put, found.names["language_model.lm_head.weight"], found.towers
    ('language_model.', 'lm_head.weight', ('vision_tower',))
    """
    stacks = layer_counts(own)
    if len(stacks) != 1:
        return None
    (stack,) = stacks
    layers = _layers(own)[stack]
    places = [other for other, found in _layers(like).items() if found == layers]
    if len(places) != 1:
        return None
    taken, put = _prefixes(stack, places[0])
    names = _renamed(own, like, taken, put)
    if names is None:
        return None
    tower = put or places[0].rpartition(".")[0] + "."
    apart = bool(put) and put != taken
    rest = [n for n in like if n not in names and not (is_head(n) or recomputed_buffer(n) or n == embedding_of(like))]
    lendable = all((apart and not n.startswith(tower)) or _speaks_of_others(n, tower) for n in rest)
    others = any(side_of(n).medium in ("vision", "audio") for n in rest if parse_layer(n) is not None)
    if rest and not (lendable and others):
        return None
    return Embedded(names, taken, put, tuple(rest))


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


def _renamed(own: Shapes, like: Shapes, taken: str, put: str) -> dict[str, str] | None:
    """Name there → name here; None where a tensor has no place there."""
    heads = [name for name in like if is_head(name)]
    found: dict[str, str] = {}
    for name in own:
        new = put + name.removeprefix(taken) if name.startswith(taken) else name
        if is_head(name) and new not in like:
            new = heads[0] if len(heads) == 1 else name
        if new not in like and not is_head(name) and not recomputed_buffer(name):
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
