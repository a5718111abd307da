"""``stockpot reproduce [NAME…]``: claims of the literature in miniature."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stockpot.cli.options import say
from stockpot.cli.reports import check_writable, write_reports

if TYPE_CHECKING:
    from stockpot.reproduce import Claim

__all__ = ["command"]

_FOLDER = click.Path(file_okay=False, path_type=Path)
_OUT = click.Path(allow_dash=True, dir_okay=False, path_type=Path)


@click.command("reproduce")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--bed", default=None, help="What it is tried on [default: the first that the data allows].")
@click.option("--data", type=_FOLDER, envvar="STOCKPOT_DATA", default=None, help="Folder of data [STOCKPOT_DATA].")
@click.option("--seeds", default="0,1,2", show_default=True, help="Medians are over these.")
@click.option("--keep", "folder", type=_FOLDER, default=None, help="Keep models and suites in this folder.")
@click.option("--json", "json_path", type=_OUT, default=None, help="Write the result for machines; - prints it.")
@click.option("--html", "html_path", type=_OUT, default=None, help="Write the report as one HTML file.")
@click.option("--quiet", is_flag=True, help="Print no progress.")
def command(
    names: tuple[str, ...],
    bed: str | None,
    data: Path | None,
    seeds: str,
    folder: Path | None,
    json_path: Path | None,
    html_path: Path | None,
    quiet: bool,
) -> int:
    """Measure claims of the literature in miniature, the paper's figures beside ours.

    Without NAME, the claims are listed; all measures every one. The exit code is 1 when a claim does not hold.
    """
    from stockpot.reproduce import reproduce
    from stockpot.reproduce.told import outcome_page, outcome_told

    if not names:
        _list()
        return 0
    check_writable(json_path, html_path)
    numbers = _seeds(seeds)
    machine = str(json_path) == "-"
    found = []
    for claim in _claims(names):
        tell = (lambda _: None) if quiet else (lambda line: say(line, error=True, lines=False))
        found.append(reproduce(claim, bed=bed, data=data, seeds=numbers, folder=folder, tell=tell))
        for line in () if machine else (*outcome_told(found[-1]), ""):
            say(line, lines=False)
    write_reports(
        {"json_path": json_path, "html_path": html_path},
        [outcome.as_data() for outcome in found],
        lambda: outcome_page(found),
    )
    return 0 if all(outcome.held for outcome in found) else 1


def _claims(names: tuple[str, ...]) -> list[Claim]:
    from stockpot.recipe.known import nearest
    from stockpot.reproduce import CLAIMS

    if names == ("all",):
        return list(CLAIMS.values())
    for name in names:
        if name not in CLAIMS:
            near = nearest(name, CLAIMS)
            hint = f"did you mean {near}? " if near else ""
            raise click.BadParameter(f"there is no claim {name!r}: {hint}one of {', '.join(CLAIMS)}, or all")
    return [CLAIMS[name] for name in names]


def _seeds(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 0:
        raise click.BadParameter(f"{text!r} is no list of whole numbers from 0 on, such as 0,1,2")
    return found


def _list() -> None:
    from stockpot.reproduce import CLAIMS

    for claim in CLAIMS.values():
        beds = ", ".join(f"{bed.name}{'' if bed.needs_data else ' (no data needed)'}" for bed in claim.beds)
        say(f"{claim.name}: {claim.title} [{beds}]", lines=False)
