"""Parts of a model by the names that recipes give them: ``encoder``, ``text_decoder``, ``vision_tower``, ``unet``.

A name means what begins with it, wherever in the model that stands once; else the tower that it speaks of: that of
the language model, of images or sound, the encoder or the decoder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stockpot.architecture.layers import layer_counts
from stockpot.architecture.sides import side_of
from stockpot.architecture.stacks import main_stack
from stockpot.architecture.tied import embedding_of, is_head

__all__ = ["Modules", "stack_within"]

_JOINING = re.compile(r"project|connector|merger|adapter|aligner|resampler|abstractor")


@dataclass(frozen=True)
class Modules:
    """Which module each tensor of a model belongs to.

    Args:
        prefixes: Module → what its tensors' names begin with; empty where the model has no such part.
        loose: Head and embedding outside of every tower → the module that they go with.
        parts: The model's parts, for errors.
    """

    prefixes: Mapping[str, str]
    loose: Mapping[str, str]
    parts: tuple[str, ...]

    @classmethod
    def of(cls, wanted: Sequence[str], names: Iterable[str], config: Mapping[str, Any]) -> Modules:
        """The modules called ``wanted`` of a model with these tensors.

        >>> names = ["encoder.block.0.w.x", "decoder.block.0.w.x", "shared.weight", "lm_head.weight"]
        >>> modules = Modules.of(["encoder", "text_decoder"], names, {})
        >>> [modules.owner(name) for name in names]
        ['encoder', 'text_decoder', 'text_decoder', 'text_decoder']
        """
        names = list(names)
        towers = _towers(names)
        prefixes = {module: _found(module, names, towers, config) for module in wanted}
        spoken = _spoken(towers, names, config)
        speaker = next((m for m, prefix in prefixes.items() if prefix and spoken and spoken.startswith(prefix)), None)
        inside = tuple(f"{tower}." for tower in towers.values())
        loose = [n for n in names if (is_head(n) or n == embedding_of(names)) and not n.startswith(inside)]
        tops = (name.partition(".")[0] for name in names if not name.startswith(inside))
        return cls(
            prefixes,
            dict.fromkeys(loose, speaker) if speaker is not None else {},
            tuple(dict.fromkeys((*towers.values(), *tops))),
        )

    def owner(self, name: str) -> str | None:
        """The module of tensor ``name``; None for what belongs to none of them."""
        fitting = [m for m, prefix in self.prefixes.items() if prefix and _below(name, prefix)]
        return max(fitting, key=lambda m: len(self.prefixes[m])) if fitting else self.loose.get(name)


def stack_within(module: str, names: Iterable[str], config: Mapping[str, Any]) -> str | None:
    """The stack of layers of a module; None where it has none, or several."""
    names = list(names)
    prefix = _found(module, names, _towers(names), config)
    own = [stack for stack in layer_counts(names) if prefix and _below(f"{stack}.", prefix)]
    return own[0] if len(own) == 1 else None


def _below(name: str, prefix: str) -> bool:
    return name.startswith((f"{prefix}.", f"{prefix}/"))


def _towers(names: Sequence[str]) -> dict[str, str]:
    """Stack → the shortest beginning of its name that no other stack's has."""
    begins = {stack: list(_beginnings(stack)) for stack in layer_counts(names)}
    shared = Counter(begin for own in begins.values() for begin in own)
    return {stack: next((b for b in own if shared[b] == 1), stack) for stack, own in begins.items()}


def _beginnings(name: str) -> Iterator[str]:
    """Beginnings of a name, component by component, short ones first."""
    parts = name.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _found(module: str, names: Sequence[str], towers: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """What the names of a module's tensors begin with; empty where that cannot be told."""
    literal = {
        match[0] for name in names if (match := re.match(rf"([^./]+\.){{0,2}}?{re.escape(module)}(?=[./])", name))
    }
    shortest = [p for p in literal if p.count(".") == min(q.count(".") for q in literal)]
    if len(shortest) == 1:
        return shortest[0]
    if _JOINING.search(module):
        joining = {name.partition(".weight")[0].split(".")[0] for name in names if _JOINING.search(name.split(".")[0])}
        return joining.pop() if len(joining) == 1 else ""
    side = side_of(module)
    spoken = _spoken(towers, names, config)
    if spoken is not None and side.role != "encoder" and (side.medium == "text" or side.role == "decoder"):
        return towers[spoken]
    media = [tower for stack, tower in towers.items() if side.medium and side_of(stack).medium == side.medium]
    roles = [tower for stack, tower in towers.items() if side.role and side_of(stack).role == side.role]
    for fitting in (media, roles):
        if len(fitting) == 1:
            return fitting[0]
    return ""


def _spoken(towers: Mapping[str, str], names: Sequence[str], config: Mapping[str, Any]) -> str | None:
    """The stack of the language model, or of the decoder, that gives the output."""
    found = main_stack(names, config)
    if found is not None:
        return found[0]
    decoders = [stack for stack in towers if side_of(stack).role == "decoder"]
    texts = [stack for stack in towers if side_of(stack).medium == "text"]
    return next((only[0] for only in (decoders, texts) if len(only) == 1), None)
