"""``stockpot merge RECIPE OUT``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from stockpot.cli.options import (
    human,
    limit_options,
    print_json,
    progress_bar,
    recipe_options,
    say,
    show_notes,
    with_options,
)

if TYPE_CHECKING:
    from stockpot.planning.model import Plan

__all__ = ["Asked", "carry_out", "command", "output_options"]

F = TypeVar("F", bound=Callable[..., Any])


def output_options(function: F) -> F:
    """--overwrite, --restart, --no-sync, --dry-run, --json and --quiet, of verbs that write a model."""
    options = [
        click.option("--overwrite", is_flag=True, help="Replace OUT if it exists."),
        click.option("--restart", is_flag=True, help="Begin again, whatever an unfinished merge into OUT has left."),
        click.option("--no-sync", is_flag=True, help="Do not wait until the disk has everything before OUT appears."),
        click.option("--dry-run", is_flag=True, help="Show the plan and stop."),
        click.option("--json", "as_json", is_flag=True, help="Print the result for machines."),
        click.option("--quiet", is_flag=True, help="Print nothing but errors."),
    ]
    return with_options(function, options)


@click.command("merge")
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@limit_options
@recipe_options
@output_options
def command(recipe: Path, out: Path, **options: Any) -> None:
    """Carry out RECIPE and write the merged model to the folder OUT.

    OUT appears only when it is complete; until then the work lies in OUT.partial. After a failure, an
    interruption or a power cut the same command continues.
    """
    from stockpot.api import plan

    asked, limits = Asked.taken(out, options)
    carry_out(lambda: plan(recipe, out, overwrite=asked.overwrite, **limits), asked)


@dataclass(frozen=True)
class Asked:
    """What the options of a verb that writes a model say; see :func:`output_options`."""

    out: Path
    overwrite: bool
    restart: bool
    no_sync: bool
    dry_run: bool
    as_json: bool
    quiet: bool

    @classmethod
    def taken(cls, out: Path, options: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """What is asked of the output, and the options that are left: the limits."""
        names = {field.name for field in fields(cls)} - {"out"}
        limits = {name: value for name, value in options.items() if name not in names}
        return cls(out, **{name: options[name] for name in names}), limits


def carry_out(make_plan: Callable[[], Plan], asked: Asked, more: Callable[[], Mapping[str, Any]] | None = None) -> None:
    """Plan, carry out, and say what was done; ``more`` is told beside that, where the result is for machines."""
    from stockpot.cli.plan import show_plan
    from stockpot.execute.local import execute
    from stockpot.execute.workplace import kept

    out, quiet = asked.out, asked.quiet
    click.get_current_context().obj.on_stop = lambda: _how_to_continue(out)
    started = time.perf_counter()
    plan = make_plan()
    if asked.dry_run:
        show_plan(plan, out, asked.as_json)
        return
    if not quiet:
        show_notes(plan.notes)
        if not asked.restart and (done := kept(out)[0]):
            say(f"continuing: {done} of {len(plan.steps)} tensors are finished; their hashes are checked", error=True)
        _announce_compilation()
    how = {"overwrite": asked.overwrite, "restart": asked.restart, "durable": not asked.no_sync}
    with progress_bar("merging", quiet=quiet or asked.as_json) as progress:
        result = execute(plan, out, progress=progress, **how)
    seconds = time.perf_counter() - started
    if asked.as_json:
        told = {"seconds": round(seconds, 3), "written": plan.cost.written, "resumed": result.resumed}
        print_json({"out": str(result.folder), **told, **(more() if more is not None else {})})
    elif not quiet:
        rate = (plan.cost.read + plan.cost.written) / seconds
        resumed = f", {result.resumed} of them kept from before" if result.resumed else f" ({human(rate)}/s)"
        say(f"{out}: {len(plan.steps)} tensors, {human(plan.cost.written)} in {seconds:.1f} s{resumed}")


def _how_to_continue(out: Path) -> str:
    from stockpot.errors import StorageError
    from stockpot.execute.workplace import kept

    try:
        done, folder = kept(out)
    except StorageError as error:
        return f"stockpot: stopped; {error}"
    if not done:
        return "stockpot: stopped; no tensor was finished"
    return f"stockpot: stopped; {done} tensors are finished and kept in {folder}: the same command continues"


def _announce_compilation() -> None:
    from stockpot.kernels.compile import cache_folder

    if not any(cache_folder().rglob("*.nbi")):
        say(f"compiling kernels for this processor, once; kept in {cache_folder()}", error=True)
