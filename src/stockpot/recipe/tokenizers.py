"""Tokenizer sections → records; silent where the shape is wrong, which :mod:`.shapes` has reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from stockpot.recipe.findings import Findings
from stockpot.recipe.known import nearest
from stockpot.recipe.records import Reference, Token, Tokenizer
from stockpot.recipe.scalars import flag_of, integer_of
from stockpot.recipe.yaml_nodes import Entry, Mapping, Node, Scalar, Sequence

__all__ = ["read_tokenizer"]

_NAMED = ("union", "base")
_CLOSE = 0.75

Named = Callable[[Entry | None], Reference | None]


def read_tokenizer(node: Mapping, named: Named, findings: Findings) -> Tokenizer | None:
    """What a document says of the tokenizer of its result; None where it says nothing.

    Args:
        node: The document.
        named: The model that an entry names.
        findings: Gets what is missing or given twice.
    """
    source, section = node.get("tokenizer_source"), node.get("tokenizer")
    if source is not None and section is not None:
        findings.problem("tokenizer and tokenizer_source are both given", source.line, "keep one")
    _note_misspelt(source if section is None else _own_source(section), node, findings)
    if section is not None:
        return _section(section, named, findings)
    if source is None or _is_null(source):
        return None
    return Tokenizer(_source(source, named), {}, None, source.line)


def _section(section: Entry, named: Named, findings: Findings) -> Tokenizer | None:
    """The section; an empty one (``{}``) means the union, none (``tokenizer:``) nothing."""
    if not isinstance(section.value, Mapping):
        return None
    multiple = section.value.get("pad_to_multiple_of")
    rounded = None if multiple is None else integer_of(multiple.value)
    return Tokenizer(
        _source(section.value.get("source"), named),
        _tokens(section.value.get("tokens"), named, findings),
        None if rounded is None or rounded < 1 else rounded,  # which was reported
        section.line,
    )


def _source(entry: Entry | None, named: Named) -> Reference | str:
    if entry is None or _is_null(entry):
        return "union"
    if isinstance(entry.value, Scalar) and entry.value.text.strip() in _NAMED:
        return entry.value.text.strip()
    return named(entry) or "union"


def _own_source(section: Entry) -> Entry | None:
    return section.value.get("source") if isinstance(section.value, Mapping) else None


def _note_misspelt(entry: Entry | None, node: Mapping, findings: Findings) -> None:
    """Tell of a source that is nearly ``union`` or ``base``, and named nowhere else: it is taken for a model."""
    text = entry.value.text.strip() if entry is not None and isinstance(entry.value, Scalar) else ""
    near = nearest(text, _NAMED, _CLOSE)
    if entry is not None and near is not None and text not in _NAMED and list(_words(node)).count(text) == 1:
        findings.note(f"{text!r} is taken for a model, whose tokenizer is wanted", entry.line, f"did you mean {near}?")


def _words(node: Node) -> Iterator[str]:
    """All values in ``node``."""
    if isinstance(node, Scalar):
        yield node.text.strip()
    elif isinstance(node, Mapping | Sequence):
        for child in node.items if isinstance(node, Sequence) else (entry.value for entry in node.entries):
            yield from _words(child)


def _tokens(entry: Entry | None, named: Named, findings: Findings) -> dict[str, Token]:
    found: dict[str, Token] = {}
    for item in entry.value.entries if entry is not None and isinstance(entry.value, Mapping) else ():
        if not isinstance(item.value, Mapping):
            continue
        source, force = item.value.get("source"), item.value.get("force")
        forced = force is not None and flag_of(force.value) is True
        if source is None or _is_null(source):
            fix = "a model, {kind: model_token, model: M, token: T} or {kind: zero}"
            findings.problem(f"token {item.key!r} has no source", item.line, fix)
            continue
        made = _token(source, forced, named, findings)
        if made is not None:
            found[item.key] = made
    return found


def _token(source: Entry, force: bool, named: Named, findings: Findings) -> Token | None:
    node = source.value
    kind = node.get("kind") if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping) or kind is None:
        model = named(source)
        return None if model is None else Token(model, None, force, source.line)
    if isinstance(kind.value, Scalar) and kind.value.text == "zero":
        return Token(None, None, force, source.line)
    if not isinstance(kind.value, Scalar) or kind.value.text != "model_token":
        return None
    model, token, number = named(node.get("model")), node.get("token"), node.get("token_id")
    if model is None or (token is None) == (number is None):
        fix = "kind: model_token has model, and one of token and token_id"
        findings.problem("the source of a token names no token of a model", source.line, fix)
        return None
    if number is not None:
        return Token(model, integer_of(number.value), force, source.line)
    text = token.value.text if token is not None and isinstance(token.value, Scalar) else None
    return Token(model, text, force, source.line)


def _is_null(entry: Entry) -> bool:
    return isinstance(entry.value, Scalar) and entry.value.tag == "null"
