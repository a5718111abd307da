"""``stockpot lora``: folding an adapter into its base, and looking into one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stockpot.cli.lora_make import extract, merge, resize
from stockpot.cli.merge import Asked, carry_out, output_options
from stockpot.cli.options import limit_options, print_json, progress_bar, say

if TYPE_CHECKING:
    from stockpot.execute.lora import Portrait

__all__ = ["command"]


@click.group("lora")
def command() -> None:
    """Adapters: merge, extract, cut, fold into a base, or show what one does."""


for _verb in (merge, extract, resize):
    command.add_command(_verb)


@command.command("fold")
@click.argument("base")
@click.argument("adapter")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--dtype", default=None, help="Dtype of the result [default: each tensor's own].")
@limit_options
@output_options
def fold(base: str, adapter: str, out: Path, **options: Any) -> None:
    """Write BASE with ADAPTER on it (folders or hub ids) to the folder OUT: a merge of one model."""
    from stockpot.api import open as opened
    from stockpot.api import plan

    asked, limits = Asked.taken(out, options)
    carry_out(lambda: plan(opened(base, adapter=adapter), out, overwrite=asked.overwrite, **limits), asked)


@command.command("inspect")
@click.argument("adapter")
@click.option("--base", default=None, help="The model that it is on: tells how large the changes are to its weights.")
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def inspect(adapter: str, base: str | None, as_json: bool) -> None:
    """Show what ADAPTER changes, by how much, and in how many directions; with --base, all of whose weights are read.

    For each module: rank, alpha, scale, the Frobenius norm of the change, that over the norm of the weight, the
    effective rank (the exponential of the entropy of the singular values), and how many of these hold 90 % of the
    squared norm.
    """
    from dataclasses import asdict

    from stockpot.execute.lora import portrait

    with progress_bar("reading", quiet=as_json or base is None) as progress:
        found = portrait(adapter, base, progress=progress)
    if as_json:
        print_json(asdict(found))
        return
    say(f"{found.adapter}: {len(found.modules)} modules, made for {found.made_for or 'a base that it does not name'}")
    for line in _table(found):
        say(line, lines=False)
    if any(m.dora for m in found.modules):
        say("DoRA: the weights of each output then get a length of their own; the numbers are of scale · B·A alone")
    if found.whole:
        say(f"whole tensors that take the place of the base's: {len(found.whole)}")
    if found.added:
        say(f"whole tensors that are added to the base's: {len(found.added)}")
    if found.others:
        listed = ", ".join(f"{name or 'no component'} ({count} modules)" for name, count in found.others.items())
        say(f"not looked at: {listed}")


def _table(found: Portrait) -> list[str]:
    """The modules as lines of a table."""
    head = ("module", "kind", "rank", "alpha", "scale", "norm", "relative", "effective rank", "90 %")
    rows = [
        (
            m.name,
            m.kind,
            str(m.rank),
            f"{m.alpha:g}",
            f"{m.scale:.4g}",
            f"{m.norm:.4g}",
            "" if m.relative is None else f"{m.relative:.4g}",
            f"{m.effective_rank:.1f}",
            str(m.most),
        )
        for m in found.modules
    ]
    kept = [i for i in range(len(head)) if _told(i, rows)]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in kept]
    cells = [[row[i] for i in kept] for row in (head, *rows)]
    return [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]


def _told(column: int, rows: Sequence[tuple[str, ...]]) -> bool:
    """Whether a column tells anything: kinds other than LoRA, relative norms that are known."""
    if column == 1:
        return any(row[1] != "lora" for row in rows)
    return column != 6 or any(row[6] for row in rows)
