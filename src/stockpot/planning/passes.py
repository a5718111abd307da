"""How often the tensors of a merge are read: once to write, and once for each statistic."""

from __future__ import annotations

from collections.abc import Sequence

from stockpot.errors import Problem
from stockpot.methods.declare import Elementwise, Span
from stockpot.methods.elementwise.program import Program, program_of
from stockpot.planning.lowering import ApplyView
from stockpot.planning.model import Compute, Operand, Read, Survey
from stockpot.planning.views import Context

__all__ = ["check_numbers", "own_passes", "passes_of", "survey_note", "surveys_of"]


def own_passes(node: Compute) -> int:
    """Passes for the statistics of a method itself, its inputs' not counted."""
    if node.form is not None:
        return node.form.passes
    if node.method is None or node.resolved is None:
        return 0
    family = node.method.family
    if isinstance(family, Span):
        return int(family.gram)
    if isinstance(family, Elementwise):
        return program_of(family, node.resolved, len(node.inputs)).passes
    return 0


def passes_of(source: Operand) -> int:
    """How often the inputs of a tensor are read, those passes left out that survey the whole model."""
    if isinstance(source, Read):
        return 1
    inner = max((passes_of(child) for child in source.operands), default=1)
    return inner if source.group else inner + own_passes(source)


def check_numbers(source: Operand, name: str, context: Context) -> bool:
    """Whether parameters go together where that is known without the weights; what is wrong is reported."""
    if isinstance(source, Read):
        return True
    fine = True
    for child in source.operands:
        fine &= check_numbers(child, name, context)
    if source.method is None or source.resolved is None:
        return fine
    family = source.method.family
    try:
        if isinstance(family, Span):
            family.divisor(source.resolved)
            family.axis(source.resolved)
            if not family.gram:
                family.coefficients(None, source.resolved)
        elif isinstance(family, Elementwise):
            program = program_of(family, source.resolved, len(source.inputs))
            if source.base is None:
                _check_base(program, source)
    except ValueError as error:
        context.problem(f"{source.method.name}: {error}", tensor=name, line=source.line)
        return False
    return fine


def surveys_of(context: Context) -> tuple[Survey, ...]:
    """The passes over the whole model that the merges of ``context`` need, inner ones first."""
    found: list[Survey] = []
    for number, view in enumerate(context.groups, 1):
        assert isinstance(view, ApplyView)
        members = view.members()
        fine = bool(members)
        for name, member in members.items():
            fine &= check_numbers(member, name, context)
        if not fine or not _alike(list(members.values()), context):
            continue
        passes = _surveyed(list(members.values()))
        found.append(Survey(number, view.node.method.name, view.node.line, members, passes))
    return tuple(found)


def _check_base(program: Program, source: Compute) -> None:
    """What compares with the base itself needs differences to a single one."""
    divergence = any(op.prepare == "divergence" for op in program.operations)
    companions = source.method.companions if source.method is not None else ()
    given = source.resolved.companions if source.resolved is not None else ()
    if divergence or any(c.delta and c.name in given for c in companions):
        raise ValueError("its inputs must be differences to one base: model - base")


def _alike(members: Sequence[Compute], context: Context) -> bool:
    """Whether all members take the same statistics, so that they can be taken together; reported where not."""
    if len({_statistics(m) for m in members}) == 1:
        return True
    message = f"{members[0].name}: with scope: model, whether to rescale or normalize cannot differ between tensors"
    context.problem(message, line=members[0].line, fix="give one value for all tensors, or scope: tensor")
    return False


def _statistics(member: Compute) -> tuple[tuple[int, type], ...]:
    """Place and kind of every statistic of a program."""
    if member.method is None or member.resolved is None or not isinstance(member.method.family, Elementwise):
        return ()
    operations = program_of(member.method.family, member.resolved, len(member.inputs)).operations
    return tuple((place, type(need)) for place, op in enumerate(operations) for need in op.needs)


def _surveyed(members: Sequence[Compute]) -> int:
    inner = max(max((passes_of(child) for child in m.operands), default=1) for m in members)
    return (inner - 1) + max(own_passes(m) for m in members)


def survey_note(survey: Survey) -> Problem:
    """What a plan says of a survey."""
    tensors = f"{len(survey.members)} tensor{'s' * (len(survey.members) != 1)}"
    passes = f"{survey.passes} pass{'es' * (survey.passes != 1)}"
    message = (
        f"{survey.method} takes its statistics over the whole model: {passes} over {tensors} before any is written"
    )
    return Problem(message, line=survey.line)
