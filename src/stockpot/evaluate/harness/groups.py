"""Groups of tasks of lm-eval: which tasks they hold, and whose means their figures are.

What a group is follows lm-eval: members by name, or written into the list; settings beside a member, or in the group,
are those of the tasks below. Names of a user's group are looked for in the files beside it before those of lm-eval.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from stockpot.checkpoint.places import stands
from stockpot.errors import Problem, RecipeError, UnsupportedError
from stockpot.evaluate.examples import digest
from stockpot.evaluate.harness.definitions import (
    Definition,
    Written,
    changed,
    index,
    known_task,
    own_task,
    packaged,
    read,
    task_in,
    unknown,
)

__all__ = ["Group", "Mean", "found_in"]

_FILES = (".yaml", ".yml")
_FIELDS = ("group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag")
"""Of a group itself; whatever else it says is of its tasks."""

_WHOLE = ("doc_to_text", "doc_to_target", "output_type", "dataset_path")
"""What a task says that is written into a list; settings of another say less."""


@dataclass(frozen=True)
class Mean:
    """A figure of a group.

    Args:
        metric: Of its tasks.
        by_size: Whether a task counts as often as it has documents, or once.
        filters: Those whose results are meant; none: all.
    """

    metric: str
    by_size: bool = True
    filters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Tasks under one name.

    Args:
        name: As lm-eval calls it.
        members: Tasks and groups in order.
        means: Its figures; none where lm-eval has none.
        digest: Of the file that it is written in.
    """

    name: str
    members: tuple[Definition | Group, ...]
    means: tuple[Mean, ...]
    digest: str

    @property
    def tasks(self) -> tuple[Definition, ...]:
        """Those in it and in its groups."""
        return tuple(t for m in self.members for t in (m.tasks if isinstance(m, Group) else (m,)))

    @property
    def groups(self) -> tuple[Group, ...]:
        """Those in it, each followed by those that it holds."""
        return tuple(g for m in self.members if isinstance(m, Group) for g in (m, *m.groups))


Found: TypeAlias = Definition | Group


def found_in(task: str, folder: Path, *, allowed: bool) -> Found:
    """The task or group ``task``: the path of a YAML file, relative to ``folder``, or a name that lm-eval knows.

    Args:
        allowed: Whether code that a file names may run, and code that lm-eval itself takes for unsafe.

    Raises:
        RecipeError: when there is no such task, or it needs code that is not allowed.
        UnsupportedError: when it is of a form that is not run.
    """
    finder = _Finder(allowed)
    if task.endswith(_FILES):
        found = finder.in_file(folder / task, _Changes(), ())
    else:
        members = finder.named(task, _Changes(), ())
        found = Group(task, members, (), "") if index()[task].kind.name == "TAG" else members[0]
    if isinstance(found, Group):
        _check_names(found)
    return found


@dataclass(frozen=True)
class _Changes:
    """Settings for the tasks below.

    Args:
        by: The settings.
        written: The file that they are in; None when there are none.
    """

    by: Mapping[str, Any] = field(default_factory=dict)
    written: Written | None = None

    def within(self, config: Mapping[str, Any], written: Written) -> _Changes:
        """Those of a group, which these override."""
        own = {key: value for key, value in config.items() if key not in _FIELDS}
        if not self.by or self.written is None:
            return _Changes(own, written)
        place = self.written if written.packaged else written
        told = digest(self.written.digest, written.digest).hex()
        both = Written(place.path, {}, told, packaged=self.written.packaged and written.packaged)
        return _Changes({**own, **self.by}, both)

    def beside(self, item: Mapping[str, Any], written: Written) -> _Changes:
        """Those beside a member in the list of a group, which override these."""
        own = {key: value for key, value in item.items() if key not in _FIELDS}
        return _Changes({**self.by, **own}, self.written or written)


class _Finder:
    """Finds tasks and groups by path and name.

    Args:
        allowed: Whether code may run.
    """

    def __init__(self, allowed: bool) -> None:
        self._allowed = allowed

    def in_file(self, path: Path, changes: _Changes, seen: tuple[str, ...]) -> Found:
        """What is written in ``path``; ``seen`` are the groups that it is in."""
        if not stands(path):
            raise RecipeError(Problem(f"no such task: {path}", fix=f"paths are relative to {path.parent}"))
        written = read(path, allowed=self._allowed)
        if isinstance(name := written.config.get("group"), str):
            return self._group(name, written.config, written, changes, seen)
        return self._changed(task_in(written, allowed=self._allowed), changes)

    def named(self, name: str, changes: _Changes, seen: tuple[str, ...]) -> tuple[Found, ...]:
        """What lm-eval knows as ``name``: one task or group, or all tasks of a tag."""
        if name not in index():
            raise unknown(name)
        entry = index()[name]
        if entry.kind.name == "TAG":
            return tuple(found for each in sorted(entry.tags) for found in self.named(each, changes, seen))
        if entry.kind.name == "GROUP":
            written = packaged(name)
            return (self._group(name, written.config, written, changes, seen),)
        return (self._changed(known_task(name, allowed=self._allowed), changes),)

    def _changed(self, found: Definition, changes: _Changes) -> Definition:
        if changes.written is None:
            return found
        return changed(found, changes.by, changes.written, allowed=self._allowed)

    def _group(
        self, name: str, config: Mapping[str, Any], written: Written, changes: _Changes, seen: tuple[str, ...]
    ) -> Group:
        listed = config.get("task")
        listed = [listed] if isinstance(listed, str) else listed
        if not isinstance(listed, list) or not listed:
            raise RecipeError(
                Problem(f"the group {name} lists no tasks", file=str(written.path), fix="task: [NAME, …]")
            )
        if name in seen:
            raise RecipeError(Problem(f"the group {name} is in itself", file=str(written.path)))
        inner, inside = changes.within(config, written), (*seen, name)
        members = tuple(found for item in listed for found in self._members(item, name, written, inner, inside))
        return Group(name, members, tuple(_means(name, config, written)), written.digest)

    def _members(
        self, item: Any, group: str, written: Written, changes: _Changes, seen: tuple[str, ...]
    ) -> tuple[Found, ...]:
        """What one entry of the list of ``group`` means."""
        own = {"task": item} if isinstance(item, str) else item
        key = "group" if isinstance(own, Mapping) and "group" in own else "task"
        if not isinstance(own, Mapping) or not isinstance(own.get(key), str):
            fix = "a name, {task: NAME, …} or {group: NAME, task: […]}"
            raise RecipeError(Problem(f"the group {group} lists {item!r}", file=str(written.path), fix=fix))
        if "include" in own:
            fix = "write the member into a file of its own, which includes the other, and name it here"
            message = f"the group {group} includes a file in {own[key]}, which is read in files of tasks alone"
            raise RecipeError(Problem(message, file=str(written.path), fix=fix))
        name, inner = own[key], changes.beside(own, written)
        if not written.packaged and (path := _beside(written.path, name)) is not None:
            return (self.in_file(path, inner, seen),)
        if name in index():
            return self.named(name, inner, seen)
        if key == "group":
            return (self._group(f"{group}::{name}", own, written, changes, seen),)
        if not any(one in inner.by for one in _WHOLE):
            raise unknown(name)
        whole = {**inner.by, "task": f"{group}::{name}"}
        return (own_task(whole["task"], whole, inner.written or written, allowed=self._allowed),)


def _beside(path: Path, name: str) -> Path | None:
    """The file that ``name`` means in the group that is written in ``path``: of this name, or with a task of it."""
    if name.endswith(_FILES):
        return path.parent / name
    told = re.compile(rf"""^["']?(task|group)["']?\s*:\s*["']?{re.escape(name)}["']?\s*(#.*)?$""", re.MULTILINE)
    for one in sorted(path.parent.iterdir(), key=lambda one: (one.stem != name, one)):
        if one.suffix in _FILES and one.is_file() and one != path and told.search(one.read_text("utf-8", "replace")):
            return one
    return None


def _means(name: str, config: Mapping[str, Any], written: Written) -> Iterator[Mean]:
    listed = config.get("aggregate_metric_list") or []
    for one in [listed] if isinstance(listed, Mapping) else listed:
        if not isinstance(one, Mapping) or not isinstance(one.get("metric"), str):
            fix = "aggregate_metric_list: [{metric: acc, weight_by_size: true}]"
            raise RecipeError(Problem(f"the group {name} aggregates {one!r}", file=str(written.path), fix=fix))
        if one.get("aggregation", "mean") != "mean":
            message = f"the group {name} aggregates {one['metric']} by code, of which lm-eval makes a mean"
            raise UnsupportedError(Problem(message, file=str(written.path), fix="aggregation: mean"))
        filters = one.get("filter_list") or []
        filters = [filters] if isinstance(filters, str) else filters
        yield Mean(one["metric"], bool(one.get("weight_by_size", True)), tuple(map(str, filters)))


def _check_names(group: Group) -> None:
    """Raise when members could not be told apart."""
    names = Counter([task.name for task in group.tasks] + [inner.name for inner in group.groups])
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise RecipeError(Problem(f"the group {group.name} holds {', '.join(twice)} more than once"))
