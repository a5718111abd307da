"""The table of results, as text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stockpot.demo.results import Row

__all__ = ["plain_console", "render"]

_ROOMY = 120
"""Columns of text from which the explanations fit as well."""


def render(rows: Sequence[Row], console: Console | None = None) -> str:
    """Return the table for ``console`` (default: the terminal, with its width and colours)."""
    console = console or Console()
    table = _table(rows, explain=console.width >= _ROOMY)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip("\n")


def plain_console() -> Console:
    """Return a console that writes wide text without colours, for files."""
    return Console(width=_ROOMY, color_system=None, force_terminal=False, legacy_windows=False)


def _table(rows: Sequence[Row], *, explain: bool) -> Table:
    """Lay the rows out; sections are separated, and the row chosen on ``select`` is starred."""
    table = Table(
        title="Accuracy in % on the report's images",
        caption="* the best of its section on the images that choices were made with",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0, 0, 1),
    )
    table.add_column("model", no_wrap=True)
    if explain:
        table.add_column("what it is", no_wrap=True)
    for name in (*rows[0].scores.by_column, "shifted", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for row, following in zip_longest(rows, rows[1:]):
        last = following is None or following.kind != row.kind
        table.add_row(*_cells(row, chosen=_is_chosen(row, rows), explain=explain), end_section=last)
    return table


def _is_chosen(row: Row, rows: Sequence[Row]) -> bool:
    """Whether ``row`` is the best of several of its kind on ``select``."""
    rivals = [other for other in rows if other.kind == row.kind]
    return len(rivals) > 1 and row is max(rivals, key=lambda other: other.select)


def _cells(row: Row, *, chosen: bool, explain: bool) -> list[Text]:
    words = [row.name, row.about] if explain else [row.name]
    words += [f"{100 * value:.1f}" for value in row.scores.by_column.values()]
    words += [f"{'*' * chosen} {100 * row.scores.shifted:.1f}", f"{row.passes}x"]
    return [Text(word, "bold green" if chosen else "") for word in words]
