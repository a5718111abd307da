"""Outcomes of claims as text and as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stockpot.evaluate.page import document, escaped, grid
from stockpot.reproduce.claim import Asked, Measure
from stockpot.reproduce.run import Outcome

__all__ = ["outcome_page", "outcome_told", "summary_told"]

_HEAD = ("", "paper", "ours, median", "over seeds", "asked", "")


def outcome_told(outcome: Outcome) -> Iterator[str]:
    """The claim, a table of the paper's figures beside ours, and the verdict."""
    claim = outcome.claim
    yield f"{claim.title}"
    yield f"  {claim.source}"
    yield f"  on {outcome.bed.about}; seeds {', '.join(map(str, outcome.seeds))}; {outcome.seconds:.0f} s"
    rows = [_HEAD, *(_row(outcome, measure) for measure in claim.measures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if papers := _papers(outcome):
        yield f"  {papers}"
    if claim.notes:
        yield f"  {claim.notes}"
    yield verdict(outcome)


def summary_told(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """One line for each outcome, and how many hold."""
    for outcome in outcomes:
        yield verdict(outcome)
    yield f"{sum(outcome.held for outcome in outcomes)} of {len(outcomes)} hold"


def verdict(outcome: Outcome) -> str:
    """In a sentence whether the claim holds."""
    name = f"{outcome.claim.name} on {outcome.bed.name}"
    if outcome.held:
        return f"HOLDS: {name}"
    failed = [f"{a.measure} is {_number(outcome.median(a.measure))}, asked {a}" for a in _missed(outcome)]
    known = f" Known: {outcome.bed.known}" if outcome.bed.known else ""
    return f"DOES NOT HOLD: {name}: {'; '.join(failed)}.{known}"


def outcome_page(outcomes: Sequence[Outcome]) -> str:
    """All outcomes in one file that needs no network."""
    lines = ["<h1>Claims, reproduced in miniature</h1>", *(_summary(outcomes) if len(outcomes) > 1 else ())]
    for outcome in outcomes:
        claim = outcome.claim
        lines += [
            f"<h2 id={_anchor(outcome)}>{escaped(claim.title)}</h2>",
            f"<p class=dim>{escaped(claim.source)}. Tried on {escaped(outcome.bed.about)}; seeds "
            f"{', '.join(map(str, outcome.seeds))}; {outcome.seconds:.0f} s.</p>",
            grid(_HEAD, [_cells(outcome, measure) for measure in claim.measures]),
            *([f"<p class=dim>{escaped(papers)}</p>"] if (papers := _papers(outcome)) else []),
            *([f"<p>{escaped(claim.notes)}</p>"] if claim.notes else []),
            f"<p{'' if outcome.held else ' class=bad'}><b>{escaped(verdict(outcome))}</b></p>",
        ]
    return document("Claims, reproduced in miniature", lines)


def _summary(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Which claims hold, each with a link to its table."""
    rows = [
        (
            f'<a href="#{_anchor(outcome)}">{escaped(outcome.claim.name)}</a>',
            escaped(outcome.bed.name),
            "holds" if outcome.held else "<b class=bad>does not hold</b>",
            escaped(outcome.claim.title),
        )
        for outcome in outcomes
    ]
    yield f"<p>{sum(outcome.held for outcome in outcomes)} of {len(outcomes)} hold.</p>"
    yield grid(("claim", "on", "", ""), rows)


def _anchor(outcome: Outcome) -> str:
    return escaped(f"{outcome.claim.name}-{outcome.bed.name}")


def _papers(outcome: Outcome) -> str:
    """Where the paper's figures stand."""
    told = [f"{m.about}: {m.where}" for m in outcome.claim.measures if m.where]
    return f"Paper: {'; '.join(told)}." if told else ""


def _cells(outcome: Outcome, measure: Measure) -> tuple[str, ...]:
    *cells, held = map(escaped, _row(outcome, measure))
    return (*cells, f"<b class=bad>{held}</b>" if held == "FAILS" else held)


def _row(outcome: Outcome, measure: Measure) -> tuple[str, ...]:
    low, high = outcome.spread(measure.name)
    asked = [a for a in outcome.claim.asked if a.measure == measure.name]
    held = "" if not asked else ("holds" if all(map(outcome.holds, asked)) else "FAILS")
    paper = "" if measure.paper is None else _number(measure.paper)
    spread = f"{_number(low)} to {_number(high)}"
    return (measure.about, paper, _number(outcome.median(measure.name)), spread, "; ".join(map(str, asked)), held)


def _missed(outcome: Outcome) -> list[Asked]:
    return [asked for asked in outcome.claim.asked if not outcome.holds(asked)]


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}"
