"""Options and output of verbs that measure models on a suite."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stockpot.cli.merge import Asked, carry_out
from stockpot.cli.options import SIZE, print_json, say, set_aside, show_notes, with_options

if TYPE_CHECKING:
    from stockpot.evaluate import Cache, Candidate, Cell, Result, Suite
    from stockpot.evaluate.background import Background
    from stockpot.provenance.ancestry import Ancestor
    from stockpot.recipe.model import Recipe

__all__ = [
    "attempted_of",
    "background_of",
    "cache_of",
    "check_out",
    "check_writable",
    "command_line",
    "models_of",
    "show_tables",
    "suite_of",
    "suite_options",
    "teller",
    "winner_options",
    "write_reports",
    "write_winner",
]

F = TypeVar("F", bound=Callable[..., Any])

_ASIDE = "stockpot.standard-output"

_IN = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.Path(allow_dash=True, dir_okay=False, path_type=Path)


def suite_options(function: F) -> F:
    """--suite, where results go, the cache, and the limits of merging in memory."""
    options = [
        click.option("--suite", "suite_path", type=_IN, required=True, help="The tasks: suite.yml."),
        click.option(
            "--json", "json_path", type=_OUT, default=None, help="Write the result for machines; - prints it."
        ),
        click.option("--html", "html_path", type=_OUT, default=None, help="Write the report as one HTML file."),
        click.option(
            "--cache", type=click.Path(file_okay=False, path_type=Path), default=None, help="Folder of predictions."
        ),
        click.option("--no-cache", is_flag=True, help="Predict everything anew, and keep nothing."),
        click.option("--same-data", is_flag=True, help="Data may serve two roles; figures on it are marked."),
        click.option(
            "--device", default=None, help="Where torch runs models, such as cpu or cuda [default: a GPU if any]."
        ),
        click.option(
            "--memory", type=SIZE, default="1GiB", show_default=True, help="Budget of merging, beside the model."
        ),
        click.option(
            "--threads", type=click.IntRange(1), default=None, help="Threads of merging [default: all cores]."
        ),
        click.option("--seed", type=int, default=None, help="Key of random numbers of recipes, over their own."),
        click.option("--lenient", is_flag=True, help="Unknown recipe keys are notes, not errors."),
        click.option("--quiet", is_flag=True, help="Print no progress."),
        click.option("--allow-code", is_flag=True, help="Run the code that the suite and recipes name."),
    ]
    return with_options(function, options)


def winner_options(function: F) -> F:
    """--out, --overwrite and --no-sync, of verbs that can write the model that they find."""
    options = [
        click.option("--out", type=click.Path(path_type=Path), default=None, help="Write the result to this folder."),
        click.option("--overwrite", is_flag=True, help="Replace OUT if it exists."),
        click.option("--no-sync", is_flag=True, help="Do not wait until the disk has everything before OUT appears."),
    ]
    return with_options(function, options)


def suite_of(path: Path, options: Mapping[str, Any]) -> Suite:
    """The suite, once it is known that results can be written; its notes are told."""
    from stockpot.evaluate import load_suite

    check_writable(options["json_path"], options["html_path"])
    if str(options["json_path"]) == "-":
        _set_aside()
    suite = load_suite(path, same_data=options["same_data"], allow_code=options["allow_code"])
    show_notes(suite.notes)
    return suite


def models_of(models: Sequence[str], options: Mapping[str, Any]) -> list[Candidate]:
    """The models as they were written, with the limits that were given."""
    from stockpot.evaluate import candidate

    return [candidate(model, **_limits(options)) for model in models]


def attempted_of(models: Sequence[str], options: Mapping[str, Any]) -> list[Candidate]:
    """As :func:`models_of`, but one that is wrong is a failed row, unless all are."""
    from stockpot.evaluate.candidates import attempted

    found = [attempted(model, **_limits(options)) for model in models]
    errors = [one.error for one in found if one.error is not None]
    if len(errors) == len(found):
        raise errors[0]
    return found


def _limits(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in ("memory", "threads", "seed", "lenient", "allow_code")}


@contextmanager
def cache_of(options: Mapping[str, Any]) -> Iterator[Cache]:
    """The cache that was asked for, one in memory when none is wanted; in the end its trouble is told."""
    from stockpot.evaluate import Cache
    from stockpot.evaluate.cache import default_folder

    with Cache(None if options["no_cache"] else options["cache"] or default_folder()) as cache:
        yield cache
        if cache.trouble is not None:
            show_notes((replace(cache.trouble, message=f"{cache.trouble.message}; figures are right, but not kept"),))


def teller(options: Mapping[str, Any]) -> Callable[[Cell], None] | None:
    """What tells of each cell as it is done."""
    return None if options["quiet"] else _progress


def _progress(cell: Cell) -> None:
    from stockpot.evaluate.table import counted

    if cell.error is not None:
        told = "failed"
    elif cell.known:
        told = "known from before"
    else:
        told = f"{counted(cell.examples)} in {cell.seconds:.1f} s"
    say(f"{cell.model}, {cell.task}: {told}", error=True, lines=False)


def show_tables(*results: Result | None) -> None:
    """The tables of evaluations, one after another."""
    from stockpot.evaluate.table import table

    for result in results:
        for line in table(result) if result is not None else ():
            say(line, lines=False)


def background_of(suite: Suite, options: Mapping[str, Any], lineage: Mapping[str, Ancestor]) -> Background:
    """How this run came about, for its page."""
    from stockpot.evaluate.background import Background

    return Background.now(suite.text, command=command_line(), seed=options["seed"], lineage=lineage)


def command_line() -> str:
    """The command that runs, in a form for a shell; empty where none does."""
    import shlex

    asked = click.get_current_context().find_root().obj
    return shlex.join(["stockpot", *asked.arguments]) if asked is not None else ""


def write_reports(options: Mapping[str, Any], data: Any, page: Callable[[], str]) -> None:
    """``data`` where --json, ``page`` where --html says."""
    import json

    from stockpot.checkpoint.storage import write_file
    from stockpot.execute.receipt import plain

    json_path, html_path = options["json_path"], options["html_path"]
    if str(json_path) == "-":
        _give_back()
        print_json(data)
    elif json_path is not None:
        text = json.dumps(plain(data), indent=1, ensure_ascii=False)
        write_file(json_path, (text.encode("utf-8", "backslashreplace"),), durable=False)
    if html_path is not None:
        write_file(html_path, (page().encode("utf-8", "backslashreplace"),), durable=False)


def write_winner(recipe: Recipe, out: Path | None, options: Mapping[str, Any]) -> None:
    """The model of ``recipe``, where --out asks for it."""
    from stockpot.api import plan

    if out is None:
        return
    limits = {key: options[key] for key in ("memory", "threads")}
    asked = Asked(
        out,
        overwrite=options["overwrite"],
        restart=False,
        no_sync=options["no_sync"],
        dry_run=False,
        as_json=False,
        quiet=options["quiet"] or str(options["json_path"]) == "-",
    )
    carry_out(lambda: plan(recipe, out, overwrite=asked.overwrite, **limits), asked)


def _set_aside() -> None:
    """From now on standard output is kept for the result, until :func:`_give_back`, or until the verb ends."""
    context, stack = click.get_current_context(), ExitStack()
    stack.enter_context(set_aside())
    context.call_on_close(stack.close)
    context.meta[_ASIDE] = stack


def _give_back() -> None:
    stack: ExitStack = click.get_current_context().meta.get(_ASIDE, ExitStack())
    stack.close()


def check_writable(*paths: Path | None) -> None:
    """Refuse, before anything is computed, what cannot be written afterwards."""
    for path in paths:
        if path is not None and str(path) != "-" and not os.path.isdir(path.parent):  # noqa: PTH112 - never raises
            raise click.BadParameter(f"there is no folder {path.parent}")


def check_out(out: Path | None, overwrite: bool) -> None:
    """Raise before anything is measured what the merge would raise after it."""
    from stockpot.errors import PlanError, Problem
    from stockpot.execute.workplace import published

    if out is not None and os.path.lexists(out) and not (overwrite or published(out)):
        raise PlanError(Problem("the output exists", file=str(out), fix="choose another folder, or give --overwrite"))
