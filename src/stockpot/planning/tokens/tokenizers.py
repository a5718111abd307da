"""The tokenizer beside a result: its files, what its config says of tokens, and what the plan tells of rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stockpot.arrangements import Transplant
from stockpot.checkpoint.jsons import read_json
from stockpot.checkpoint.model import Checkpoint
from stockpot.checkpoint.places import member, stands
from stockpot.errors import StockpotError
from stockpot.expression import Apply, Expression, Leaf, Linear
from stockpot.planning.lowering import build_view
from stockpot.planning.tokens.rowmaps import counts_of, ranges_of
from stockpot.planning.tokens.transplant import TransplantView
from stockpot.planning.tokens.vocabulary import Retokenizing, key_of, models_of, vocabulary_of
from stockpot.planning.views import Context
from stockpot.recipe.model import Recipe
from stockpot.tokens import Retokenized
from stockpot.vocabulary.model import Vocabulary
from stockpot.vocabulary.read import TOKENIZER_FILES, bytes_of, document_files, has_vocabulary, hash_of
from stockpot.vocabulary.templates import TEMPLATES, commonest, foreign_tokens

__all__ = ["REPORT_NAME", "Tokenizer", "differing", "tokenizer_beside", "transplanted", "vocabulary_bytes"]

REPORT_NAME = "stockpot-tokens.json"
"""Where every row of embedding and head comes from, beside the result."""

_PARSED = 12
"""Bytes in memory for each byte of a tokenizer.json that is read (measured)."""

_MADE = 4
"""And for each byte of one that is written: its text, and what it was made of."""

_MATCHED = 64
"""And for each row of each model, while rows are matched."""

_SETTINGS, _GENERATION, _TEMPLATE = "tokenizer_config.json", "generation_config.json", "chat_template.jinja"


@dataclass(frozen=True)
class Tokenizer:
    """What goes with a result whose vocabulary was decided.

    Args:
        entries: Dotted path → value, for config.json.
        files: Name → content, in place of the donor's; None for one that is left out.
        report: What the plan tells of tokens and rows.
    """

    entries: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes | Path | None] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


def tokenizer_beside(recipe: Recipe, context: Context, donor: Checkpoint | None) -> Tokenizer:
    """The tokenizer of ``recipe``'s result; problems and notes go to ``context``.

    Args:
        donor: The model whose config and files the result gets.
    """
    node = _deciding(recipe.expression)
    scope = context.plain.scopes.get(id(node)) if node is not None else None
    files: dict[str, bytes | Path | None] = {}
    entries: dict[str, Any] = {}
    report: dict[str, Any] = {}
    if scope is not None:
        report = _report(scope)
        entries, files = _beside(scope, recipe, donor, context)
    if recipe.chat_template is not None:
        files |= _template(recipe, scope, context, donor, files)
    return Tokenizer(entries, files, report)


def transplanted(view: TransplantView, donor: Checkpoint, context: Context) -> Tokenizer:
    """The tokenizer of a model that got another's: the files of that one, and its numbers of special tokens.

    Args:
        donor: The model itself, whose config and other files the result gets.
    """
    matched = view.matched
    if matched is None:
        return Tokenizer()
    by_role = {f"{role}_id": matched.new.ids.get(token) for role, token in matched.new.roles.items()}
    other = by_role | _settings(view.files, view.giver.config)
    entries = dict(_sizes(donor.config, matched.known, matched.rows))
    entries |= _special(donor.config, matched.old, matched.new, other, context)
    files = {**dict.fromkeys(TOKENIZER_FILES), **view.files}
    return Tokenizer(entries, files | _generation(donor, matched.old, matched.new, other, context))


def vocabulary_bytes(context: Context, tokenizer: Tokenizer) -> int:
    """What planning takes for the vocabularies that it read and made, which the system may not get back."""
    made = sum(len(content) for content in tokenizer.files.values() if isinstance(content, bytes))
    matched: int = sum(scope.matching.own.size for scope in context.plain.scopes.values())
    return _PARSED * sum(context.plain.vocabularies_read) + _MADE * made + _MATCHED * matched


def _deciding(node: Expression) -> Retokenized | None:
    """The node that decided the vocabulary of what ``node`` has its embedding from."""
    while not isinstance(node, Leaf | Retokenized):
        if isinstance(node, Linear):
            node = node.largest.of
        else:
            node = node.inputs[0] if isinstance(node, Apply) else node.children[0]
    return node if isinstance(node, Retokenized) else None


def _report(scope: Retokenizing) -> dict[str, Any]:
    labels = [m.label for m in scope.members]
    merged = scope.members[: scope.merged]
    have = scope.matching.own[:, scope.matching.tokens] >= 0
    alone = have & (have.sum(axis=0) == 1)
    return {
        "tokenizer": "union" if scope.giver is None else labels[scope.giver],
        "tokens": len(scope.target.tokens),
        "rows": scope.rows,
        "in_all_models": int(have.all(axis=0).sum()),
        "in_one_model": {labels[i]: int(alone[i].sum()) for i in range(len(merged))},
        "models": {
            m.label: {"tokens": len(m.vocabulary.tokens), "rows": m.count, **counts_of(scope.matching, labels, i)}
            for i, m in enumerate(merged)
        },
    }


def _beside(
    scope: Retokenizing, recipe: Recipe, donor: Checkpoint | None, context: Context
) -> tuple[dict[str, Any], dict[str, bytes | Path | None]]:
    """Config entries and files."""
    number = _number(recipe.donor, scope)
    giver = 0 if scope.giver is None else scope.giver
    files: dict[str, bytes | Path | None] = {}
    if number != giver or scope.giver is None:
        files |= dict.fromkeys(TOKENIZER_FILES)
        files |= scope.files
    if any(rows is not None for rows in scope.maps):
        files[REPORT_NAME] = _ranges(scope)
    if donor is None:
        return {}, files
    rows = scope.members[number].count if number is not None else None
    entries = dict(_sizes(donor.config, rows, scope.rows))
    if number is not None and number != giver:
        own, other = scope.members[number].vocabulary, scope.members[giver].view.config
        entries |= _special(donor.config, own, scope.target, other, context)
        files |= _generation(donor, own, scope.target, _settings(scope.files, other), context)
    return entries, files


def _number(donor: Leaf | None, scope: Retokenizing) -> int | None:
    """The number of the model that gives the config, an adapter on it left out of account."""
    if donor is None:
        return None
    found = (
        n for key, n in scope.numbers.items() if key == donor.key or (isinstance(key, tuple) and key[0] == donor.key)
    )
    return next(found, None)


def _ranges(scope: Retokenizing) -> bytes:
    """Every row of every model, as runs of rows."""
    labels = [m.label for m in scope.members]
    rows = {labels[i]: ranges_of(scope.matching, labels, i) for i in range(scope.merged)}
    text = {
        "about": "rows of embedding and head, for each model that was merged: [first, last + 1, whose, its first row]",
        "tokenizer": "union" if scope.giver is None else labels[scope.giver],
        "rows": rows,
    }
    return (json.dumps(text, ensure_ascii=True) + "\n").encode()


def _sizes(config: Mapping[str, Any], before: int | None, after: int) -> Iterator[tuple[str, int]]:
    """``vocab_size`` wherever the config says it of the embedding of tokens."""
    found = list(_paths(config, ("vocab_size",)))
    told = [(path, value) for path, value in found if value == before] or found[:1]
    yield from ((path, after) for path, value in told if value != after)


def _paths(config: Mapping[str, Any], keys: Sequence[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of each of ``keys``, in ``config`` and the configs nested in it."""
    for key, value in config.items():
        if key in keys:
            yield prefix + key, value
        elif isinstance(value, dict) and key.endswith("_config") and "." not in key:
            yield from _paths(value, keys, f"{prefix}{key}.")


def _special(
    config: Mapping[str, Any], own: Vocabulary, target: Vocabulary, other: Mapping[str, Any], context: Context
) -> dict[str, Any]:
    """Numbers of special tokens: as the tokenizer's own model has them, else those of the same tokens."""
    keys = sorted({path for path, _ in _paths(config, _SPECIAL)})
    told = dict(_paths(other, _SPECIAL))
    by_name = {path.rpartition(".")[2]: value for path, value in told.items()}
    entries: dict[str, Any] = {}
    values = dict(_paths(config, _SPECIAL))
    for path in keys:
        name = path.rpartition(".")[2]
        new = told.get(path, by_name.get(name)) if name in by_name else _moved(values[path], own, target)
        if new is None and values[path] is not None:
            message = f"{name} {values[path]} of config.json has no place in the result's vocabulary, and is left out"
            context.note(message, fix="check config.json before loading the result")
        if new != values[path]:
            entries[path] = new
    return entries


_SPECIAL = (
    "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id",
    "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "image_token_id", "image_token_index",
)  # fmt: skip


def _moved(value: Any, own: Vocabulary, target: Vocabulary) -> Any:
    """The number (or numbers) of the same token in the result."""
    if isinstance(value, list):
        moved = [_moved(item, own, target) for item in value]
        return [item for item in moved if item is not None] or None
    token = own.tokens.get(value) if type(value) is int else None
    return None if token is None else target.ids.get(token)


def _settings(files: Mapping[str, bytes | Path | None], config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of special tokens where the files of a tokenizer lie: of the config, and of generation's."""
    settings = files.get(_SETTINGS)
    found = dict(config)
    if isinstance(settings, Path) and stands(settings.parent / _GENERATION):
        found |= {k: v for k, v in read_json(member(settings.parent, _GENERATION)).items() if k in _SPECIAL}
    return found


def _generation(
    donor: Checkpoint, own: Vocabulary, target: Vocabulary, other: Mapping[str, Any], context: Context
) -> dict[str, bytes]:
    """The donor's generation config with the numbers of the result's special tokens.

    Args:
        own: The donor's vocabulary.
        target: The result's.
        other: What the model says of special tokens whose tokenizer it is.
    """
    if donor.folder is None or not stands(donor.folder / _GENERATION):
        return {}
    try:
        config = read_json(member(donor.folder, _GENERATION))
    except StockpotError as error:
        context.problems.extend(error.problems)
        return {}
    changed = _special(config, own, target, other, context)
    kept = {key: changed.get(key, value) for key, value in config.items()}
    return {_GENERATION: (json.dumps({k: v for k, v in kept.items() if v is not None}, indent=2) + "\n").encode()}


def _template(
    recipe: Recipe,
    scope: Retokenizing | None,
    context: Context,
    donor: Checkpoint | None,
    files: Mapping[str, bytes | Path | None],
) -> dict[str, bytes | Path | None]:
    """The chat template that was asked for: in the file that transformers reads, and where it read it before."""
    asked = str(recipe.chat_template)
    known = _vocabularies(recipe.expression, context, needed=asked == "auto")
    template = commonest([v.chat_template for v in known]) if asked == "auto" else TEMPLATES.get(asked, asked)
    if template is None:
        context.note("chat_template: auto, but no model has a chat template")
        return {}
    target = scope.target if scope is not None else known[0] if known else None
    foreign = foreign_tokens(template, target) if target is not None else ()
    if foreign:
        message = f"the chat template uses {', '.join(foreign[:5])}, which the result's tokenizer has not as tokens"
        context.note(message, fix="add them to a model, or use tokenizer_source: union with a model that has them")
    made: dict[str, bytes | Path | None] = {_TEMPLATE: template.encode("utf-8", "replace"), "chat_template.json": None}
    settings = files.get(_SETTINGS)
    if _SETTINGS not in files and donor is not None and donor.folder is not None:
        settings = donor.folder / _SETTINGS if stands(donor.folder / _SETTINGS) else None
    try:
        told = json.loads(settings) if isinstance(settings, bytes) else read_json(settings) if settings else None
    except StockpotError as error:
        context.problems.extend(error.problems)
        return {}
    if told is not None:
        made[_SETTINGS] = (json.dumps({**told, "chat_template": template}, indent=2) + "\n").encode()
    return made


def _vocabularies(expression: Expression, context: Context, *, needed: bool) -> list[Vocabulary]:
    """Those of all models that have one; where the result depends on them (``needed``), all must be readable."""
    found: dict[Any, Vocabulary] = {}
    for model in _stored(expression):
        try:
            if has_vocabulary(_folder(model, context)):
                found.setdefault(key_of(model), vocabulary_of(model, context.plain)[0])
        except StockpotError as error:
            if needed:
                context.problems.extend(p for p in error.problems if p not in context.problems)
    return list(found.values())


def _stored(node: Expression) -> Iterator[Expression]:
    """Every model, also below what gives others a vocabulary."""
    for model in models_of(node):
        if isinstance(model, Retokenized | Transplant):
            yield from _stored(model.of)
        else:
            yield model


def differing(expression: Expression, context: Context, room: int) -> bool:
    """Tell of models whose embeddings have the same rows for other tokens, where no one decided the vocabulary.

    ``room`` is how many bytes of memory that may take; where it would take more, that is told instead. Returned is
    whether any tokenizer was read.
    """
    models = list(models_of(expression))
    folders = [_folder(model, context) for model in models]
    stored = [f for model, f in zip(models, folders, strict=True) if not isinstance(model, Retokenized)]
    if len(models) < 2 or not all(map(has_vocabulary, stored)):
        return False
    known = {hash_of(folder, document_files(folder)): folder for folder in stored}
    if len(stored) == len(models) and len(known) == 1:
        return False
    if _PARSED * sum(bytes_of(folder, document_files(folder)) for folder in known.values()) > room:
        message = "the models have different tokenizers, which were not compared: that takes more memory than is left"
        context.note(message, fix="give more --memory; tokenizer_source: base or union where tokens differ")
        return False
    for model in models:
        build_view(model, context.plain)
    try:
        first, *others = [vocabulary_of(model, context.plain)[0] for model in models]
    except StockpotError as error:
        if error.problems:
            context.note(f"the tokenizers were not compared: {error.problems[0].message}")
        return True
    for other in others:
        _tell_apart(first, other, context)
    return True


def _tell_apart(first: Vocabulary, other: Vocabulary, context: Context) -> None:
    one, two = first.tokens, other.tokens
    apart = [number for number in sorted(one.keys() | two.keys()) if one.get(number) != two.get(number)]
    if not apart:
        return
    number = apart[0]
    message = (
        f"{len(apart)} rows stand for other tokens in {other.label} than in {first.label}: row {number} for "
        f"{two.get(number)!a} in the one, for {one.get(number)!a} in the other"
    )
    context.note(message, fix="add tokenizer_source: union (or base) to match rows by their tokens")


def _folder(model: Expression, context: Context) -> Path | None:
    while not isinstance(model, Leaf):
        if isinstance(model, Retokenized):
            return None
        model = model.tokenizer if isinstance(model, Transplant) else model.children[0]
    return context.checkpoints[model.key].folder
