"""``stockpot reproduce [NAME…]``: claims of the literature in miniature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stockpot.cli.options import say
from stockpot.cli.reports import check_writable, command_line, write_reports
from stockpot.errors import RecipeError, StockpotError

if TYPE_CHECKING:
    from stockpot.reproduce import Claim, Outcome

__all__ = ["command"]

_FOLDER = click.Path(file_okay=False, path_type=Path)
_OUT = click.Path(allow_dash=True, dir_okay=False, path_type=Path)


@click.command("reproduce")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--bed", default=None, help="What it is tried on, or all [default: the first that the data allows].")
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

    Without NAME, the claims are listed; all measures every one that the data allows, on one bed each
    unless --bed all is given. The exit code is 1 when a claim does not hold, or one of several cannot be measured.
    """
    from stockpot.evaluate.background import Background
    from stockpot.reproduce import Outcome
    from stockpot.reproduce.told import outcome_page, summary_told

    if not names:
        _list()
        return 0
    check_writable(json_path, html_path)
    numbers, claims = _seeds(seeds), _claims(names)
    asked = _Asked(bed, data, numbers, folder, quiet, str(json_path) == "-")
    pairs = [pair for claim in claims for pair in asked.pairs(claim, strict=names != ("all",))]
    results = [asked.measured(claim, on, alone=len(pairs) == 1) for claim, on in pairs]
    found = [one for one in results if isinstance(one, Outcome)]
    for line in summary_told(found) if len(found) > 1 and not asked.machine else ():
        say(line, lines=False)
    told = [one.as_data() if isinstance(one, Outcome) else one for one in results]
    run = Background.now(command=command_line())
    write_reports({"json_path": json_path, "html_path": html_path}, told, lambda: outcome_page(found, run))
    return 0 if found and len(found) == len(results) and all(outcome.held for outcome in found) else 1


@dataclass(frozen=True)
class _Asked:
    """How claims are to be measured, and whether only JSON is printed."""

    bed: str | None
    data: Path | None
    seeds: Sequence[int]
    folder: Path | None
    quiet: bool
    machine: bool

    def pairs(self, claim: Claim, *, strict: bool) -> list[tuple[Claim, str | None]]:
        """The claim with each bed that is asked for; a line tells which cannot be had.

        Args:
            strict: Whether the claim was named: that it cannot be tried at all is then an error when it is measured.
        """
        every = self.bed == "all"
        wanted = [bed.name for bed in claim.beds] if every else [self.bed]
        if strict and not every:
            return [(claim, self.bed)]
        found: list[tuple[Claim, str | None]] = [(claim, bed) for bed in wanted if self._can(claim, bed)]
        return found or [(claim, None)] if strict else found

    def _can(self, claim: Claim, bed: str | None) -> bool:
        from stockpot.evaluate.run import told as told_error
        from stockpot.reproduce import bed_of

        try:
            bed_of(claim, bed, self.data)
        except RecipeError as error:
            say(f"left out: {told_error(error)}", error=True, lines=False)
            return False
        return True

    def measured(self, claim: Claim, bed: str | None, *, alone: bool) -> Outcome | dict[str, str | None]:
        """The outcome, told; an error, unless the claim is the only one, is told and is what is returned."""
        from stockpot.evaluate.run import told as told_error
        from stockpot.reproduce import reproduce
        from stockpot.reproduce.told import outcome_told

        try:
            outcome = reproduce(
                claim, bed=bed, data=self.data, seeds=self.seeds, folder=self.folder, tell=self._progress
            )
        except StockpotError as error:
            if alone:
                raise
            message = told_error(error)
            on = f" on {bed}" if bed else ""
            say(f"NOT MEASURED: {claim.name}{on}: {message}", error=True, lines=False)
            return {"name": claim.name, "bed": bed, "error": message}
        for line in () if self.machine else (*outcome_told(outcome), ""):
            say(line, lines=False)
        return outcome

    def _progress(self, line: str) -> None:
        if not self.quiet:
            say(line, error=True, lines=False)


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

    width = max(map(len, CLAIMS), default=0)
    for claim in CLAIMS.values():
        beds = ", ".join(f"{bed.name}{'' if bed.needs_data else ' (no data needed)'}" for bed in claim.beds)
        say(f"{claim.name:<{width}}  {claim.title}", lines=False)
        say(f"{'':<{width}}  on {beds}", lines=False)
