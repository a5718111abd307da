"""Which parameters of a recipe its method uses: unknown ones are problems, idle ones notes."""

from __future__ import annotations

from collections.abc import Sequence

from stockpot.methods.declare import Method
from stockpot.methods.registry import method_named
from stockpot.recipe.combine import Group
from stockpot.recipe.findings import Findings
from stockpot.recipe.known import PENDING, Pending, known_parameters, nearest, takes
from stockpot.recipe.records import Merge, Settings

__all__ = ["report_parameters"]

_Idle = dict[str, tuple[str, int | None]]


def report_parameters(merge: Merge, groups: Sequence[Group], findings: Findings) -> None:
    """Unknown parameters are problems; those that only other methods use are notes, one each."""
    name = merge.method or ""
    method = PENDING.get(name) or method_named(name)
    own = takes(method)
    whole = _whole(method)
    idle: _Idle = {}
    levels = [
        merge.parameters,
        *([merge.module[1]] if merge.module else []),
        *(g.piece.parameters for g in groups),
    ]
    for settings in levels:
        _report_names(settings, name, own, idle, findings)
    for group in groups:
        for item in group.inputs_of(method.base):
            _report_names(item.source.parameters, name, own, idle, findings)
            _report_whole(item.source.parameters, whole, idle)
    for why, line in idle.values():
        findings.note(why, line)


def _report_names(settings: Settings, name: str, own: Sequence[str], idle: _Idle, findings: Findings) -> None:
    known = known_parameters()
    for parameter, setting in settings.items():
        if parameter in own:
            continue
        if parameter in known:
            idle.setdefault(parameter, (f"{name} does not use {parameter}; it changes nothing", setting.line))
            continue
        near = nearest(parameter, own) or nearest(parameter, known)
        fix = f"did you mean {near}?" if near else f"{name} takes: {', '.join(own) or 'no parameters'}"
        findings.unknown(f"unknown parameter {parameter!r} of {name}", setting.line, fix)


def _report_whole(settings: Settings, whole: frozenset[str], idle: _Idle) -> None:
    for parameter, setting in settings.items():
        if parameter in whole:
            why = f"{parameter} belongs to the whole merge; under one model it changes nothing"
            idle.setdefault(parameter, (why, setting.line))


def _whole(method: Method | Pending) -> frozenset[str]:
    """Parameters that change nothing under one model; none when the method takes only one."""
    if isinstance(method, Pending):
        return frozenset(method.whole)
    if method.at_most == 1:
        return frozenset()
    return frozenset(takes(method)) - {p.name for p in method.parameters if p.per_model}
