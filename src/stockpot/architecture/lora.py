"""Adapters as PEFT writes them: what the settings and the tensors' names mean, nothing left out.

An adapter adds ``scale · B·A`` (or another product of small matrices) to the weights of modules; it may also hold whole
tensors that replace those of its base. What is a single file without settings is read by ``lora_tables``. Anything in
the file that is not understood is an error by name, and so is any setting that means other arithmetic: an adapter is
read exactly or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from stockpot.architecture.lora_products import KINDS, Product, product_of
from stockpot.architecture.lora_settings import LONGEST_NAME, LoraSettings, settings_of
from stockpot.architecture.lora_tables import table_of
from stockpot.architecture.tied import embedding_of, is_head
from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.errors import CheckpointError, Problem

__all__ = ["Lora", "Module", "lora_of"]

_ROOT = "base_model.model."
_FACTOR = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector"
    r"|hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2)"
    r"(?:\.(?P<adapter>[^.]+?))??(?P<ending>\.weight|\.bias)?"
)
_SAVED = re.compile(r"\.modules_to_save\.[^.]+\.")
_MAGNITUDES = ("lora_magnitude_vector", "lora_magnitude_vector.weight")
_PAIRS = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))


@dataclass(frozen=True)
class Module:
    """What an adapter adds to one module.

    Args:
        name: Of the module, as the adapter calls it, without PEFT's prefix.
        a, b: The factors, of shapes (rank, columns…) and (rows, rank, 1…).
        embedding: Whether the weight has a row for each token: then scale · (B·A)ᵀ is added.
        alpha: Numerator of the scale.
        scale: alpha / rank, or alpha / √rank.
        bias: What, times the scale, is added to the module's bias.
        magnitude: Of DoRA: the length that the weights of each output get.
    """

    name: str
    a: TensorRef
    b: TensorRef
    embedding: bool
    alpha: float
    scale: float
    bias: TensorRef | None = None
    magnitude: TensorRef | None = None

    @property
    def rank(self) -> int:
        """Inner dimension of B·A."""
        return self.a.shape[0]


@dataclass(frozen=True)
class Lora:
    """An adapter, understood.

    Args:
        modules: By name of the module.
        replaced: Name of a tensor of the base → the whole tensor that takes its place.
        transposed: Whether modules whose shape does not tell store their weight as (in, out).
        products: As modules, those whose change is more than one product of two factors.
        added: Name of a tensor of the base → a whole tensor that is added to it.
        flat: Whether names begin with the component of a pipeline, and may have ``_`` where the base's have dots.
        others: Component → how many modules of it are changed, which were not asked for.
    """

    modules: Mapping[str, Module]
    replaced: Mapping[str, TensorRef] = field(default_factory=dict)
    transposed: bool = False
    products: Mapping[str, Product] = field(default_factory=dict)
    added: Mapping[str, TensorRef] = field(default_factory=dict)
    flat: bool = False
    others: Mapping[str, int] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether it is nothing but products of two factors."""
        return not (self.replaced or self.products or self.added)


def lora_of(adapter: Checkpoint) -> Lora:
    """What the opened ``adapter`` does to its base, from its settings and headers.

    Raises:
        UnsupportedError: for settings that mean other arithmetic.
        CheckpointError: for settings that are no adapter's, factors that do not fit each other or their settings,
            tensors that are not understood.
    """
    return _single(adapter) if adapter.folder is None else _with_settings(adapter, settings_of(adapter))


def _single(adapter: Checkpoint) -> Lora:
    """What a file without settings does."""
    table = table_of(adapter)
    modules = {
        _dotted(key): Module(_dotted(key), p.down, p.up, False, p.alpha, p.scale, None, p.magnitude)
        for key, p in table.pairs.items()
    }
    products = {_dotted(key): replace(product, name=_dotted(key)) for key, product in table.products.items()}
    whole = {_dotted(key): ref for key, ref in table.whole.items()}
    return Lora(modules, products=products, added=whole, flat=True, others=table.others)


def _dotted(key: tuple[str, str]) -> str:
    component, name = key
    return f"{component}.{name}" if component else name


def _with_settings(adapter: Checkpoint, settings: LoraSettings) -> Lora:
    factors: dict[str, dict[str, TensorRef]] = {}
    others: dict[str, TensorRef] = {}
    problems: list[Problem] = []
    named: set[str] = set()
    for ref in adapter.tensors.values():
        found = _FACTOR.fullmatch(ref.name.removeprefix(_ROOT))
        target = others if found is None else factors.setdefault(found["module"], {})
        key = _plain(ref.name) if found is None else found["part"] + (found["ending"] or "")
        if key in target:
            message = f"it means the same as {target[key].name}"
            problems.append(_problem(ref, message, "save each adapter by itself, with peft's save_pretrained"))
        target[key] = ref
        named |= {found["adapter"] or ""} if found is not None else set()
    problems += [_problem(ref, _UNKNOWN, _MERGE) for name, ref in others.items() if not _whole(name, settings)]
    if len(named) > 1:
        message = f"it holds {len(named)} adapters: {', '.join(sorted(n or '(unnamed)' for n in named))}"
        fix = "save each by itself, with peft's save_pretrained (selected_adapters=[…]), and name its folder"
        problems.append(Problem(message, file=_file(adapter), fix=fix))
    modules: dict[str, Module] = {}
    products: dict[str, Product] = {}
    if settings.kind == "LORA":
        modules = _modules(factors, settings, problems)
    else:
        products = _products(factors, settings, problems)
    if not modules and not products and not others:
        problems.append(Problem("an adapter without tensors", file=_file(adapter), fix="get the file again"))
    if problems:
        raise CheckpointError(*problems)
    return Lora(modules, others, settings.transposed, products)


_DIFFERENT = "adapter_config.json and weights are of different adapters: get both again"
_UNKNOWN = "a tensor of the adapter that is not understood, and must not be left out"
_ONE_DIMENSION = (
    "of convolutions in one dimension PEFT's LoKr mixes outputs and kernel in an order of its own, "
    "which is not supported"
)
_MERGE = "merge the adapter with peft (merge_and_unload), save the model and name its folder"


def _modules(
    factors: Mapping[str, Mapping[str, TensorRef]], settings: LoraSettings, problems: list[Problem]
) -> dict[str, Module]:
    found = {}
    for name, parts in factors.items():
        try:
            found[name] = _module(name, parts, settings)
        except CheckpointError as error:
            problems += error.problems
    return found


def _products(
    factors: Mapping[str, Mapping[str, TensorRef]], settings: LoraSettings, problems: list[Problem]
) -> dict[str, Product]:
    """Of PEFT's LoHa and LoKr, whose scale is alpha / rank always."""

    def scaling(name: str, rank: int, ref: TensorRef) -> tuple[float, float]:
        if rank and rank != settings.rank_of(name):
            message = f"its rank is {rank}, the settings say {settings.rank_of(name)}: {ref.shape}"
            raise CheckpointError(_problem(ref, message, _DIFFERENT))
        return settings.scaling(name)

    found = {}
    for name, parts in factors.items():
        try:
            _check_length(name, parts, settings)
            _check_parts(parts, settings)
            kind: Literal["loha", "lokr"] = "loha" if settings.kind == "LOHA" else "lokr"
            found[name] = product_of(name, kind, parts, scaling)
        except CheckpointError as error:
            problems += error.problems
    return found


def _check_parts(parts: Mapping[str, TensorRef], settings: LoraSettings) -> None:
    surplus = [ref for part, ref in parts.items() if part not in KINDS[settings.kind.lower()]]
    if surplus:
        raise CheckpointError(*(_problem(ref, _UNKNOWN, _MERGE) for ref in surplus))
    whole = parts.get("lokr_w2")
    if whole is not None and len(whole.shape) == 3:
        raise CheckpointError(_problem(whole, _ONE_DIMENSION, _MERGE))


def _check_length(name: str, parts: Mapping[str, TensorRef], settings: LoraSettings) -> None:
    if len(name) > LONGEST_NAME and (settings.ranks or settings.alphas):
        first = next(iter(parts.values()))
        message = "a name too long to be matched with patterns"
        raise CheckpointError(_problem(first, message, "do not trust this adapter"))


def _module(name: str, parts: Mapping[str, TensorRef], settings: LoraSettings) -> Module:
    """The module that ``parts`` are all of.

    Raises:
        CheckpointError: when one is missing or one too many, or they do not fit.
    """
    first = next(iter(parts.values()))
    _check_length(name, parts, settings)
    pair = next((p for p in _PAIRS if p[0] in parts and p[1] in parts), None)
    if pair is None:
        raise CheckpointError(_problem(first, f"half of a pair: A or B of {name} is missing", "get the file again"))
    more = _MAGNITUDES if settings.dora else ("lora_B.bias",) if pair == _PAIRS[0] else ()
    surplus = [parts[key] for key in parts if key not in (*pair, *more)]
    if surplus:
        raise CheckpointError(*(_problem(ref, _UNKNOWN, _MERGE) for ref in surplus))
    magnitude = next((parts[key] for key in _MAGNITUDES if key in parts), None)
    if settings.dora and magnitude is None:
        raise CheckpointError(_problem(first, f"the magnitudes of {name}, of DoRA, are missing", "get the file again"))
    a, b, bias = parts[pair[0]], parts[pair[1]], parts.get("lora_B.bias")
    module = Module(name, a, b, pair == _PAIRS[1], *settings.scaling(name), bias, magnitude)
    problems = list(_misfits(module, settings.rank_of(name)))
    if problems:
        raise CheckpointError(*problems)
    return module


def _misfits(module: Module, rank: int) -> Iterator[Problem]:
    """What does not fit among the factors of a module and the rank that is set."""
    a, b, bias, magnitude = module.a, module.b, module.bias, module.magnitude
    fix = _DIFFERENT
    for ref in (a, b, bias, magnitude):
        if ref is not None and not ref.dtype.is_float:
            yield _problem(ref, f"dtype {ref.dtype.code} of an adapter is not supported", "save it in float32")
    if len(a.shape) < 2 or len(a.shape) != len(b.shape) or any(n != 1 for n in b.shape[2:]):
        yield _problem(a, f"A has shape {a.shape}, B has {b.shape}: they are no pair of factors", _MERGE)
    elif len(b.shape) > 2 and 0 < b.shape[1] < a.shape[0] and a.shape[0] % b.shape[1] == 0:
        message = f"A has shape {a.shape}, B has {b.shape}: a convolution in groups, which is not supported"
        yield _problem(a, message, _MERGE)
    elif a.shape[0] != b.shape[1] or (module.embedding and len(a.shape) != 2):
        yield _problem(a, f"A has shape {a.shape}, B has {b.shape}: their ranks differ", fix)
    elif a.shape[0] != rank:
        message = f"its rank is {a.shape[0]}, the settings say {rank}: A has shape {a.shape}, B has {b.shape}"
        yield _problem(a, message, fix)
    else:
        for ref in (bias, magnitude):
            if ref is not None and ref.elements != b.shape[0]:
                yield _problem(ref, f"it has shape {ref.shape}, B has {b.shape}", fix)


def _plain(name: str) -> str:
    """The base's name for a tensor that is stored whole.

    >>> _plain("base_model.model.score.modules_to_save.default.weight"), _plain("base_model.model.q.base_layer.bias")
    ('score.weight', 'q.bias')
    """
    return _SAVED.sub(".", name.removeprefix(_ROOT)).replace(".base_layer.", ".")


def _whole(name: str, settings: LoraSettings) -> bool:
    """Whether a whole tensor is expected under that name: of a module to save, a bias, or a resized vocabulary."""
    if any(f"{module}." in name for module in settings.saved):  # PEFT takes every module whose name ends so
        return True
    if settings.bias != "none" and name.rpartition(".")[2] == "bias":
        return True
    return is_head(name) or embedding_of([name]) is not None


def _problem(ref: TensorRef, message: str, fix: str) -> Problem:
    return Problem(message, tensor=ref.name, file=ref.file, fix=fix)


def _file(adapter: Checkpoint) -> str | None:
    return str(adapter.files[0]) if adapter.files else None
