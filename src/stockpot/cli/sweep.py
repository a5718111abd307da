"""``stockpot sweep KIND MODEL… --suite suite.yml``."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stockpot.cli.options import say
from stockpot.cli.reports import (
    background_of,
    cache_of,
    models_of,
    show_tables,
    suite_of,
    suite_options,
    teller,
    write_reports,
)

if TYPE_CHECKING:
    _ListType = click.ParamType[tuple[float, ...]]
else:
    _ListType = click.ParamType  # generic since click 8.2

__all__ = ["command"]

_MOST = 10_000


class _Values(_ListType):
    """Numbers: ``0,0.5,1`` or ``low:high:step``, whose ends belong to it."""

    name = "values"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            if ":" not in value:
                return tuple(float(Decimal(part.strip())) for part in value.split(","))
            low, high, step = (Decimal(part.strip()) for part in value.split(":"))
            count = int((high - low) / step) if step > 0 else -1
        except (InvalidOperation, ValueError, OverflowError):
            self.fail(f"{value!r} is no list of numbers; write 0,0.5,1 or 0:1:0.05", param, ctx)
        if not 0 <= count <= _MOST:
            self.fail(f"{value!r} has no values, or too many; write low:high:step", param, ctx)
        return tuple(float(low + i * step) for i in range(count + 1))


@click.command("sweep")
@click.argument("kind", type=click.Choice(["interpolate", "add", "negate", "analogy"]))
@click.argument("models", nargs=-1, required=True)
@click.option("--values", type=_Values(), default=(), help="0,0.5,1 or low:high:step [default: from 0 to 1].")
@click.option(
    "--split",
    type=click.Choice(["tune", "select", "report"]),
    default="select",
    show_default=True,
    help="Data of the curve; on report data nothing is chosen.",
)
@click.option("--metric", "metrics", multiple=True, help="TASK.METRIC that chooses; of several, their mean.")
@click.option("--control", multiple=True, help="negate: TASK.METRIC that must be kept; of several, their mean.")
@click.option("--keep", type=float, default=0.95, show_default=True, help="negate: share of the control to keep.")
@click.option(
    "--normalised/--no-normalised",
    default=None,
    help="add: choose by the mean of figures relative to fine-tuned models [default: if all rank higher is better].",
)
@click.option("--own", multiple=True, help="add: MODEL=TASK that is relative to it [default: the best at each task].")
@click.option(
    "--random-control/--no-random-control",
    default=None,
    help="Measure a random vector of the same norm too [default: for negate].",
)
@click.option("--target", multiple=True, help="Scatter: TASK.METRIC of target data [default: the first task].")
@click.option("--shifted", multiple=True, help="Scatter: TASK.METRIC of shifted data [default: the other tasks].")
@suite_options
def command(kind: str, models: tuple[str, ...], suite_path: Path, **options: Any) -> int:
    """Draw the curve of a family of merges over its number, and choose a value.

    \b
    interpolate A B      (1 - alpha) A + alpha B; WiSE-FT where A is the start of B; any alpha
    add BASE MODEL…      BASE + lambda (sum of MODEL - BASE)
    negate BASE MODEL    BASE - lambda (MODEL - BASE), as far as a control is kept
    analogy A B C        C + lambda (B - A): A is to B as C is to the result

    Models are read once. Without --metric, add chooses by the mean of normalised figures; negate has a random vector
    of the same norm beside it. Start, end and chosen point are measured on report data too. --html has the curves. The
    exit code is 1 when a point failed.
    """  # noqa: D301 - click knows a paragraph that is not to be wrapped by a backspace
    from stockpot.search import sweep
    from stockpot.search.page import sweep_lineage, sweep_page
    from stockpot.search.told import sweep_told

    suite = suite_of(suite_path, options)
    given = models_of(models, options)
    asked = {key: options[key] for key in ("values", "split", "metrics", "control", "keep", "device")}
    asked |= {key: options[key] for key in ("normalised", "random_control")} | {"own": _owners(options["own"])}
    axes = (options["target"], options["shifted"])
    with cache_of(options) as cache:
        found = sweep(kind, given, suite, axes=axes, cache=cache, tell=teller(options), **asked)
    write_reports(
        options, found.as_data(), lambda: sweep_page(found, background_of(suite, options, sweep_lineage(found, given)))
    )
    if str(options["json_path"]) != "-":
        show_tables(found.tunes, found.curve, found.random, found.report)
        for line in sweep_told(found):
            say(line, lines=False)
    return 1 if found.failed else 0


def _owners(given: Sequence[str]) -> dict[str, str]:
    """Task → model, of MODEL=TASK."""
    found: dict[str, str] = {}
    for text in given:
        model, equals, task = text.rpartition("=")
        if not (model and equals and task) or task in found:
            wrong = f"{task} has one owner" if task in found else f"{text!r} is not MODEL=TASK"
            raise click.BadParameter(wrong, param_hint="--own")
        found[task] = model
    return found
