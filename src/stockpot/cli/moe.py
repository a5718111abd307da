"""``stockpot moe RECIPE OUT``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stockpot.cli.merge import Asked, carry_out, output_options
from stockpot.cli.options import limit_options, recipe_options, say

if TYPE_CHECKING:
    from stockpot.moe.build import Mixed

__all__ = ["command"]


@click.command("moe")
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--router",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="File of the router's rows, made where it is missing [default: OUT.router.safetensors].",
)
@click.option("--measure", is_flag=True, help="Run the base over the prompts to measure any router's routing.")
@limit_options
@recipe_options
@output_options
def command(recipe: Path, out: Path, router: Path | None, measure: bool, **options: Any) -> None:
    """Make a mixture of experts of dense models, as RECIPE says, in the folder OUT.

    RECIPE is written as for mergekit-moe: base_model, experts with source_model and positive_prompts, gate_mode. For
    every layer and expert it is told which share of tokens goes there, and how many held-out ones go where they
    should; a router that hardly does better than chance is warned of.
    """
    asked, limits = Asked.taken(out, options)
    made: list[Mixed] = []

    def plan() -> Any:
        made.append(_planned(recipe, asked, limits, router, measure))
        return made[0].plan

    def told() -> dict[str, Any]:
        return {"router": str(made[0].router), "routing": _data(made[0])}

    carry_out(plan, asked, told)
    if not (asked.as_json or asked.quiet or asked.dry_run):
        _show(made[0])


def _planned(recipe: Path, asked: Asked, limits: dict[str, Any], router: Path | None, measure: bool) -> Mixed:
    import os

    from stockpot.execute.workplace import published
    from stockpot.moe.build import planned
    from stockpot.planning.model import Limits
    from stockpot.recipe.mixture import load_mixture

    reading = {name: limits[name] for name in ("lenient", "seed", "allow_code")}
    found = load_mixture(recipe, **reading)
    return planned(
        found,
        asked.out,
        Limits(limits["memory"], limits["threads"] or os.cpu_count() or 1, limits["shard_size"]),
        router=router,
        measure=measure,
        overwrite=asked.overwrite or published(asked.out),
        again=asked.restart,
        dry=asked.dry_run,
    )


def _data(made: Mixed) -> dict[str, Any] | None:
    return None if made.routing is None else made.routing.as_data()


def _show(made: Mixed) -> None:
    from stockpot.moe.routing import table

    if made.routing is None:
        say(f"the router {made.router} was not made here: nothing is known of how it routes")
        return
    for line in table(made.routing):
        say(line, error=line.startswith("warning: "), lines=False)
    say(f"the router lies in {made.router}: stockpot reproduce-merge needs it")
