"""``stockpot evaluate MODEL… --suite suite.yml``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stockpot.cli.options import SIZE, print_json, say, show_notes

if TYPE_CHECKING:
    from stockpot.evaluate import Cell, Result, Suite

__all__ = ["command"]

_IN = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.Path(allow_dash=True, dir_okay=False, path_type=Path)
_SPLIT = click.Choice(["tune", "select", "report"])


@click.command("evaluate")
@click.argument("models", nargs=-1, required=True)
@click.option("--suite", "suite_path", type=_IN, required=True, help="The tasks: suite.yml.")
@click.option("--split", type=_SPLIT, default="report", show_default=True, help="Which data.")
@click.option("--reference", default=None, help="Model that retention is relative to [default: each task's best].")
@click.option("--why", is_flag=True, help="Compare the first (base), middle (fine-tuned) and last (merged) model.")
@click.option("--json", "json_path", type=_OUT, default=None, help="Write the result for machines; - prints it.")
@click.option("--html", "html_path", type=_OUT, default=None, help="Write the report as one HTML file.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), default=None, help="Folder of predictions.")
@click.option("--no-cache", is_flag=True, help="Predict everything anew, and keep nothing.")
@click.option("--same-data", is_flag=True, help="Data may serve two roles; figures on it are marked.")
@click.option("--device", default=None, help="Where torch runs models, such as cpu or cuda [default: a GPU if any].")
@click.option("--memory", type=SIZE, default="1GiB", show_default=True, help="Budget of merging, beside the model.")
@click.option("--threads", type=click.IntRange(1), default=None, help="Threads of merging [default: all cores].")
@click.option("--seed", type=int, default=None, help="Key of random numbers of recipes, over their own.")
@click.option("--lenient", is_flag=True, help="Unknown recipe keys are notes, not errors.")
@click.option("--quiet", is_flag=True, help="Print no progress.")
@click.option("--allow-code", is_flag=True, help="Run the code that the suite and recipes name.")
def command(
    models: tuple[str, ...], suite_path: Path, json_path: Path | None, html_path: Path | None, **options: Any
) -> int:
    """Measure MODELS on the tasks of a suite; nothing is merged to disk.

    A MODEL is a folder, a file, a hub id, MODEL+ADAPTER, or a recipe (.yml). Differences are to the first one.
    Predictions are kept, so that nothing is computed twice. The exit code is 1 when a model failed on a task.
    """
    from stockpot.evaluate import Cache, candidate, evaluate, load_suite
    from stockpot.evaluate.cache import default_folder

    _writable(json_path, html_path)
    code = {"allow_code": options["allow_code"]}
    suite = load_suite(suite_path, same_data=options["same_data"], **code)
    show_notes(suite.notes)
    limits = {key: options[key] for key in ("memory", "threads", "seed", "lenient")}
    given = [candidate(model, **code, **limits) for model in models]
    folder = None if options["no_cache"] else options["cache"] or default_folder()
    asked = {key: options[key] for key in ("split", "reference", "device")}
    tell = None if options["quiet"] else _progress
    with Cache(folder) as cache:
        result = evaluate(given, suite, cache=cache, tell=tell, **asked)
    _write(result, suite, json_path, html_path)
    if str(json_path) != "-":
        _show(result, options["why"])
    return 1 if result.failed else 0


def _progress(cell: Cell) -> None:
    if cell.error is not None:
        told = "failed"
    elif cell.known:
        told = "known from before"
    else:
        told = f"{cell.examples} examples in {cell.seconds:.1f} s"
    say(f"{cell.model}, {cell.task}: {told}", error=True, lines=False)


def _show(result: Result, why: bool) -> None:
    from stockpot.evaluate.table import table, why_told

    for line in table(result):
        say(line, lines=False)
    if not why:
        return
    say("")
    for line in why_told(result.triples):
        say(line, lines=False)
    if not result.triples:
        say("nothing to compare example by example: that takes three models on a task of classes")


def _write(result: Result, suite: Suite, json_path: Path | None, html_path: Path | None) -> None:
    import json

    from stockpot.checkpoint.storage import write_file
    from stockpot.evaluate.page import page
    from stockpot.execute.receipt import plain

    if str(json_path) == "-":
        print_json(result.as_data())
    elif json_path is not None:
        text = json.dumps(plain(result.as_data()), indent=1, ensure_ascii=False)
        write_file(json_path, (text.encode("utf-8", "backslashreplace"),), durable=False)
    if html_path is not None:
        write_file(html_path, (page(result, suite.text).encode("utf-8", "backslashreplace"),), durable=False)


def _writable(*paths: Path | None) -> None:
    """Refuse, before anything is computed, what cannot be written afterwards."""
    for path in paths:
        if path is not None and str(path) != "-" and not os.path.isdir(path.parent):  # noqa: PTH112 - never raises
            raise click.BadParameter(f"there is no folder {path.parent}")
