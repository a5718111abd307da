"""Suites of tasks: which data tunes, selects and reports, read from ``suite.yml`` with all problems at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stockpot.checkpoint.places import stands
from stockpot.errors import Problem, RecipeError, StockpotError
from stockpot.evaluate.apart import apart
from stockpot.evaluate.code import Code, Own
from stockpot.evaluate.examples import content_of, digest, read_text
from stockpot.evaluate.kinds import KINDS, ROLES, SPLIT, SUITE, TASK, Settings
from stockpot.evaluate.metrics import METRICS
from stockpot.evaluate.portions import Cut
from stockpot.evaluate.protocol import PATTERN, Files, Metric, Task, is_named
from stockpot.recipe import yaml_nodes
from stockpot.recipe.findings import Findings
from stockpot.recipe.known import nearest
from stockpot.recipe.scalars import describe, plain
from stockpot.recipe.scope import Scope
from stockpot.recipe.shapes import check_section
from stockpot.recipe.yaml_nodes import Entry, Node, Scalar, compose
from stockpot.recipe.yaml_nodes import Sequence as Items

__all__ = ["Suite", "SuiteTask", "load_suite"]


@dataclass(frozen=True)
class SuiteTask:
    """A task with its data.

    Args:
        name: As written.
        task: How it is run.
        data: Role → files.
        reused: Roles whose data serves another role too, as was allowed.
        fitted: Files that the task itself is fitted on, such as a probe's; they must be apart from all others.
        cut: How its data is cut into pieces; None where that cannot be.
        measured: Hashes of the code of metrics of the user's own. Predictions do not depend on it, figures do.
    """

    name: str
    task: Task
    data: Mapping[str, Files]
    reused: frozenset[str] = frozenset()
    fitted: Files = ()
    cut: Cut | None = None
    measured: str = ""

    def content(self, role: str) -> str:
        """Hash of the data of ``role``: of the bytes of files, else of what its examples are told apart by."""
        files = self.data[role]
        if any(map(is_named, files)):
            return digest(*self.task.examples(files)).hex()
        return content_of(files)


@dataclass(frozen=True)
class Suite:
    """Tasks and how intervals are made.

    Args:
        tasks: At least one.
        name: For titles.
        text: As written.
        seed, resamples: Of the bootstrap.
        notes: Things worth telling.
    """

    tasks: tuple[SuiteTask, ...]
    name: str = "suite"
    text: str = ""
    seed: int = 0
    resamples: int = 1000
    notes: tuple[Problem, ...] = field(default=())

    def for_choosing(self) -> Suite:
        """The suite as whatever searches must see it: without the data that figures are reported on."""
        kept = [replace(t, data={r: f for r, f in t.data.items() if r != "report"}) for t in self.tasks]
        return replace(self, tasks=tuple(t for t in kept if t.data))

    def having(self, role: str) -> tuple[SuiteTask, ...]:
        """The tasks that have data for ``role``.

        Raises:
            RecipeError: when none has.
        """
        found = tuple(t for t in self.tasks if role in t.data)
        if not found:
            raise RecipeError(Problem(f"no task has data to {role} with", fix=f"split: {{{role}: FILE}}"))
        return found


def load_suite(path: Path, *, allow_code: bool = False, same_data: bool = False) -> Suite:
    """The suite in the file ``path``; its paths are relative to its folder. All data is read and checked.

    Args:
        allow_code: Whether ``module:name`` may run.
        same_data: Whether one piece of data may serve two roles; what is reported on it is then marked.

    Raises:
        RecipeError: with everything that is wrong.
    """
    findings = Findings(str(path), within="suite")
    try:
        documents, problems = compose(read_text(path))
        for problem in problems:
            findings.problem(problem.message, problem.line, problem.fix)
    except StockpotError as error:
        raise RecipeError(*(replace(p, file=str(path), within="suite") for p in error.problems)) from error
    reader = _Reader(findings, path.parent, Code(path.parent, allow_code))
    suite = reader.suite(documents)
    findings.raise_if_any()
    tasks = apart(suite.tasks, findings, same_data=same_data)
    findings.raise_if_any()
    name = suite.name or path.stem
    return replace(suite, tasks=tasks, name=name, text=read_text(path), notes=tuple(findings.notes))


class _Reader:
    """Nodes → tasks; what is wrong goes to the findings."""

    def __init__(self, findings: Findings, folder: Path, code: Code) -> None:
        self._findings, self._folder, self._code = findings, folder, code
        self._scope = Scope(findings, folder=str(folder))
        self._allowed = code.allowed

    def suite(self, documents: Sequence[Node]) -> Suite:
        if len(documents) != 1 or not isinstance(documents[0], yaml_nodes.Mapping):
            fix = "tasks: {NAME: {kind: perplexity, split: {report: FILE}}}"
            self._findings.problem("a suite is one mapping (key: value)", 1, fix)
            return Suite(())
        root = documents[0]
        check_section(root, SUITE, self._scope)
        values = _plain(root)
        entry = root.get("tasks")
        entries = entry.value.entries if entry and isinstance(entry.value, yaml_nodes.Mapping) else ()
        tasks = [task for each in entries if (task := self._task(each)) is not None]
        if entry is not None and isinstance(entry.value, yaml_nodes.Mapping) and not entries:
            self._findings.problem("there are no tasks", entry.line)
        settings = {key: values[key] for key in ("seed", "resamples") if isinstance(values.get(key), int)}
        return Suite(tuple(tasks), str(values.get("name") or ""), **settings)

    def _task(self, entry: Entry) -> SuiteTask | None:
        before, node = len(self._findings.problems), entry.value
        kind = self._kind(entry)
        if kind is None or not isinstance(node, yaml_nodes.Mapping):
            return None
        check_section(node, TASK[kind], self._scope, entry.line)
        data = self._split(node.get("split"), KINDS[kind].named)
        train = self._files(own, KINDS[kind].named) if (own := node.get("train")) is not None else ()
        metrics, measured = self._metrics(node, kind)
        code = self._own(node, kind)
        if len(self._findings.problems) > before:
            return None
        values = {k: v for k, v in _plain(node).items() if k not in ("kind", "split", "metrics", *KINDS[kind].code)}
        own_metrics = tuple(m for m in metrics if isinstance(m, Metric)) if KINDS[kind].metrics else ()
        used = {**data, **({"train": train} if train else {})}
        settings = Settings(values, own_metrics, code, self._folder, metrics, used, self._allowed)
        try:
            task = KINDS[kind].make(settings)
            used = {role: KINDS[kind].placed(task, files) for role, files in used.items()}
            data = {role: used[role] for role in data}
            self._readable(entry, task, [*data.values()])
        except StockpotError as error:
            self._tell(error, entry.line, entry.key)
            return None
        if (told := KINDS[kind].note(values)) is not None:
            self._findings.note(f"task {entry.key}: {told}", entry.line)
        return SuiteTask(
            entry.key, task, data, fitted=used.get("train", ()), cut=KINDS[kind].cut(settings), measured=measured
        )

    def _kind(self, entry: Entry) -> str | None:
        """The kind of a task; None when it cannot be told, which was reported."""
        node = entry.value
        given = node.get("kind") if isinstance(node, yaml_nodes.Mapping) else None
        if given is None or not isinstance(given.value, Scalar):
            fix = f"kind: one of {', '.join(KINDS)}"
            self._findings.problem(f"task {entry.key} needs a kind", entry.line, fix)
            return None
        if given.value.text in KINDS:
            return given.value.text
        near = nearest(given.value.text, KINDS)
        fix = f"did you mean {near}?" if near else f"one of {', '.join(KINDS)}"
        self._findings.problem(f"unknown kind {describe(given.value)}", given.line, fix)
        return None

    def _split(self, entry: Entry | None, named: bool) -> dict[str, Files]:
        if entry is None:
            return {}
        check_section(entry.value, SPLIT, self._scope, entry.line)
        own = entry.value.entries if isinstance(entry.value, yaml_nodes.Mapping) else ()
        found = {each.key: self._files(each, named) for each in own if each.key in ROLES}
        if isinstance(entry.value, yaml_nodes.Mapping) and not own:
            self._findings.problem("split names no data", entry.line, "split: {report: FILE}")
        return found

    def _files(self, entry: Entry, named: bool) -> Files:
        """The path or paths of an entry, each of which must be there; ``named`` when @NAME is no file."""
        node = entry.value
        items = node.items if isinstance(node, Items) else (node,)
        if not items or not all(isinstance(item, Scalar) and item.tag != "null" and item.text for item in items):
            self._findings.problem(f"{entry.key} is {describe(node)}, not a file or a list of files", entry.line)
            return ()
        texts = [item.text for item in items if isinstance(item, Scalar)]
        paths = tuple(Path(t) if named and is_named(Path(t)) else self._folder / t for t in texts)
        for item, path in zip(items, paths, strict=True):
            if named and (is_named(path) or PATTERN in str(path)):
                continue
            try:
                there = stands(path)
            except StockpotError as error:
                self._tell(error, item.line)
                continue
            if not there:
                fix = f"paths are relative to {self._folder}"
                self._findings.problem(f"{entry.key}: no such file: {path}", item.line, fix)
        return paths

    def _metrics(self, node: yaml_nodes.Mapping, kind: str) -> tuple[tuple[Metric | str, ...], str]:
        """The metrics of a task, by name where it has metrics of its own; and hashes of the code of the user's own."""
        entry = node.get("metrics")
        has = KINDS[kind].measures(_plain(node))
        if entry is None or not isinstance(entry.value, Items):
            return tuple(METRICS[name] for name in KINDS[kind].metrics if name in has), ""
        own = not KINDS[kind].metrics
        items = [item for item in entry.value.items if isinstance(item, Scalar)]
        found = [m for item in items if (m := self._metric(item, own, has)) is not None]
        metrics = [m.value if isinstance(m, Own) else m for m in found]
        names = [m if isinstance(m, str) else m.name for m in metrics]
        if len(set(names)) < len(names):
            self._findings.problem("a metric is named twice", entry.line)
        return tuple(metrics), "".join(m.digest for m in found if isinstance(m, Own))

    def _metric(self, item: Scalar, own: bool, has: Sequence[str]) -> Metric | Own | str | None:
        if own and ":" not in item.text:
            return item.text
        if item.text in METRICS and item.text in has:
            return METRICS[item.text]
        if ":" not in item.text:
            near = None if item.text in METRICS else nearest(item.text, has)
            hint = f"did you mean {near}? " if near else ""
            fix = f"{hint}it has {', '.join(has)}; or module:metric of your own"
            wrong = "this task cannot be measured by" if item.text in METRICS else "unknown metric"
            self._findings.problem(f"{wrong} {describe(item)}", item.line, fix)
            return None
        code = self._code_of(item)
        if code is None:
            return None
        if not isinstance(code.value, Metric):
            fix = "from stockpot.evaluate import Metric; mine = Metric('mine', 'higher', values)"
            self._findings.problem(f"{item.text} is no Metric", item.line, fix)
            return None
        return code

    def _own(self, node: yaml_nodes.Mapping, kind: str) -> dict[str, Own]:
        found = {}
        for key in KINDS[kind].code:
            entry = node.get(key)
            if entry is None or not isinstance(entry.value, Scalar):
                continue
            own = self._code_of(entry.value)
            if own is not None and not callable(own.value):
                self._findings.problem(f"{own.name} is no function", entry.line)
            elif own is not None:
                found[key] = own
        return found

    def _code_of(self, item: Scalar) -> Own | None:
        try:
            return self._code.find(item.text)
        except RecipeError as error:
            self._tell(error, item.line)
            return None

    def _readable(self, entry: Entry, task: Task, splits: Sequence[Files]) -> None:
        """Report data that is not what the task reads."""
        for files in splits:
            try:
                task.examples(files)
            except StockpotError as error:
                self._tell(error, entry.line, entry.key)

    def _tell(self, error: StockpotError, line: int, task: str | None = None) -> None:
        for problem in error.problems:
            where = "" if problem.file is None else f"{problem.file}: "
            lead = "" if task is None else f"task {task}: "
            self._findings.problem(f"{lead}{where}{problem.message}", line, problem.fix)


def _plain(node: yaml_nodes.Mapping) -> dict[str, Any]:
    """The values that are given, as plain data."""
    return {e.key: plain(e.value) for e in node.entries if not (isinstance(e.value, Scalar) and e.value.tag == "null")}
