"""One method applied to the inputs of one slice (or of a whole merge), with or around its base."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from stockpot.expression import Apply, Expression, Leaf, Linear, Term
from stockpot.methods.declare import Base, Companion, Method
from stockpot.recipe.findings import Findings
from stockpot.recipe.records import Merge, Model, Parameters, Reference, Settings, Slice, Source
from stockpot.settings import Case, Setting

__all__ = ["Group", "Input", "Mode", "combine", "sections", "stand_in"]


def stand_in() -> Expression:
    """In place of an expression that cannot be built, so that the rest is still checked."""
    return Leaf("(not built)")


@dataclass(frozen=True)
class Mode:
    """What nested merges inherit.

    Args:
        compat: Whether mergekit's numerics are asked for.
        variant: Variant of an outer merge, used where the method has it.
        own: Whether ``variant`` was written at this merge itself.
        dtype: What inputs are rounded to before the arithmetic, as mergekit does under ``compat``.
    """

    compat: bool = False
    variant: str | None = None
    own: bool = False
    dtype: str | None = None

    def within(self, merge: Merge) -> Mode:
        """The mode inside ``merge``."""
        compat = self.compat if merge.compat is None else merge.compat
        dtype = merge.dtypes.get("dtype") if compat else None
        return Mode(compat, merge.variant or self.variant, merge.variant is not None, dtype)

    def variant_of(self, method: Method) -> str | None:
        """The variant to ask ``method`` for; an inherited one only where it exists."""
        known = self.own or self.variant in (method.variants or {})
        return self.variant if known else None


@dataclass(frozen=True)
class Input:
    """One source, the identity of its model, and its expression (a range of layers taken) with its companions'."""

    source: Source
    key: Hashable
    expression: Expression
    companions: Mapping[str, Expression] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """The inputs of one slice, and the base: as written, its identity, and all its layers.

    ``companions`` are those of the whole merge.
    """

    merge: Merge
    piece: Slice
    inputs: tuple[Input, ...]
    base: Model | None
    base_key: Hashable
    base_whole: Expression | None
    mode: Mode
    companions: Mapping[str, Expression] = field(default_factory=dict)

    @property
    def line(self) -> int:
        """Where errors about the inputs point."""
        return self.piece.line if self.merge.sliced else self.merge.method_line

    @property
    def levels(self) -> tuple[Settings, ...]:
        """Parameters of the slice, the module and the merge: the first that has a value counts."""
        return tuple(section.settings for section in sections(self.merge, self.piece))

    @property
    def misplaced(self) -> frozenset[str]:
        """Companions that stand for all models; where each needs its own, that is reported."""
        return frozenset(name for section in sections(self.merge, self.piece) for name in section.companions)

    @cached_property
    def listed(self) -> Input | None:
        """The first input that is the base."""
        return next((i for i in self.inputs if self.base is not None and i.key == self.base_key), None)

    def inputs_of(self, base: Base) -> tuple[Input, ...]:
        """The inputs that a method works on to which the base is ``base``."""
        apart = base in (Base.REQUIRED, Base.OPTIONAL)
        return tuple(i for i in self.inputs if i is not self.listed) if apart else self.inputs


def sections(merge: Merge, piece: Slice) -> tuple[Parameters, ...]:
    """Where parameters for all models stand: slice, module, merge."""
    module = () if merge.module is None else (merge.module[1],)
    return (piece.parameters, *module, merge.parameters)


def combine(method: Method, group: Group, findings: Findings) -> Expression:
    """``method`` on ``group``: on models, on differences to the base, or on the base and another.

    Raises:
        ExpressionError: for a wrong number of models or a parameter out of range.
    """
    if method.base is Base.MEMBER:
        return _from_base(method, group, findings)
    if method.base is Base.REQUIRED and group.base is None:
        fix = "base_model: the model that the others were fine-tuned from"
        findings.problem(f"{method.name} works on differences and needs a base", group.merge.method_line, fix)
        group = replace(group, base_whole=Leaf("(no base)"))
    if method.base is Base.NONE or group.base_whole is None:
        return _apply(method, group, group.inputs, findings)
    return _around_base(method, group, findings)


def _around_base(method: Method, group: Group, findings: Findings) -> Expression:
    """Base + lambda × method(models − base); the base among the models is left out."""
    own = group.listed
    if own is None and group.merge.sliced and group.base is not None:
        findings.problem(
            f"{method.name}: the base is not among the sources of this slice",
            group.line,
            f"add - {{model: {_name(group.base)}, layer_range: […]}} with the layers meant",
        )
    base = own.expression if own is not None else group.base_whole
    assert base is not None
    inputs = group.inputs_of(method.base)
    if own is not None and own.source.parameters:
        names = ", ".join(own.source.parameters.lines)
        findings.note(f"{_name(group.base)} is the base: its own {names} changes nothing", own.source.line)
    if not inputs and group.merge.sliced and method.gives is None:
        return base
    applied = _apply(method, group, inputs, findings, [i.expression - base for i in inputs])
    if method.gives is not None:
        return applied
    total = base + applied
    factor = _lambda(group) if method.scaled and all(p.name != "lambda" for p in method.parameters) else None
    return total if factor is None else Linear((*total.terms[:-1], Term(factor, applied)))


def _from_base(method: Method, group: Group, findings: Findings) -> Expression:
    """method(base, other): the base is the first of the models."""
    inputs, own = group.inputs, group.listed
    if group.merge.sliced and len(inputs) == 1:
        findings.note(
            f"this slice has one source, whose layers are copied: {method.name} takes two",
            group.line,
        )
        return inputs[0].expression
    names = " or ".join(_name(i.source.model) for i in inputs[:2])
    if group.base is None:
        message = f"{method.name} needs base_model: the model it starts from"
        findings.problem(message, group.merge.method_line, f"base_model: {names}")
        own = inputs[0]
    elif own is None and len(inputs) == 1 and group.base_whole is not None:
        base = Input(Source(group.base, None, Parameters(), group.line), group.base_key, group.base_whole)
        return _apply(method, group, (base, *inputs), findings)
    elif own is None and len(inputs) == 2:
        line = group.base.line if isinstance(group.base, Reference) else group.line
        message = f"{method.name}: base_model {_name(group.base)} is neither of the two models"
        findings.unknown(message, line, f"base_model: {names} (the second, in mergekit until January 2024)")
        own = inputs[1]
    first = [] if own is None else [own]
    return _apply(method, group, [*first, *(i for i in inputs if i is not own)], findings)


def _apply(
    method: Method,
    group: Group,
    inputs: Sequence[Input],
    findings: Findings,
    expressions: Sequence[Expression] | None = None,
) -> Apply:
    """``method`` on ``inputs``, or on what stands for them in ``expressions``.

    Parameters of the only model of a method of one count for the whole.
    """
    given = [i.expression for i in inputs] if expressions is None else expressions
    own = [i.source.parameters.settings for i in inputs]
    one: dict[str, tuple[Setting, ...]] = {}
    alone = own[:1] if method.at_most == 1 else ()
    for parameter in method.parameters:
        levels = group.levels if parameter.per_model else (*alone, *group.levels)
        settings = tuple(level[parameter.name] for level in levels if parameter.name in level)
        if parameter.name in group.merge.given:
            settings = (group.merge.given[parameter.name],)
        if settings:
            one[parameter.name] = settings
    names = [p.name for p in method.parameters if p.per_model]
    each = tuple({n: (settings[n],) for n in names if n in settings} for settings in own)
    variant = group.mode.variant_of(method)
    beside = {c.name: found for c in method.companions if (found := _companion(method, c, group, inputs, findings))}
    return Apply(method, tuple(given), one, each, variant, group.mode.compat, group.line, beside)


def _companion(
    method: Method, companion: Companion, group: Group, inputs: Sequence[Input], findings: Findings
) -> tuple[Expression, ...]:
    """The checkpoints of one companion, empty when it is left out; those that are missing are problems."""
    name = companion.name
    if not companion.per_model:
        alone = inputs[0].companions if method.at_most == 1 and inputs else {}
        found = alone.get(name) or group.companions.get(name)
        if found is None and companion.required:
            fix = f"parameters: {{{name}: path or hub id}}"
            findings.problem(f"{method.name} needs {name}: {companion.doc}", group.line, fix)
            return (stand_in(),)
        return () if found is None else (found,)
    if not companion.required and not any(name in i.companions for i in inputs):
        return ()
    for item in inputs:
        if name not in item.companions and name not in group.misplaced:
            message = f"{method.name} needs {name} for every model; {_name(item.source.model)} has none"
            findings.problem(message, item.source.line, f"parameters: {{{name}: path or hub id}}")
    return tuple(i.companions.get(name, stand_in()) for i in inputs)


def _lambda(group: Group) -> Setting | None:
    """``lambda`` of all levels as one setting with a value for every tensor; None when absent."""
    levels = [level["lambda"] for level in group.levels if "lambda" in level]
    if not levels:
        return None
    cases = [case for setting in levels for case in setting.cases]
    if all(case.filter not in (None, "*") for case in cases):
        cases.append(Case(None, 1.0))
    last = next(i for i, case in enumerate(cases) if case.filter in (None, "*"))
    cases[last] = replace(cases[last], filter=None)
    return Setting(tuple(cases[: last + 1]), levels[0].line)


def _name(model: Model | None) -> str:
    return str(model) if isinstance(model, Reference) else "the nested merge"
