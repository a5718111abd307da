"""Which parameters of a recipe its method uses: unknown ones are problems, idle ones notes."""

from __future__ import annotations

from collections.abc import Sequence

from stockpot.methods.registry import method_named
from stockpot.recipe.combine import Group
from stockpot.recipe.findings import Findings
from stockpot.recipe.known import PENDING, known_parameters, nearest, takes
from stockpot.recipe.records import Merge, Settings

__all__ = ["report_parameters"]

_Idle = dict[str, tuple[str, int | None]]


def report_parameters(merge: Merge, groups: Sequence[Group], findings: Findings) -> None:
    """Unknown parameters are problems; those that only other methods use are notes, one each."""
    name = merge.method or ""
    method = PENDING.get(name) or method_named(name)
    own = takes(method)
    whole = set(own) - set(_per_model(name))
    idle: _Idle = {}
    levels = [
        merge.parameters,
        *([merge.module[1]] if merge.module else []),
        *(g.piece.parameters for g in groups),
    ]
    for settings in levels:
        _report_names(settings, name, own, idle, findings)
    for group in groups:
        inputs = group.inputs_of(method.base)
        for item in inputs:
            _report_names(item.source.parameters, name, own, idle, findings)
            if len(inputs) > 1:
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


def _report_whole(settings: Settings, whole: set[str], idle: _Idle) -> None:
    for parameter, setting in settings.items():
        if parameter in whole:
            why = f"{parameter} belongs to the whole merge; under one model it changes nothing"
            idle.setdefault(parameter, (why, setting.line))


def _per_model(name: str) -> tuple[str, ...]:
    if name in PENDING:
        return PENDING[name].each
    return tuple(p.name for p in method_named(name).parameters if p.per_model)
