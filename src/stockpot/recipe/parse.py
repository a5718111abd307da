"""Reads recipes: YAML text → :class:`~stockpot.recipe.model.Recipe`; no model is opened."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from stockpot.errors import Problem, RecipeError
from stockpot.recipe.findings import Findings, in_order
from stockpot.recipe.holes import not_for_merging
from stockpot.recipe.keys import PLACES
from stockpot.recipe.library import Library
from stockpot.recipe.lower import Lowering
from stockpot.recipe.method_files import MethodFiles
from stockpot.recipe.model import Recipe
from stockpot.recipe.read import read_merge
from stockpot.recipe.records import Merge
from stockpot.recipe.resolve import resolved
from stockpot.recipe.scope import Scope
from stockpot.recipe.shapes import check_section
from stockpot.recipe.yaml_nodes import MAX_CHARACTERS, Mapping, Node, Scalar, compose

__all__ = ["is_mixture", "load_recipe", "parse_recipe", "recipe_text"]

_UNNAMED = "<recipe>"
_EXPERT_KEYS = ("experts", "gate_mode", "experts_per_token", "shared_experts")
MAX_BYTES = 4 * MAX_CHARACTERS
"""No more is read of a file; what has more bytes has more characters than a recipe may have."""

_EXAMPLE = "a recipe has at least merge_method: linear and models: [{model: A}, {model: B}]"


def load_recipe(
    path: str | os.PathLike[str],
    *,
    lenient: bool = False,
    seed: int | None = None,
    allow_code: bool = False,
    origin: str | None = None,
) -> Recipe:
    """The recipe in the file ``path``; relative models are relative to its folder.

    Args:
        path: The file, UTF-8.
        lenient: Unknown keys and parameters become notes.
        seed: In place of the recipe's own.
        allow_code: Whether its method file may run.
        origin: The base of methods that work on differences, in merges that name none.

    Raises:
        RecipeError: when the file cannot be read, or with everything that is wrong in it.
        UnsupportedError: when it needs features that this version lacks, each by name.
    """
    file = Path(path)
    text, folder, name = recipe_text(file), str(file.parent), str(file)
    options = {"lenient": lenient, "allow_code": allow_code}
    return parse_recipe(text, folder=folder, name=name, seed=seed, origin=origin, **options)


def recipe_text(file: Path) -> str:
    """The text of a recipe's file.

    Raises:
        RecipeError: when it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            return _decoded(opened.read(MAX_BYTES + 1))
    except OSError as error:
        raise RecipeError(Problem(f"cannot read the recipe: {error.strerror}", file=str(file))) from None
    except ValueError:  # also of a path that the file system cannot be asked for
        fix = "save it as UTF-8 text"
        raise RecipeError(Problem("the recipe is not a UTF-8 text file", file=str(file), fix=fix)) from None


def _decoded(data: bytes) -> str:
    """The text; where it was cut off, at a whole character."""
    return data.decode("utf-8-sig", "ignore" if len(data) > MAX_BYTES else "strict")


def parse_recipe(
    text: str,
    *,
    folder: str | None = None,
    name: str = _UNNAMED,
    lenient: bool = False,
    seed: int | None = None,
    allow_code: bool = False,
    origin: str | None = None,
) -> Recipe:
    """The recipe in ``text``: the document without a name, else the last one.

    Args:
        text: One or several YAML documents.
        folder: Folder that relative models are relative to.
        name: How errors call the recipe.
        lenient: Unknown keys and parameters become notes.
        seed: In place of the recipe's own.
        allow_code: Whether its method file may run.
        origin: The base of methods that work on differences, in merges that name none.

    Raises:
        RecipeError: with everything that is wrong in it.
        UnsupportedError: when it needs features that this version lacks, each by name.

    >>> recipe = parse_recipe("{merge_method: linear, models: [{model: a}], dtype: bf16}")
    >>> recipe.dtype, recipe.donor.reference
    ('bfloat16', 'a')
    """
    findings = Findings(None if name == _UNNAMED else name, lenient)
    try:
        return _parse(
            text, Scope(findings, folder=folder, origin=origin), seed, MethodFiles(folder, allow_code, findings)
        )
    except RecursionError:
        raise RecipeError(Problem("merges are nested too deeply", file=findings.file)) from None


def _parse(text: str, scope: Scope, seed: int | None, files: MethodFiles) -> Recipe:
    findings, folder = scope.findings, scope.folder
    library = _library(text, scope, files)
    if library is None:
        findings.raise_if_any()
        raise RecipeError(Problem("the recipe is empty", file=findings.file, fix=_EXAMPLE))
    lowering = Lowering(library, findings, folder)
    expression = lowering.result()
    key = _seed(lowering.seeds, seed, findings)
    findings.raise_if_any()
    return Recipe(
        expression=expression,
        dtype=library.result.dtype,
        quantize=_quantize(library, findings),
        donor=lowering.donor(),
        chat_template=library.result.chat_template,
        seed=key,
        compat=bool(library.result.compat),
        mismatched=library.result.extra.get("mismatched") == "base",
        text=text,
        notes=tuple(in_order(findings.notes)),
        unsupported=tuple(in_order(findings.unsupported)),
        resolved=resolved(library, key),
    )


def _quantize(library: Library, findings: Findings) -> str | None:
    """How the result is quantised; other documents are not written, so that it means nothing there."""
    for merge in library.merges:
        if merge is not library.result and "quantize" in merge.extra:
            fix = "move it to the document of the result"
            findings.problem("quantize stands in a document that is not the result", merge.line, fix)
    findings.raise_if_any()
    found = library.result.extra.get("quantize")
    return None if found is None else str(found)


def _library(text: str, scope: Scope, files: MethodFiles) -> Library | None:
    """All documents, checked and read; None when none of them is a merge."""
    findings = scope.findings
    try:
        documents, problems = compose(text)
    except RecipeError as error:
        findings.adopt(error.problems)
        return None
    open_values = tuple(not_for_merging(documents))
    for problem in (*problems, *open_values):
        findings.problem(problem.message, problem.line, problem.fix)
    if open_values:
        return None
    merges = [merge for node in documents if (merge := _document(node, scope, files)) is not None]
    return Library.of(merges, findings) if merges else None


def _document(node: Node, scope: Scope, files: MethodFiles) -> Merge | None:
    findings = scope.findings
    if isinstance(node, Scalar) and node.tag == "null":
        return None
    if not isinstance(node, Mapping):
        findings.problem("a recipe is a mapping (key: value)", node.line, _EXAMPLE)
        return None
    if is_mixture(node):
        check_section(node, PLACES["experts"], scope)
        fix = "stockpot moe RECIPE OUT makes it"
        findings.not_yet("mixtures of experts (experts:) are no merges", node.line, fix)
        return None
    known, file = files.of(node)
    scope = replace(scope, known=known)
    check_section(node, PLACES["recipe"], scope)
    return read_merge(node, scope, file)


def is_mixture(node: Mapping) -> bool:
    """Whether a document is about a mixture of experts."""
    keys = {entry.key for entry in node.entries}
    return "merge_method" not in keys and bool(keys & set(_EXPERT_KEYS))


def _seed(written: list[tuple[int, int]], given: int | None, findings: Findings) -> int:
    """The one seed of the recipe."""
    for seed, line in written:
        if seed != written[0][0]:
            message = f"seed {seed} here, but {written[0][0]} on line {written[0][1]}"
            findings.problem(message, line, "a recipe has one seed, which holds for all its merges")
    if given is not None and not 0 <= given < 2**64:
        findings.problem(f"seed {given} is not in [0, 2^64)", None)
    if given is not None:
        return given
    return written[0][0] if written else 0
