"""``stockpot evaluate MODEL… --suite suite.yml``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stockpot.cli.options import say
from stockpot.cli.reports import (
    attempted_of,
    background_of,
    cache_of,
    show_tables,
    suite_of,
    suite_options,
    teller,
    write_reports,
)

if TYPE_CHECKING:
    from stockpot.evaluate import Candidate, Ensemble, Result
    from stockpot.evaluate.ensemble import Average

__all__ = ["command"]

_SPLIT = click.Choice(["tune", "select", "report"])


@click.command("evaluate")
@click.argument("models", nargs=-1, required=True)
@click.option("--split", type=_SPLIT, default="report", show_default=True, help="Which data.")
@click.option("--reference", default=None, help="Model that retention is relative to [default: each task's best].")
@click.option("--why", is_flag=True, help="Compare the first (base), middle (fine-tuned) and last (merged) model.")
@click.option(
    "--ensemble",
    "ensembles",
    type=click.Choice(["probabilities", "logits"]),
    multiple=True,
    help="Add the mean outputs of those MODELS that are no recipes; may be given twice.",
)
@suite_options
def command(models: tuple[str, ...], suite_path: Path, **options: Any) -> int:
    """Measure MODELS on the tasks of a suite; nothing is merged to disk.

    A MODEL is a folder, a file, a hub id, MODEL+ADAPTER, or a recipe (.yml). Differences are to the first one.
    Predictions are kept, so that nothing is computed twice. The exit code is 1 when a model failed on a task; a recipe
    that is wrong is a failed model, unless all are.
    """
    from stockpot.evaluate import evaluate
    from stockpot.evaluate.background import lineages
    from stockpot.evaluate.page import page

    suite = suite_of(suite_path, options)
    given = attempted_of(models, options)
    asked = {key: options[key] for key in ("split", "reference", "device")}
    asked["ensembles"] = _ensembles(given, options["ensembles"])
    with cache_of(options) as cache:
        result = evaluate(given, suite, cache=cache, tell=teller(options), **asked)
    write_reports(options, result.as_data(), lambda: page(result, background_of(suite, options, lineages(given))))
    if str(options["json_path"]) != "-":
        show_tables(result)
        _show_why(result, options["why"])
    return 1 if result.failed else 0


def _ensembles(given: Sequence[Candidate], averages: Sequence[Average]) -> list[Ensemble]:
    """The ensembles of stored models that are asked for.

    Raises:
        UsageError: when there are not two.
    """
    from stockpot.evaluate import Ensemble
    from stockpot.evaluate.candidates import named
    from stockpot.recipe.model import Recipe

    members = tuple(one.name for one in named(given) if one.error is None and not isinstance(one.what, Recipe))
    if averages and len(members) < 2:
        raise click.UsageError("--ensemble takes two MODELS or more that are no recipes")
    labels = {"probabilities": "", "logits": " (logits)"}
    return [Ensemble(f"ensemble of {len(members)}{labels[of]}", members, of) for of in dict.fromkeys(averages)]


def _show_why(result: Result, why: bool) -> None:
    from stockpot.evaluate.table import why_told

    if not why:
        return
    say("")
    for line in why_told(result.triples):
        say(line, lines=False)
    if not result.triples:
        say("nothing to compare example by example: that takes three models on a task of classes")
