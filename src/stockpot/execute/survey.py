"""Statistics of the whole model: passes over all its tensors, before any of them is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.diagnose import alike, damage, explain
from stockpot.execute.evaluate import Evaluator, NotFiniteError, Phase, Tick
from stockpot.execute.evaluators import evaluator_of
from stockpot.execute.workspace import Workspace
from stockpot.planning.blocks import Grid, grid_of, grid_within
from stockpot.planning.model import Compute, Operand, Plan, Survey, reads

__all__ = ["counted", "grids_of", "survey_phases"]


def survey_phases(
    survey: Survey,
    reader: PayloadReader,
    known: dict[tuple[int, str], Evaluator],
    moved: Callable[[int], None],
    grids: Mapping[tuple[int, str], Grid],
) -> Iterator[Phase]:
    """The passes of ``survey``; after them ``known`` holds its evaluators, settled.

    Args:
        known: What earlier surveys settled.
        moved: Called with numbers of bytes as they are read, for progress.
        grids: The blocks in which each member is computed later, of :func:`grids_of`.
    """
    members = {
        name: evaluator_of(node, grids[survey.group, name], reader, known) for name, node in survey.members.items()
    }
    evaluators = tuple(e for e in members.values() if e.grid.elements)
    for evaluator in evaluators:
        for phase in evaluator.inner_phases():
            yield counted(phase, moved, evaluator.node, reader)
    if evaluators:
        for phase in type(evaluators[0]).settle(evaluators):
            yield _counted_over(phase, moved, survey, reader)
    known.update({(survey.group, name): evaluator for name, evaluator in members.items()})


def grids_of(plan: Plan) -> dict[tuple[int, str], Grid]:
    """(number of a survey, tensor name) → blocks: those of the tensor that is made of it.

    A method that works on rows has its inputs computed in blocks of whole rows; ties at a threshold are counted
    in blocks, so that the passes before must have the same.
    """
    found: dict[tuple[int, str], Grid] = {}
    for step in plan.steps:
        _spread(step.source, grid_of(step.source, step.shape), found)
    for survey in reversed(plan.surveys):
        for name, node in survey.members.items():
            _spread(node, found.get((survey.group, name)) or grid_of(node, node.shape), found)
    return found


def _spread(source: Operand, grid: Grid, found: dict[tuple[int, str], Grid]) -> None:
    if isinstance(source, Compute):
        if source.group:
            found.setdefault((source.group, source.key[0]), grid)
        for child in source.operands:
            _spread(child, grid_within(grid, source, child) if isinstance(child, Compute) else grid, found)


def counted(
    phase: Phase,
    moved: Callable[[int], None],
    node: Operand,
    reader: PayloadReader,
    *,
    nbytes: int | None = None,
) -> Phase:
    """``phase`` with progress, and with non-finite inputs explained."""
    total = sum(r.ref.nbytes for r in reads(node)) if nbytes is None else nbytes
    share = total // max(1, phase.count)

    def run(block: int, space: Workspace, _: Tick) -> None:
        done = 0

        def tick(part: float) -> None:
            nonlocal done
            own = min(int(part * share), share - done)
            done += own
            moved(own)

        try:
            phase.run(block, space, tick)
        except NotFiniteError as error:
            raise explain(node, reader) from error
        moved(share - done)

    def finish() -> None:
        try:
            phase.finish()
        except NotFiniteError as error:
            raise explain(node, reader) from error

    return Phase(phase.name, phase.count, run, finish)


def _counted_over(phase: Phase, moved: Callable[[int], None], survey: Survey, reader: PayloadReader) -> Phase:
    """As :func:`counted` over all members: the one that is not finite is looked for among them."""
    share = survey.input_bytes // max(1, survey.passes) // max(1, phase.count)

    def run(block: int, space: Workspace, tick: Tick) -> None:
        phase.run(block, space, tick)
        moved(share)

    def finish() -> None:
        try:
            phase.finish()
        except NotFiniteError as error:
            raise _found(survey, reader) from error

    return Phase(phase.name, phase.count, run, finish)


def _found(survey: Survey, reader: PayloadReader) -> Exception:
    """The error of the first member that holds a number that is not finite and that not all its models share."""
    members = list(survey.members.values())
    found = (damage(node, reader) for node in members if not alike(node, reader))
    return next((error for error in found if error is not None), None) or explain(members[0], reader)
