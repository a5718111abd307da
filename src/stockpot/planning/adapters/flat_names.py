"""Names of adapters that have ``_`` where those of the base have dots, and begin with the component of a pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import islice

from stockpot.checkpoint.adapter_names import COMPONENTS

__all__ = ["FlatNames", "listed"]

_ORIGINAL = {
    "unet": ("model_diffusion_model_",),
    "transformer": ("model_diffusion_model_",),
    "text_encoder": ("cond_stage_model_transformer_", "conditioner_embedders_0_transformer_"),
    "text_encoder_2": ("conditioner_embedders_1_model_",),
}
"""How names of a component begin in a single file in the original layout."""

_MOST = 5


class FlatNames:
    """Finds the base's tensor for each name of an adapter, where dots and ``_`` count as the same.

    A name is that in the component, as it is or with one more word before it or ``text_model`` less; or, in a model
    that holds several components, that with its component before it. One way is taken for all names of a component:
    the one by which most are found. Of an adapter for several components only the second is tried, since one encoder
    may have all the names of another.

    Args:
        wanted: ``component.name`` or, where the component is not known, ``name``.
        names: Those of the base.
    """

    def __init__(self, wanted: Iterable[str], names: Iterable[str]) -> None:
        self._places: dict[str, list[str]] = {}
        for name in names:
            self._places.setdefault(_flat(name), []).append(name)
        self._words = list(dict.fromkeys(flat.partition("_")[0] for flat in self._places))
        groups: dict[str, list[str]] = {}
        for name in wanted:
            component, rest = _parted(name)
            groups.setdefault(component, []).append(_flat(rest))
        self.components = tuple(groups)
        self._ways = {component: self._way(component, rests) for component, rests in groups.items()}

    def __call__(self, name: str) -> str:
        """The base's name; ``name`` as it is where there is none, or more than one."""
        found = self.places(name)
        return found[0] if len(found) == 1 else name

    def places(self, name: str) -> list[str]:
        """All names of the base that ``name`` may mean."""
        component, rest = _parted(name)
        less, more = self._ways[component]
        return self._places.get(more + _flat(rest).removeprefix(less), [])

    def fits(self, component: str, names: Iterable[str]) -> bool:
        """Whether one of the ``names`` of a component is found."""
        return any(self.places(name) for name in names if _parted(name)[0] == component)

    def nearest(self, name: str) -> str:
        """Names of the base that look like ``name``, for errors."""
        found = get_close_matches(_flat(_parted(name)[1]), islice(self._places, 20_000), 3, 0.5)
        return ", ".join(original for flat in found[:_MOST] for original in self._places[flat])

    @property
    def original(self) -> bool:
        """Whether the base is a single file in the original layout."""
        starts = tuple(start for starts in _ORIGINAL.values() for start in starts)
        return any(flat.startswith(starts) for flat in self._places)

    def _way(self, component: str, rests: list[str]) -> tuple[str, str]:
        """(word to leave out, words to put before) by which most of the names are found; the first of equals."""
        known = (component,) if component else COMPONENTS
        inside = [f"{own}_" for own in known] + [start for own in known for start in _ORIGINAL.get(own, ())]
        ways = [("", start) for start in inside] + [("text_model_", start) for start in inside]
        if len(self.components) == 1:
            alone = [("", ""), ("text_model_", ""), *(("", f"{word}_") for word in self._words)]
            ways = [*alone, *ways]
        best, most = ways[0], 0
        for less, more in ways:
            found = sum(more + rest.removeprefix(less) in self._places for rest in rests)
            if found > most:
                best, most = (less, more), found
        return best


def _flat(name: str) -> str:
    """``name`` with one sign between its words.

    >>> _flat("down_blocks.0.attn.to_out.0.weight")
    'down_blocks_0_attn_to_out_0_weight'
    """
    return name.replace(".", "_").replace("/", "_")


def _parted(name: str) -> tuple[str, str]:
    component, _, rest = name.partition(".")
    return (component, rest) if component in COMPONENTS and rest else ("", name)


def listed(counts: Mapping[str, int]) -> str:
    """Components with how many modules each has, for people.

    >>> listed({"unet": 192, "text_encoder": 1})
    'unet (192 modules), text_encoder (1 module)'
    """
    return ", ".join(f"{name or 'no component'} ({n} module{'s' * (n != 1)})" for name, n in counts.items())
