"""Which parameters and companions of a recipe its method uses: unknown ones are problems, idle ones notes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from stockpot.methods.declare import Method
from stockpot.recipe.combine import Group
from stockpot.recipe.findings import Findings
from stockpot.recipe.known import nearest, takes
from stockpot.recipe.records import Merge, Parameters

__all__ = ["report_parameters"]


def report_parameters(merge: Merge, method: Method, groups: Sequence[Group], findings: Findings) -> None:
    """Unknown names are problems, as is a companion in the wrong place; what only other methods use is a note."""
    usage = _Usage(merge, method, findings)
    module = merge.module[1] if merge.module else Parameters()
    for parameters in (merge.parameters, module, *(g.piece.parameters for g in groups)):
        usage.names(parameters)
        usage.for_all(parameters)
    for group in groups:
        for item in group.inputs_of(method.base):
            usage.names(item.source.parameters)
            usage.for_one(item.source.parameters)
    for why, line in usage.idle.values():
        findings.note(why, line)


@dataclass
class _Usage:
    """Goes through sections of parameters; ``idle`` collects what changes nothing, each name once."""

    merge: Merge
    method: Method
    findings: Findings
    idle: dict[str, tuple[str, int | None]] = field(default_factory=dict)

    @property
    def own(self) -> tuple[str, ...]:
        """Names that the method uses."""
        return (*takes(self.method, self.merge.given), *(c.name for c in self.method.companions))

    def names(self, section: Parameters) -> None:
        """Names that the method does not use."""
        own, name, known = self.own, self.method.name, self.merge.known
        others: Collection[str] = {*known.parameters, *known.companions}
        for parameter, line in section.lines.items():
            if parameter in own:
                continue
            if parameter in others:
                self.idle.setdefault(parameter, (f"{name} does not use {parameter}; it changes nothing", line))
                continue
            near = nearest(parameter, own) or nearest(parameter, sorted(others))
            fix = f"did you mean {near}?" if near else f"{name} takes: {', '.join(own) or 'no parameters'}"
            self.findings.unknown(f"unknown parameter {parameter!r} of {name}", line, fix)

    def for_all(self, section: Parameters) -> None:
        """What stands for all models: no companion of which each has its own."""
        for companion in self.method.companions:
            if companion.per_model and companion.name in section.companions:
                fix = f"give each its own: - {{model: …, parameters: {{{companion.name}: …}}}}"
                line = section.lines[companion.name]
                self.findings.problem(f"{self.method.name}: each model has a {companion.name} of its own", line, fix)

    def for_one(self, section: Parameters) -> None:
        """What stands under one model: nothing of the whole merge, unless the method takes one model only."""
        if self.method.at_most == 1:
            return
        each = {p.name for p in self.method.parameters if p.per_model}
        whole = set(takes(self.method, self.merge.given)) - each
        for parameter in (name for name in section.settings if name in whole):
            why = f"{parameter} belongs to the whole merge; under one model it changes nothing"
            self.idle.setdefault(parameter, (why, section.lines[parameter]))
        for companion in self.method.companions:
            if not companion.per_model and companion.name in section.companions:
                message = f"{self.method.name}: {companion.name} belongs to the whole merge, not to one model"
                fix = "move it to the parameters of the recipe or slice"
                self.findings.problem(message, section.lines[companion.name], fix)
