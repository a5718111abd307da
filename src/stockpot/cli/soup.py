"""``stockpot soup MODEL… --suite suite.yml [--out OUT]``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stockpot.cli.merge import Asked, carry_out
from stockpot.cli.options import say
from stockpot.cli.reports import (
    background_of,
    cache_of,
    check_out,
    models_of,
    show_tables,
    suite_of,
    suite_options,
    teller,
    write_reports,
)

if TYPE_CHECKING:
    from stockpot.search import Soup

__all__ = ["command"]

_KIND = click.Choice(["greedy", "uniform", "diwa", "ratatouille"])
_AVERAGE = click.Choice(["probabilities", "logits"])


@click.command("soup")
@click.argument("models", nargs=-1, required=True)
@click.option("--kind", type=_KIND, default="greedy", show_default=True, help="Which soup.")
@click.option("--metric", "metrics", multiple=True, help="TASK.METRIC that chooses; of several, their mean.")
@click.option("--strict", is_flag=True, help="Keep a model only if the soup gets better, not if it is as good.")
@click.option(
    "--ensemble",
    "ensembles",
    type=_AVERAGE,
    multiple=True,
    default=["probabilities"],
    show_default=True,
    help="What the output ensemble beside the soup averages; may be given twice.",
)
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Write the soup to this folder.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option("--no-sync", is_flag=True, help="Do not wait until the disk has everything before OUT appears.")
@suite_options
def command(models: tuple[str, ...], suite_path: Path, out: Path | None, **options: Any) -> int:
    """Average those of MODELS, fine-tunes of one start, that help.

    Models are chosen on the select data of the suite. The table has each of them, the soup, and the ensemble of the
    soup's members, on select data (marked) and on report data. The exit code is 1 when something could not be measured.
    """
    from stockpot.search import soup
    from stockpot.search.page import soup_lineage, soup_page

    suite = suite_of(suite_path, options)
    given = models_of(models, options)
    check_out(out, options["overwrite"])
    asked = {key: options[key] for key in ("kind", "strict", "metrics", "ensembles", "device")}
    with cache_of(options) as cache:
        found = soup(given, suite, cache=cache, tell=teller(options), **asked)
    told = found.as_data() | {"out": None if out is None or not found.sound else str(out)}
    machine = str(options["json_path"]) == "-"
    if out is not None and found.sound:
        _write(found, out, options, quiet=machine)
    write_reports(options, told, lambda: soup_page(found, background_of(suite, options, soup_lineage(found, given))))
    if not machine:
        _show(found)
    if out is not None and not found.sound:
        say(f"{found.name} could not be measured: {out} was not written", error=True)
    return 1 if found.failed else 0


def _write(found: Soup, out: Path, options: dict[str, Any], *, quiet: bool) -> None:
    from stockpot.api import plan

    limits = {key: options[key] for key in ("memory", "threads")}
    asked = Asked(
        out,
        overwrite=options["overwrite"],
        restart=False,
        no_sync=options["no_sync"],
        dry_run=False,
        as_json=False,
        quiet=quiet or options["quiet"],
    )
    carry_out(lambda: plan(found.recipe, out, overwrite=asked.overwrite, **limits), asked)


def _show(found: Soup) -> None:
    from stockpot.search.told import soup_told

    show_tables(found.select, found.report)
    for line in soup_told(found):
        say(line, lines=False)
