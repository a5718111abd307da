"""``stockpot soup MODEL… --suite suite.yml [--out OUT]``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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
    winner_options,
    write_reports,
    write_winner,
)

if TYPE_CHECKING:
    from stockpot.search import Soup

__all__ = ["command"]

_KIND = click.Choice(["greedy", "uniform", "diwa", "ratatouille", "learned", "cocktail"])
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
@click.option("--per", type=click.Choice(["model", "tensor"]), default=None, help="Of learned: what has a share.")
@click.option(
    "--epochs", type=click.IntRange(1), default=None, help="Of learned: how often data is seen.  [default: 5]"
)
@click.option("--rate", type=float, default=None, help="Of learned: Adam's learning rate.  [default: 0.05]")
@click.option("--batch", type=click.IntRange(1), default=None, help="Of learned: examples in a step.  [default: 32]")
@click.option(
    "--temperature",
    "temperatures",
    type=float,
    multiple=True,
    help="Of cocktail: of the softmax of losses; of several, select data chooses.  [default: 5]",
)
@click.option("--target", default=None, help="Of cocktail: a model with a share of its own.")
@click.option("--share", type=float, default=None, help="Of cocktail: that share.  [default: 0.5]")
@click.option(
    "--fit",
    type=click.Choice(["tune", "select"]),
    default=None,
    help="Of learned and cocktail: the data that shares are found on.  [default: tune]",
)
@winner_options
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
    asked["how"] = _how(options)
    with cache_of(options) as cache:
        found = soup(given, suite, cache=cache, tell=teller(options), **asked)
    told = found.as_data() | {"out": None if out is None or not found.sound else str(out)}
    write_winner(found.recipe, out if found.sound else None, options)
    write_reports(options, told, lambda: soup_page(found, background_of(suite, options, soup_lineage(found, given))))
    if str(options["json_path"]) != "-":
        _show(found)
    if out is not None and not found.sound:
        say(f"{found.name} could not be measured: {out} was not written", error=True)
    return 1 if found.failed else 0


_OWN = {
    "learned": ("per", "epochs", "rate", "batch", "fit"),
    "cocktail": ("temperatures", "target", "share", "fit"),
}
"""Kind → options that only it takes."""


def _how(options: dict[str, Any]) -> Any:
    """How shares are found, for kinds of soups that have some.

    Raises:
        UsageError: for options of another kind.
    """
    from stockpot.search import Learning, Mixing

    kind = options["kind"]
    given = {name: options[name] for own in _OWN.values() for name in own if options[name] not in (None, ())}
    wrong = [name for name in given if name not in _OWN.get(kind, ())]
    if wrong:
        name = "temperature" if wrong[0] == "temperatures" else wrong[0]
        raise click.UsageError(f"--{name} has no meaning for a soup of the kind {kind}")
    if "share" in given and "target" not in given:
        raise click.UsageError("--share is that of --target MODEL")
    if "target" in given:
        (given["target"],) = models_of([given["target"]], options)
    if kind == "learned":
        return Learning(**given, **({} if options["seed"] is None else {"seed": options["seed"]}))
    return Mixing(**given) if kind == "cocktail" else None


def _show(found: Soup) -> None:
    from stockpot.search.told import soup_told

    show_tables(found.select, found.report)
    for line in soup_told(found):
        say(line, lines=False)
