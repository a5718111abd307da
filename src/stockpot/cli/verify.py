"""``stockpot verify OUT``."""

from __future__ import annotations

from pathlib import Path

import click

from stockpot.cli.options import print_json, progress_bar

__all__ = ["command"]


@click.command("verify")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--threads", type=click.IntRange(1), default=None, help="Worker threads [default: all cores].")
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def command(folder: Path, threads: int | None, as_json: bool) -> int:
    """Recompute the hashes of the merged model in FOLDER against its receipt; exit code 1 if they differ."""
    from stockpot.execute.verify import verify

    with progress_bar("verifying", quiet=as_json) as progress:
        differences = verify(folder, threads=threads, progress=progress)
    if as_json:
        print_json({"folder": str(folder), "ok": not differences, "differences": list(differences)})
    for difference in () if as_json else differences:
        click.echo(difference, err=True)
    if not as_json:
        click.echo(f"{folder}: " + (f"{len(differences)} difference(s)" if differences else "as its receipt says"))
    return 1 if differences else 0
