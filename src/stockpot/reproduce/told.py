"""Outcomes of claims as text and as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stockpot.evaluate.background import Background
from stockpot.evaluate.page import about, document, escaped, grid
from stockpot.reproduce.claim import Asked, Measure
from stockpot.reproduce.run import Outcome
from stockpot.search.plots import Strip, strips

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


def outcome_page(outcomes: Sequence[Outcome], run: Background | None = None) -> str:
    """All outcomes in one file that needs no network."""
    lines = ["<h1>Claims, reproduced in miniature</h1>", *(_summary(outcomes) if len(outcomes) > 1 else ())]
    for outcome in outcomes:
        claim = outcome.claim
        lines += [
            f"<h2 id={_anchor(outcome)}>{escaped(claim.title)}</h2>",
            f"<p class=dim>{escaped(claim.source)}. Tried on {escaped(outcome.bed.about)}; seeds "
            f"{', '.join(map(str, outcome.seeds))}; {outcome.seconds:.0f} s.</p>",
            f"<p{'' if outcome.held else ' class=bad'}><b>{escaped(verdict(outcome))}</b></p>",
            _picture(outcome),
            grid(_HEAD, [_cells(outcome, measure) for measure in claim.measures]),
            *([f"<p class=dim>{escaped(papers)}</p>"] if (papers := _papers(outcome)) else []),
            *([f"<p>{escaped(claim.notes)}</p>"] if claim.notes else []),
        ]
    return document("Claims, reproduced in miniature", [*lines, *about(run)])


def _picture(outcome: Outcome) -> str:
    """Each measure with every seed, the median, the paper's figure, and what is asked."""
    own = [_strip(outcome, measure) for measure in outcome.claim.measures]
    return strips(own, value="a seed", middle="median", other="the paper's figure", asked="what is asked")


def _strip(outcome: Outcome, measure: Measure) -> Strip:
    asked = [one for one in outcome.claim.asked if one.measure == measure.name]
    lows = [bound for one in asked for bound in (one.at_least, one.above) if bound is not None]
    highs = [one.at_most for one in asked if one.at_most is not None]
    return Strip(
        measure.about,
        tuple(run[measure.name] for run in outcome.runs),
        outcome.median(measure.name),
        outcome.bed.paper(measure)[0],
        max(lows, default=None),
        min(highs, default=None),
        all(map(outcome.holds, asked)),
    )


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
    places = [(measure.about, outcome.bed.paper(measure)[1]) for measure in outcome.claim.measures]
    told = [f"{about}: {where}" for about, where in places if where]
    return f"Paper: {'; '.join(told)}." if told else ""


def _cells(outcome: Outcome, measure: Measure) -> tuple[str, ...]:
    *cells, held = map(escaped, _row(outcome, measure))
    return (*cells, f"<b class=bad>{held}</b>" if held == "FAILS" else held)


def _row(outcome: Outcome, measure: Measure) -> tuple[str, ...]:
    low, high = outcome.spread(measure.name)
    asked = [a for a in outcome.claim.asked if a.measure == measure.name]
    held = "" if not asked else ("holds" if all(map(outcome.holds, asked)) else "FAILS")
    figure, _ = outcome.bed.paper(measure)
    paper = "" if figure is None else _number(figure)
    spread = f"{_number(low)} to {_number(high)}"
    return (measure.about, paper, _number(outcome.median(measure.name)), spread, "; ".join(map(str, asked)), held)


def _missed(outcome: Outcome) -> list[Asked]:
    return [asked for asked in outcome.claim.asked if not outcome.holds(asked)]


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}"
