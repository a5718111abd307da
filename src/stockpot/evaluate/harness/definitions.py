"""What a task of lm-eval is: its settings, from a YAML file of the user's or from the installed package.

A file of the user's is data, like a recipe: functions that it names are code, which runs only when it is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from stockpot.errors import Problem, RecipeError, StockpotError, UnsupportedError
from stockpot.evaluate.examples import content_of, digest, read_text
from stockpot.evaluate.harness.quiet import quietly
from stockpot.recipe.known import nearest
from stockpot.recipe.method_files import run_file
from stockpot.recipe.yaml_nodes import compose

__all__ = [
    "Definition",
    "Written",
    "changed",
    "index",
    "known_task",
    "own_task",
    "packaged",
    "read",
    "task_in",
    "unknown",
]

_ALLOW = "read it, then allow it: --allow-code (in Python: allow_code=True)"
_DEPTH = 20
"""Files that include one another, at most."""

_GENERATION = frozenset(
    {"until", "do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "max_gen_toks", "max_new_tokens",
     "max_length", "min_new_tokens", "num_beams", "length_penalty", "early_stopping", "repetition_penalty",
     "no_repeat_ngram_size", "use_cache"}
)  # fmt: skip
"""What a stranger's file may say of how texts are generated: transformers also takes names of code at the hub."""

_BUILDERS = ("pandas", "sql", "spark", "generator", "iceberg")
"""Kinds of data sets that are read by running pickles or queries."""

_DATA = frozenset(
    {"data_dir", "data_files", "delimiter", "encoding", "field", "revision", "sep", "streaming", "trust_remote_code",
     "verification_mode"}
)  # fmt: skip
"""What a stranger's file may say of how data is loaded (``trust_remote_code`` is left out then): other settings are
those of file systems and readers, some of which render templates or open connections."""

_SCHEMES = ("hf", "http", "https")
"""Of addresses of data; others are made of other file systems."""


@dataclass(frozen=True)
class Definition:
    """A task's settings.

    Args:
        name: As lm-eval calls it.
        config: Its settings, functions resolved; without what makes groups.
        digest: Of the files that it is written in, and of the code that they name.
        trusted: Whether its templates may do what they like: it is part of lm-eval, or code is allowed.
        folder: Of its file, for data beside it; None for tasks that are part of lm-eval.
    """

    name: str
    config: Mapping[str, Any] = field(repr=False)
    digest: str
    trusted: bool
    folder: Path | None = None


@dataclass(frozen=True)
class Written:
    """What stands in a file, and in those that it includes.

    Args:
        path: Of the file.
        config: Its settings, functions resolved.
        digest: Of all that it is written in, and of the code that it names.
        packaged: Whether the file is part of lm-eval.
    """

    path: Path
    config: Mapping[str, Any] = field(repr=False)
    digest: str
    packaged: bool = False


def read(path: Path, *, allowed: bool) -> Written:
    """What stands in ``path``.

    Args:
        allowed: Whether code that it names may run.

    Raises:
        RecipeError: when it is no YAML, or needs code that is not allowed.
    """
    reader = _Reader(allowed)
    config = reader.read(path, ())
    return Written(path, config, digest(*reader.digests).hex())


def task_in(written: Written, *, allowed: bool) -> Definition:
    """The one task that is written in a file.

    Raises:
        RecipeError: when it names several or none, or needs code that is not allowed.
        UnsupportedError: when it is of a form that is not run.
    """
    name = written.config.get("task")
    if not isinstance(name, str) or any(key in written.config for key in ("group", "task_list")):
        raise RecipeError(
            Problem("the file names several tasks, or none", file=str(written.path), fix="task: NAME, or group: NAME")
        )
    return own_task(name, written.config, written, allowed=allowed)


def own_task(name: str, config: Mapping[str, Any], written: Written, *, allowed: bool) -> Definition:
    """A task all of whose settings are ``config``, as ``written``. Raises as :func:`task_in`."""
    trusted = allowed or written.packaged
    if not trusted:
        _check_data(name, config)
    _check(name, config, allowed)
    return Definition(name, _plain(config), written.digest, trusted, _folder(written))


def changed(found: Definition, by: Mapping[str, Any], written: Written, *, allowed: bool) -> Definition:
    """``found`` with some other settings, as ``written``. Raises as :func:`task_in`."""
    if not by:
        return found
    config, trusted = {**found.config, **by, "task": found.name}, allowed or written.packaged
    if not trusted:
        _check_data(found.name, by)
    _check(found.name, config, allowed)
    folder = _folder(written) if "dataset_kwargs" in by else found.folder
    told = digest(found.digest, written.digest).hex()
    return Definition(found.name, _plain(config), told, found.trusted and trusted, folder)


def _folder(written: Written) -> Path | None:
    return None if written.packaged else written.path.parent


class _Reader:
    """YAML files and those that they include, as lm-eval reads them; digests of all that they are made of."""

    def __init__(self, allowed: bool) -> None:
        self._allowed = allowed
        self.digests: list[str] = []

    def read(self, path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
        """The settings in ``path``; what it includes is overridden by its own."""
        if path.resolve() in seen or len(seen) > _DEPTH:
            raise RecipeError(Problem("files that include one another", file=str(path)))
        text = read_text(path)
        self.digests.append(content_of([path]))
        config = self._parsed(path, text)
        included = config.pop("include", [])
        merged: dict[str, Any] = {}
        for one in [included] if isinstance(included, str) else included:
            merged |= self.read(path.parent / str(one), (*seen, path.resolve()))
        return merged | config

    def _parsed(self, path: Path, text: str) -> dict[str, Any]:
        class Loader(yaml.SafeLoader):
            """Of this file: functions are looked for beside it."""

        Loader.add_constructor("!function", lambda _, node: self._function(path, node))
        try:
            compose(text)  # holds the limits of size, depth and aliases
            config = Loader(text).get_single_data()
        except StockpotError as error:
            raise RecipeError(*(Problem(p.message, file=str(path), line=p.line, fix=p.fix) for p in error.problems))  # noqa: B904
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            message = f"not valid YAML: {getattr(error, 'problem', error)}"
            raise RecipeError(Problem(message, file=str(path), line=mark and mark.line + 1)) from None
        if not isinstance(config, dict):
            raise RecipeError(Problem("a task is one mapping (key: value)", file=str(path)))
        return config

    def _function(self, path: Path, node: Any) -> Any:
        """What ``!function module.name`` means: of ``module.py`` beside the file, else of an installed module."""
        line, (module, _, name) = node.start_mark.line + 1, str(node.value).rpartition(".")
        if not self._allowed:
            message = f"!function {node.value} is code, which runs only when it is allowed"
            raise RecipeError(Problem(message, line=line, fix=_ALLOW))
        beside = path.parent.joinpath(*module.split(".")).with_suffix(".py")
        try:
            if beside.is_file():
                found, told = run_file(beside)
                self.digests.append(told)
            else:
                found = import_module(module)
            return getattr(found, name)
        except (Exception, SystemExit) as error:
            message = f"cannot load !function {node.value}: {type(error).__name__}: {error}"
            raise RecipeError(Problem(message, line=line, fix=f"put {beside.name} beside the task")) from error


@cache
def index() -> Mapping[str, Any]:
    """All that lm-eval knows, by name: some seconds, so once in a process."""
    from lm_eval.tasks import TaskManager

    with quietly():
        found: Mapping[str, Any] = TaskManager().task_index
    return found


def unknown(name: str) -> RecipeError:
    """The error of a name that lm-eval does not know."""
    near = nearest(name, [n for n, e in index().items() if e.kind.name != "TAG"])
    hint = f"did you mean {near}? " if near else ""
    fix = f"{hint}a name that lm-eval knows (lm_eval ls tasks), or the path of a task's .yaml"
    return RecipeError(Problem(f"lm-eval knows no task {name!r}", fix=fix))


def packaged(name: str) -> Written:
    """What stands in the file of ``name``, a task or group in :func:`index`.

    Raises:
        UnsupportedError: when it cannot be loaded.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    path = index()[name].yaml_path
    try:
        with quietly():
            config = deepcopy(load_yaml(path))
    except Exception as error:
        message = f"lm-eval cannot load its task {name}: {type(error).__name__}: {error}"
        raise UnsupportedError(Problem(message, fix="does the task need packages of its own?")) from error
    return Written(path, config, digest(name, content_of([path])).hex(), packaged=True)


def known_task(name: str, *, allowed: bool) -> Definition:
    """The task ``name`` of :func:`index`. Raises as :func:`task_in`."""
    entry = index()[name]
    if entry.kind.name != "TASK":
        message = f"{name} is a class of Python in lm-eval, with rules of its own, which is not run here"
        raise UnsupportedError(Problem(message, fix="take a task that lm-eval writes as YAML"))
    _check(name, entry.cfg, allowed)  # before functions are looked for, which may load more
    written = packaged(name)
    return own_task(name, written.config, written, allowed=allowed)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` without what belongs to groups; metadata is a mapping, as tasks expect."""
    told = config.get("metadata")
    kept = {k: v for k, v in config.items() if k not in ("tag", "group", "task_list", "include")}
    return kept | {"metadata": told if isinstance(told, dict) else {"version": told}}


def _check(name: str, config: Mapping[str, Any], allowed: bool) -> None:
    """Raise when the task called ``name`` is of a form that is not run."""
    for key in ("doc_to_image", "doc_to_audio"):
        if config.get(key) is not None:
            raise UnsupportedError(Problem(f"{name} is about images or sounds ({key}), which are not run here"))
    if "class" in config:
        raise UnsupportedError(Problem(f"{name} is a class of Python, with rules of its own: not run here"))
    prompt = str(config.get("use_prompt") or "")
    if ".yaml" in prompt:
        message = f"{name} takes its prompts from a file of its own ({prompt}), which is not read here"
        raise UnsupportedError(Problem(message, fix="write them into the task: doc_to_text, doc_to_target"))
    if allowed:
        return
    if config.get("unsafe_code"):
        raise RecipeError(Problem(f"{name} runs code that the model writes (unsafe_code)", fix=_ALLOW))
    if prompt.startswith("promptsource"):
        raise RecipeError(Problem(f"{name} takes its prompts from promptsource, which is code", fix=_ALLOW))
    for metric in _foreign(config):
        message = f"{name}: the metric {metric} is code that would be loaded from the hub (evaluate)"
        raise RecipeError(Problem(message, fix=_ALLOW))


def _check_data(name: str, config: Mapping[str, Any]) -> None:
    """Raise when what a stranger's file says of data and generation could have code run."""
    strange = sorted(set(map(str, config.get("generation_kwargs") or ())) - _GENERATION)
    if strange:
        message = f"{name}: generation_kwargs {strange[0]} is not among those that are known to run no code"
        raise RecipeError(Problem(message, fix=_ALLOW))
    if config.get("dataset_path") in _BUILDERS:
        message = f"{name}: data of the kind {config['dataset_path']} is read by pickles or queries"
        raise RecipeError(Problem(message, fix=_ALLOW))
    loading = config.get("dataset_kwargs") or {}
    unknown = sorted(set(map(str, loading)) - _DATA)
    if unknown:
        message = f"{name}: dataset_kwargs {unknown[0]} is not among those that are known to run no code"
        raise RecipeError(Problem(message, fix=_ALLOW))
    for place in _words([loading, config.get("dataset_path"), config.get("dataset_name")]):
        scheme, stroke, _ = place.partition("://")
        if "::" in place or (stroke and scheme not in _SCHEMES):
            message = f"{name}: data at {place!r}, which is no path and no address of {', '.join(_SCHEMES)}"
            raise RecipeError(Problem(message, fix=_ALLOW))


def _words(value: Any) -> Iterator[str]:
    """Every text in ``value``."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _words(one)


def _foreign(config: Mapping[str, Any]) -> list[str]:
    """Metrics that lm-eval would look for at the hub."""
    from lm_eval.api import metrics, registry

    assert metrics  # registers those of the package
    told = [m for m in config.get("metric_list") or () if isinstance(m, dict) and isinstance(m.get("metric"), str)]
    own = config.get("process_results") is not None
    return [
        m["metric"] for m in told if not own and (m.get("hf_evaluate") or m["metric"] not in registry.metric_registry)
    ]
