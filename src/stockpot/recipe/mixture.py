"""Reads recipes of mixtures of experts, as mergekit-moe has them; no model is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.architecture.mixtures import ALIASES, LAYOUTS
from stockpot.checkpoint.dtypes import dtype_named
from stockpot.errors import Problem, RecipeError
from stockpot.expression import Expression, Leaf, leaves
from stockpot.recipe.findings import Findings, in_order
from stockpot.recipe.keys import PLACES
from stockpot.recipe.known import nearest
from stockpot.recipe.library import Library
from stockpot.recipe.lower import Lowering
from stockpot.recipe.method_files import MethodFiles
from stockpot.recipe.parse import is_mixture, recipe_text
from stockpot.recipe.read import read_merge, read_model
from stockpot.recipe.records import Merge
from stockpot.recipe.scalars import integer_of, number_of, plain
from stockpot.recipe.scope import Scope
from stockpot.recipe.shapes import check_section
from stockpot.recipe.yaml_nodes import Mapping, Node, Scalar, Sequence, compose

__all__ = ["ExpertAsked", "MixtureRecipe", "describes_mixture", "load_mixture", "parse_mixture"]

FROM_PROMPTS = ("hidden", "hidden_avg", "cheap_embed", "trained")
"""Gate modes that need prompts."""

_EXAMPLE = "base_model: A, and experts: [{source_model: B, positive_prompts: […]}, …]"


@dataclass(frozen=True)
class ExpertAsked:
    """An expert as it is asked for.

    Args:
        of: The model that gives its MLPs.
        name: As it was written.
        positive, negative: Prompts that should, and should not, go to it.
        noise, residual: Noise on its weights, and factor of its output.
        line: Where it stands.
    """

    of: Expression
    name: str
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    noise: float = 0.0
    residual: float = 1.0
    line: int | None = None


@dataclass(frozen=True)
class MixtureRecipe:
    """A parsed recipe of a mixture.

    Args:
        base: The model that gives everything but the experts.
        experts: In order.
        shared: The expert of every token, if one is wanted.
        gate_mode: One of :data:`~stockpot.recipe.keys.GATE_MODES`; ``hidden_avg`` is ``hidden`` with ``pooling: mean``.
        pooling: ``last`` or ``mean``.
        states: ``layer``, ``router`` or ``best``.
        per_token: To how many experts a token goes.
        architecture: Name of a layout; None leaves it to the base.
        dtype: Of the result; None is that of the base.
        donor: Leaf that gives config, tokenizer and other small files.
        seed: Key of random numbers.
        text, notes, resolved: As of other recipes.
        line: Where it begins.
    """

    base: Expression
    experts: tuple[ExpertAsked, ...]
    shared: ExpertAsked | None
    gate_mode: str
    pooling: str
    states: str
    per_token: int
    architecture: str | None
    dtype: str | None
    donor: Leaf
    seed: int
    text: str
    notes: tuple[Problem, ...]
    resolved: MappingType[str, Any]
    line: int | None

    @property
    def needs_prompts(self) -> bool:
        """Whether the router is made from prompts."""
        return self.gate_mode in FROM_PROMPTS


def describes_mixture(path: Path) -> bool:
    """Whether a document of the recipe is about a mixture of experts; False where it cannot be read."""
    try:
        documents, _ = compose(recipe_text(path))
    except (RecipeError, RecursionError):
        return False
    return any(isinstance(node, Mapping) and is_mixture(node) for node in documents)


def load_mixture(
    path: str | os.PathLike[str], *, lenient: bool = False, seed: int | None = None, allow_code: bool = False
) -> MixtureRecipe:
    """The mixture in the file ``path``; see :func:`parse_mixture`."""
    file = Path(path)
    text, folder, name = recipe_text(file), str(file.parent), str(file)
    return parse_mixture(text, folder=folder, name=name, lenient=lenient, seed=seed, allow_code=allow_code)


def parse_mixture(
    text: str,
    *,
    folder: str | None = None,
    name: str | None = None,
    lenient: bool = False,
    seed: int | None = None,
    allow_code: bool = False,
) -> MixtureRecipe:
    """The mixture that ``text`` describes; other documents of it are merges that it may use by name.

    Args:
        text: One or several YAML documents, one of which has ``experts``.
        folder, name: Where relative models are, and how errors call the recipe.
        lenient: Unknown keys become notes.
        seed: In place of the recipe's own.
        allow_code: Whether method files of its merges may run.

    Raises:
        RecipeError: with everything that is wrong in it.
        UnsupportedError: when it needs features that this version lacks, each by name.

    >>> recipe = parse_mixture("{base_model: a, gate_mode: random, experts: [{source_model: a}, {source_model: b}]}")
    >>> recipe.per_token, [expert.name for expert in recipe.experts]
    (2, ['a', 'b'])
    """
    findings = Findings(name, lenient)
    try:
        documents, problems = compose(text)
        for problem in problems:
            findings.problem(problem.message, problem.line, problem.fix)
        return _read(text, documents, folder, findings, seed, MethodFiles(folder, allow_code, findings))
    except RecursionError:
        raise RecipeError(Problem("merges are nested too deeply", file=name)) from None


def _read(
    text: str,
    documents: tuple[Node, ...] | list[Node],
    folder: str | None,
    findings: Findings,
    seed: int | None,
    files: MethodFiles,
) -> MixtureRecipe:
    nodes = [node for node in documents if isinstance(node, Mapping)]
    mixtures = [node for node in nodes if is_mixture(node)]
    if len(mixtures) != 1:
        line = mixtures[1].line if mixtures else nodes[0].line if nodes else None
        fix = _EXAMPLE if not mixtures else "keep one of them in a file"
        told = f"{len(mixtures)} mixtures of experts, not one" if mixtures else "no mixture of experts"
        findings.problem(f"the recipe describes {told}", line, fix)
        findings.raise_if_any()
    (node,) = mixtures
    scope = Scope(findings, folder=folder)
    check_section(node, PLACES["experts"], scope)
    lowering = Lowering(_library(nodes, folder, findings, files), findings, folder)
    found = _mixture(node, text, scope, lowering, seed)
    findings.raise_if_any()
    assert found is not None
    return found


def _library(nodes: list[Mapping], folder: str | None, findings: Findings, files: MethodFiles) -> Library:
    """The documents beside the mixture."""
    merges: list[Merge] = []
    for node in nodes:
        if is_mixture(node):
            continue
        known, file = files.of(node)
        scope = Scope(findings, known, folder=folder)
        check_section(node, PLACES["recipe"], scope)
        merge = read_merge(node, scope, file)
        if not merge.names:
            findings.problem("a merge beside the mixture has no name", node.line, "name: NAME, to use it as a model")
        merges.append(merge)
    nothing = read_merge(Mapping((), 0), Scope(Findings()))
    return Library(tuple(merges), {name: merge for merge in merges for name in merge.names}, nothing)


def _mixture(node: Mapping, text: str, scope: Scope, lowering: Lowering, seed: int | None) -> MixtureRecipe | None:
    """The record; None where what is missing has been reported."""
    findings = scope.findings
    base = read_model(node, "base_model", scope)
    mode = _word(node, "gate_mode") or "hidden"
    experts = _experts(node, "experts", scope, lowering)
    shared = _experts(node, "shared_experts", scope, lowering)
    if len(shared) > 1:
        findings.problem(f"{len(shared)} shared experts", shared[1].line, "one expert can be shared by all tokens")
    if mode in FROM_PROMPTS:
        _report_without_prompts(node, mode, findings)
    pooling = _pooling(node, mode, findings)
    per_token = _per_token(node, len(experts), findings)
    architecture = _architecture(node, findings)
    if base is None or not experts or findings.problems:
        return None
    whole = lowering.model(base)
    own = leaves(whole)
    return MixtureRecipe(
        base=whole,
        experts=experts,
        shared=shared[0] if shared else None,
        gate_mode="hidden" if mode == "hidden_avg" else mode,
        pooling=pooling,
        states=_word(node, "states") or "layer",
        per_token=per_token,
        architecture=architecture,
        dtype=_dtype(node),
        donor=next(leaf for leaf in own if not leaf.adapter),
        seed=_seed(node) if seed is None else seed,
        text=text,
        notes=tuple(in_order(findings.notes)),
        resolved={"documents": [plain(node)]},
        line=node.line,
    )


def _report_without_prompts(node: Mapping, mode: str, findings: Findings) -> None:
    entry = node.get("experts")
    for item in entry.value.items if entry is not None and isinstance(entry.value, Sequence) else ():
        prompts = item.get("positive_prompts") if isinstance(item, Mapping) else None
        if prompts is None or (isinstance(prompts.value, Sequence) and not prompts.value.items):
            fix = "positive_prompts: [texts that should go to it], or gate_mode: random"
            findings.problem(f"gate_mode: {mode} needs prompts of every expert", item.line, fix)


def _experts(node: Mapping, key: str, scope: Scope, lowering: Lowering) -> tuple[ExpertAsked, ...]:
    entry = node.get(key)
    items = entry.value.items if entry is not None and isinstance(entry.value, Sequence) else ()
    return tuple(
        found for item in items if isinstance(item, Mapping) and (found := _expert(item, scope, lowering)) is not None
    )


def _expert(item: Mapping, scope: Scope, lowering: Lowering) -> ExpertAsked | None:
    model = read_model(item, "source_model", scope)
    if model is None:
        return None
    noise, residual = _number(item, "noise_scale", 0.0), _number(item, "residual_scale", 1.0)
    entry = item.get("noise_scale")
    if noise < 0 and entry is not None:
        scope.findings.problem(f"noise_scale {noise:g} is negative", entry.line, "0 or more: a standard deviation")
    name = "a merge" if isinstance(model, Merge) else str(model)
    positive, negative = _texts(item, "positive_prompts"), _texts(item, "negative_prompts")
    return ExpertAsked(lowering.model(model), name, positive, negative, noise, residual, item.line)


def _pooling(node: Mapping, mode: str, findings: Findings) -> str:
    entry, word = node.get("pooling"), _word(node, "pooling")
    if mode == "hidden_avg":
        if word == "last" and entry is not None:
            findings.problem("gate_mode: hidden_avg is the mean, not pooling: last", entry.line, "gate_mode: hidden")
        return "mean"
    for key in ("pooling", "states"):
        other = node.get(key)
        if other is not None and mode != "hidden":
            findings.problem(f"{key} belongs to gate_mode: hidden, not to {mode}", other.line, f"leave {key} out")
    return word or "last"


def _per_token(node: Mapping, experts: int, findings: Findings) -> int:
    entry = node.get("experts_per_token")
    wanted = None if entry is None else integer_of(entry.value)
    if entry is not None and wanted is not None and experts and wanted > experts:
        findings.problem(f"experts_per_token {wanted}, but {experts} experts", entry.line, f"1 to {experts}")
    return min(2, experts) if wanted is None else wanted


def _architecture(node: Mapping, findings: Findings) -> str | None:
    entry, word = node.get("architecture"), _word(node, "architecture")
    if entry is None or word is None:
        return None
    name = ALIASES.get(word.lower(), word.lower())
    if name not in LAYOUTS:
        near = nearest(word.lower(), [*LAYOUTS, *ALIASES])
        hint = f"did you mean {near}? " if near else ""
        findings.problem(f"unknown architecture {word!r}", entry.line, f"{hint}known: {', '.join(LAYOUTS)}")
    return name


def _seed(node: Mapping) -> int:
    entry = node.get("seed")
    return (integer_of(entry.value) or 0) if entry is not None else 0


def _dtype(node: Mapping) -> str | None:
    word = _word(node, "dtype")
    return None if word is None else dtype_named(word).torch_name


def _number(node: Mapping, key: str, default: float) -> float:
    entry = node.get(key)
    found = None if entry is None else number_of(entry.value)
    return default if found is None else float(found)


def _word(node: Mapping, key: str) -> str | None:
    entry = node.get(key)
    scalar = entry.value if entry is not None and isinstance(entry.value, Scalar) else None
    return None if scalar is None or scalar.tag == "null" else scalar.text


def _texts(node: Mapping, key: str) -> tuple[str, ...]:
    entry = node.get(key)
    items = entry.value.items if entry is not None and isinstance(entry.value, Sequence) else ()
    return tuple(item.text for item in items if isinstance(item, Scalar))
