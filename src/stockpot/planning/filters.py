"""Filters of parameters that no tensor answers to: most likely a word that is spelt otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from stockpot.expression import Apply
from stockpot.planning.lowering import ApplyView
from stockpot.planning.views import Context
from stockpot.settings import Setting

__all__ = ["note_idle_filters"]


def note_idle_filters(context: Context) -> None:
    """Note each filter that occurs in no name of a tensor, in none of the merges that it was written for.

    A recipe's parameters hold for all its slices, so that a filter counts for all of them together.
    """
    idle: dict[tuple[str, str, int | None], None] = {}
    used: set[tuple[str, str, int | None]] = set()
    for merge in context.groups:
        assert isinstance(merge, ApplyView)
        written = dict.fromkeys(_filters(merge.node))
        if written:
            names = _names(merge)
            found = {key for key in written if any(key[1] in name for name in names)}
            idle |= dict.fromkeys(key for key in written if key not in found)
            used |= found
    for parameter, text, line in idle:
        if (parameter, text, line) not in used:
            message = f"filter {text!r} of {parameter} occurs in no tensor's name: its value is never used"
            context.note(message, line=line, fix="`stockpot inspect MODEL --tensors` lists the names")


def _filters(node: Apply) -> Iterator[tuple[str, str, int | None]]:
    """Parameter, filter and line of all that the merge's parameters say."""
    for group in (node.one, *node.each):
        for parameter, settings in group.items():
            for setting in settings:
                for text in _texts(setting):
                    yield parameter, text, setting.line


def _texts(setting: Setting) -> Iterator[str]:
    return (case.filter for case in setting.cases if case.filter is not None and case.filter != "*")


def _names(merge: ApplyView) -> set[str]:
    """Names of the result's tensors and, where layers were moved, of those that they were."""
    found: set[str] = set()
    for view in (merge, *merge.inputs):
        found |= view.names.keys() | {view.origin(name)[1] for name in view.names}
    return found
