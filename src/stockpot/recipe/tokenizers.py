"""Tokenizer sections and chat templates: what happens anyway, and what is still to come."""

from __future__ import annotations

from stockpot.recipe.findings import Findings
from stockpot.recipe.records import Model, Reference, normalized
from stockpot.recipe.scalars import describe
from stockpot.recipe.yaml_nodes import Entry, Mapping, Scalar

__all__ = ["report_tokenizer"]

_KEEP = (
    "if all models share one vocabulary, leave it out: the tokenizer of the base, else of the first model, is copied"
)


def report_tokenizer(node: Mapping, donor: Model | None, findings: Findings) -> None:
    """Name what this version lacks; the rest of the recipe is checked all the same.

    ``base``, and ``donor`` by name, mean what happens anyway: the tokenizer is copied from the donor
    (the base, else the first model).
    """
    source, section, template = (node.get(key) for key in ("tokenizer_source", "tokenizer", "chat_template"))
    if source is not None and section is not None:
        findings.problem("tokenizer and tokenizer_source are both given", source.line, "keep one")
    if source is not None and not _is_donor(source, donor):
        _not_yet(f"tokenizer_source: {_text(source)}", source.line, findings)
    if section is not None and isinstance(section.value, Mapping):
        _report_section(section, section.value, donor, findings)
    if template is not None:
        fix = "leave it out to keep the template that comes with the tokenizer"
        findings.not_yet("chat_template is not yet supported", template.line, fix, blocks=False)


def _report_section(section: Entry, node: Mapping, donor: Model | None, findings: Findings) -> None:
    source = node.get("source")
    if source is None:
        _not_yet("tokenizer without a source, which means source: union,", section.line, findings)
    elif not _is_donor(source, donor):
        _not_yet(f"tokenizer source: {_text(source)}", source.line, findings)
    for key in ("tokens", "pad_to_multiple_of"):
        entry = node.get(key)
        if entry is not None:
            _not_yet(f"tokenizer {key}", entry.line, findings)


def _not_yet(what: str, line: int, findings: Findings) -> None:
    findings.not_yet(f"{what} is not yet supported", line, _KEEP, blocks=False)


def _is_donor(source: Entry, donor: Model | None) -> bool:
    """Whether ``source`` is ``base``, or names the donor."""
    if not isinstance(source.value, Scalar):
        return False
    named = isinstance(donor, Reference) and normalized(source.value.text) == normalized(str(donor))
    return named or source.value.text == "base"


def _text(entry: Entry) -> str:
    return entry.value.text if isinstance(entry.value, Scalar) else describe(entry.value)
