"""``stockpot diff A B``."""

from __future__ import annotations

import click

from stockpot.cli.options import print_json, progress_bar, say

__all__ = ["command"]


@click.command("diff")
@click.argument("a")
@click.argument("b")
@click.option("--all", "show_all", is_flag=True, help="List identical tensors too.")
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def command(a: str, b: str, show_all: bool, as_json: bool) -> int:
    """Compare models A and B: shape, dtype, distance relative to A, cosine; exit code 1 if they differ."""
    from dataclasses import asdict

    from stockpot.checkpoint.open import open_checkpoint
    from stockpot.execute.compare import compare

    with progress_bar("comparing", quiet=as_json) as progress:
        rows = compare(open_checkpoint(a), open_checkpoint(b), progress=progress)
    different = [r for r in rows if not r.identical]
    if as_json:
        print_json({"identical": not different, "tensors": [asdict(r) for r in rows]})
        return 1 if different else 0
    for row in rows if show_all else different:
        say(str(row), lines=False)
    click.echo(f"{len(rows) - len(different)} of {len(rows)} tensors are identical")
    return 1 if different else 0
