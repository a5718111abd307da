"""Adapters in a single file, as trainers of diffusion models write them: what their names mean, nothing left out.

The scale of a module is alpha / rank, alpha being its tensor ``.alpha``; where there is none, the scale is 1. (Of LoKr
with both matrices whole the scale is 1 always.) So kohya's scripts, LyCORIS and diffusers all have it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stockpot.architecture.lora_products import KINDS, Product, product_of
from stockpot.architecture.lora_settings import LoraSettings, settings_in
from stockpot.checkpoint.adapter_names import piece_of
from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.errors import CheckpointError, Problem, UnsupportedError

__all__ = ["Pair", "Table", "table_of"]

Key = tuple[str, str]
"""Component (empty where the name does not tell) and module in it."""

_FOREIGN = {
    "oft_blocks": "OFT", "oft_diag": "OFT", "oft_r": "OFT", "rescale": "OFT", "on_input": "(IA)³",
    "a1.weight": "GLoRA", "a2.weight": "GLoRA", "b1.weight": "GLoRA", "b2.weight": "GLoRA", "bm.weight": "GLoRA",
    "scalar": "a scale that was not folded in",
}  # fmt: skip
_OWN = "merge it into its model with the tool that it was made with, and name the model's folder"


@dataclass(frozen=True)
class Pair:
    """A plain LoRA: the factors, alpha, scale, and the lengths of the outputs where it is DoRA."""

    down: TensorRef
    up: TensorRef
    alpha: float
    scale: float
    magnitude: TensorRef | None = None


@dataclass(frozen=True)
class Table:
    """A file, understood.

    Args:
        pairs, products: What is added to the weight of each module.
        whole: (component, name of the tensor) → what is added to it as it is.
        others: Component → how many modules it changes in other components, which were not asked for.
    """

    pairs: Mapping[Key, Pair]
    products: Mapping[Key, Product]
    whole: Mapping[Key, TensorRef]
    others: Mapping[str, int] = field(default_factory=dict)


def table_of(adapter: Checkpoint) -> Table:
    """What the tensors of an adapter without settings mean.

    Raises:
        UnsupportedError: for kinds of changes that are no sums.
        CheckpointError: for tensors that are not understood, or do not fit each other.
    """
    groups, problems, foreign = _grouped(adapter)
    if foreign:
        raise UnsupportedError(*foreign)
    part = adapter.config.get("part")
    held = Counter(component for component, _ in groups)
    if part is not None and part not in held:
        listed = ", ".join(sorted(filter(None, held))) or "none that are named"
        message = f"it has nothing for {part}; its components are {listed}"
        problems.append(Problem(message, file=_file(adapter), fix="name one of them behind the colon"))
    scales = _Scales(adapter)
    pairs: dict[Key, Pair] = {}
    products: dict[Key, Product] = {}
    whole: dict[Key, TensorRef] = {}
    for key, parts in groups.items():
        try:
            _take(key, parts, scales, pairs, products, whole)
        except CheckpointError as error:
            problems += error.problems
    if problems:
        raise CheckpointError(*problems)
    if part is None:
        return Table(pairs, products, whole)
    others = {component: count for component, count in held.items() if component != part}
    return Table(_of(part, pairs), _of(part, products), _of(part, whole), others)


def _of(part: str, changes: Mapping[Key, Any]) -> dict[Key, Any]:
    return {key: change for key, change in changes.items() if key[0] == part}


def _grouped(adapter: Checkpoint) -> tuple[dict[Key, dict[str, TensorRef]], list[Problem], list[Problem]]:
    """The parts of each module; what is not understood; what is understood and not supported."""
    groups: dict[Key, dict[str, TensorRef]] = {}
    problems: list[Problem] = []
    foreign: dict[str, Problem] = {}
    for ref in adapter.tensors.values():
        piece = piece_of(ref.name)
        if piece is None:
            problems.append(_problem(ref, "a tensor of the adapter that is not understood, and must not be left out"))
        elif piece.part in _FOREIGN:
            kind = _FOREIGN[piece.part]
            foreign.setdefault(kind, _problem(ref, f"{kind} is no kind of adapter that is supported"))
        elif piece.part in (group := groups.setdefault(piece.key, {})):
            problems.append(_problem(ref, f"it means the same as {group[piece.part].name}"))
        else:
            group[piece.part] = ref
    return groups, problems, list(foreign.values())


def _take(
    key: Key,
    parts: dict[str, TensorRef],
    scales: _Scales,
    pairs: dict[Key, Pair],
    products: dict[Key, Product],
    whole: dict[Key, TensorRef],
) -> None:
    """Put what ``parts`` are into the map where it belongs.

    Raises:
        CheckpointError: when they are no whole change of one kind.
    """
    component, module = key
    rest = {part: ref for part, ref in parts.items() if part != "alpha"}
    for part, ending in (("diff", "weight"), ("diff_b", "bias")):
        if part in rest:
            ref = rest.pop(part)
            _check_float(ref)
            whole[component, f"{module}.{ending}"] = ref
    if not rest and len(parts) > ("alpha" in parts):
        return
    kind = next((kind for kind, names in KINDS.items() if any(part in names for part in rest)), None)
    if kind is None:
        ref = next(iter(parts.values()))
        raise CheckpointError(_problem(ref, f"a part of {module} without the others", "get the file again"))
    if "diff" in parts:
        raise CheckpointError(_problem(parts["diff"], f"{module} is changed in two ways"))
    magnitude = rest.pop("dora_scale", None)
    if kind == "lora" and "mid" not in rest:
        pairs[key] = _pair(module, rest, magnitude, scales.within(key, parts))
    elif magnitude is not None:
        message = f"weights decomposed into length and direction (DoRA) are not supported of {_WORD[kind]}"
        raise CheckpointError(_problem(magnitude, message))
    else:
        products[key] = product_of(module, _kind(kind), rest, scales.within(key, parts))


_WORD = {"loha": "LoHa", "lokr": "LoKr", "lora": "LoRA with a core"}


def _kind(word: str) -> Literal["loha", "lokr", "lora"]:
    return "loha" if word == "loha" else "lokr" if word == "lokr" else "lora"


def _pair(module: str, parts: Mapping[str, TensorRef], magnitude: TensorRef | None, scaling: _Scaling) -> Pair:
    first = next(iter(parts.values()))
    if parts.keys() != {"down", "up"}:
        raise CheckpointError(_problem(first, f"half of a pair: down or up of {module} is missing", "get it again"))
    down, up = parts["down"], parts["up"]
    problems = list(_misfits(down, up, magnitude))
    if problems:
        raise CheckpointError(*problems)
    return Pair(down, up, *scaling(module, down.shape[0], down), magnitude)


def _misfits(down: TensorRef, up: TensorRef, magnitude: TensorRef | None) -> Iterator[Problem]:
    for ref in (down, up, magnitude):
        if ref is not None and not ref.dtype.is_float:
            yield _problem(ref, f"dtype {ref.dtype.code} of an adapter is not supported", "save it in float32")
    shapes = f"down has shape {down.shape}, up has {up.shape}"
    if min(len(down.shape), len(up.shape)) < 2 or any(n != 1 for n in up.shape[2:]):
        yield _problem(down, f"{shapes}: they are no pair of factors")
    elif down.shape[0] != up.shape[1]:
        grouped = len(up.shape) > 2 and up.shape[1] and down.shape[0] % up.shape[1] == 0
        why = " (a convolution in groups, which is not supported)" if grouped else ""
        yield _problem(down, f"{shapes}: their ranks differ{why}")
    elif (magnitude is not None and magnitude.elements != up.shape[0]) or (
        magnitude is not None and magnitude.shape and magnitude.shape[0] != up.shape[0]
    ):
        yield _problem(
            magnitude, f"it has shape {magnitude.shape}: lengths of inputs, not of outputs, are not supported"
        )


def _check_float(ref: TensorRef) -> None:
    if not ref.dtype.is_float:
        message = f"dtype {ref.dtype.code} of an adapter is not supported"
        raise CheckpointError(_problem(ref, message, "save it in float32"))


@dataclass(frozen=True)
class _Scaling:
    """(alpha, scale) of one module."""

    key: Key
    alpha: float | None
    settings: LoraSettings | None

    def __call__(self, module: str, rank: int, ref: TensorRef) -> tuple[float, float]:
        if rank == 0:
            return 1.0, 1.0
        if self.alpha is not None:
            return self.alpha, self.alpha / rank
        if self.settings is None:
            return float(rank), 1.0
        if self.settings.rank_of(module) != rank:
            message = f"its rank is {rank}, the settings in the file's header say {self.settings.rank_of(module)}"
            raise CheckpointError(_problem(ref, message, "get the file again"))
        return self.settings.scaling(module)


class _Scales:
    """The scales that a file tells: tensors first, then the settings in its header."""

    def __init__(self, adapter: Checkpoint) -> None:
        self._alphas: Mapping[str, float] = adapter.config.get("alphas", {})
        said: Mapping[str, Mapping[str, Any]] = adapter.config.get("settings", {})
        self._settings = {part: settings_in({"peft_type": "LORA", **own}, _file(adapter)) for part, own in said.items()}

    def within(self, key: Key, parts: Mapping[str, TensorRef]) -> _Scaling:
        """Of the module ``key``, whose parts are ``parts``.

        Raises:
            CheckpointError: for an alpha that is no number.
        """
        ref = parts.get("alpha")
        if ref is None:
            return _Scaling(key, None, self._settings.get(key[0], self._settings.get("")))
        if ref.name not in self._alphas:
            raise CheckpointError(_problem(ref, f"alpha has shape {ref.shape}, and is no number", "get the file again"))
        return _Scaling(key, self._alphas[ref.name], None)


def _problem(ref: TensorRef, message: str, fix: str = _OWN) -> Problem:
    return Problem(message, tensor=ref.name, file=ref.file, fix=fix)


def _file(adapter: Checkpoint) -> str | None:
    return str(adapter.files[0]) if adapter.files else None
