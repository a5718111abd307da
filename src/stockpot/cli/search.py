"""``stockpot search RECIPE --suite suite.yml``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stockpot.cli.options import say
from stockpot.cli.reports import (
    background_of,
    cache_of,
    check_out,
    check_writable,
    show_tables,
    suite_of,
    suite_options,
    teller,
    winner_options,
    write_reports,
    write_winner,
)

if TYPE_CHECKING:
    from stockpot.search import Search
    from stockpot.search.tuning.rounds import Progress

    _SharesType = click.ParamType[tuple[float, ...]]
else:
    _SharesType = click.ParamType  # generic since click 8.2

__all__ = ["command"]


class _Shares(_SharesType):
    """Shares of the data: ``0.1,0.3,1``."""

    name = "shares"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of shares; write 0.1,0.3,1", param, ctx)


_SAMPLER = click.Choice(["tpe", "cma-es", "nsga2", "random", "grid"])
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("search")
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--trials", type=click.IntRange(1), default=100, show_default=True, help="Trials in all.")
@click.option("--sampler", type=_SAMPLER, default=None, help="Where to look next [default: tpe; nsga2 with --pareto].")
@click.option("--metric", "metrics", multiple=True, help="TASK.METRIC that chooses; of several, their mean.")
@click.option("--pareto", multiple=True, help="TASK.METRIC, twice or more: a front instead of one winner.")
@click.option("--rungs", type=_Shares(), default=(1.0,), help="Shares of data, such as 0.1,0.3,1: bad trials stop.")
@click.option(
    "--top", type=click.IntRange(1), default=5, show_default=True, help="Best trials measured on select data."
)
@click.option("--random", type=click.IntRange(0), default=None, help="Random search's trials [default: as --trials].")
@click.option("--lambda-points", type=click.IntRange(0), default=11, show_default=True, help="Of one number for all.")
@click.option("--grid-points", type=click.IntRange(2), default=5, show_default=True, help="Grid: values of a range.")
@click.option("--study", type=_FILE, default=None, help="SQLite file of the trials [default: RECIPE.search.sqlite].")
@click.option("--jobs", type=click.IntRange(0), default=1, show_default=True, help="Processes; 0: within this one.")
@click.option("--trial-seconds", type=float, default=None, help="A trial that takes longer has failed.")
@click.option("--recipe-out", type=_FILE, default=None, help="Write the winner's recipe to this file.")
@winner_options
@suite_options
def command(recipe: Path, suite_path: Path, out: Path | None, **options: Any) -> int:
    """Find values for what RECIPE leaves open, such as weight: {search: [0, 1]}.

    Trials are measured on the tune data of the suite, the best few on select data, and the winner on report data beside
    the best single model, the best single number and random search. The same command continues a search that was
    stopped. The exit code is 1 when something in the tables could not be measured.
    """
    from stockpot.evaluate import load_suite
    from stockpot.search import load_space, search
    from stockpot.search.tuning.page import search_lineage, search_page

    suite = suite_of(suite_path, options)
    check_out(out, options["overwrite"])
    _check_recipe_out(options["recipe_out"], (recipe, suite_path))
    own = {key: options[key] for key in ("lenient", "seed", "allow_code")}
    space = load_space(recipe, **own)
    study = options["study"] or recipe.with_name(f"{recipe.name}.search.sqlite")
    click.get_current_context().obj.on_stop = partial(_how_to_continue, study)
    asked = {
        key: options[key]
        for key in ("trials", "sampler", "metrics", "pareto", "rungs", "top", "random", "lambda_points", "grid_points",
                    "jobs", "trial_seconds", "device")
    }  # fmt: skip
    loader = partial(load_suite, suite_path, allow_code=options["allow_code"], same_data=options["same_data"])
    limits = {key: options[key] for key in ("memory", "threads", "seed") if options[key] is not None}
    tell_trial = None if options["quiet"] else _progress
    with cache_of(options) as cache:
        found = search(
            space, suite, name=str(recipe), study=study, seed=options["seed"] or 0, loader=loader, limits=limits,
            cache=cache, tell=teller(options), tell_trial=tell_trial, **asked,
        )  # fmt: skip
    _write_recipe(found, options["recipe_out"])
    write_winner(found.recipe, out, options)
    told = found.as_data() | {"out": None if out is None else str(out)}
    write_reports(options, told, lambda: search_page(found, background_of(suite, options, search_lineage(found))))
    if str(options["json_path"]) != "-":
        _show(found)
    return 1 if found.failed else 0


def _progress(one: Progress) -> None:
    from stockpot.search.tuning.told import progress_told

    say(progress_told(one), error=True, lines=False)


def _how_to_continue(study: Path) -> str:
    return (
        f"stockpot: stopped; the trials that have ended are kept in {study}: the same command continues, and with "
        "--trials and --random no more than have ended it tells the best of these"
    )


def _check_recipe_out(path: Path | None, own: Sequence[Path]) -> None:
    """The winner's recipe does not take the place of what it was searched with."""
    check_writable(path)
    if path is not None and path.exists() and any(path.samefile(one) for one in own):
        raise click.BadParameter(f"{path} is what is searched with; name another file", param_hint="--recipe-out")


def _write_recipe(found: Search, path: Path | None) -> None:
    """The winner's recipe, where it is asked for."""
    from stockpot.checkpoint.storage import write_file

    if path is None:
        return
    if path.resolve().parent != Path(found.name).resolve().parent:
        say(f"note: {path} is to be run from the folder of {found.name}, which its models are relative to", error=True)
    write_file(path, (found.recipe.text.encode("utf-8", "surrogatepass"),), durable=False)


def _show(found: Search) -> None:
    from stockpot.search.tuning.told import search_told

    show_tables(found.tune, found.select, found.report)
    for line in search_told(found):
        say(line, lines=False)
