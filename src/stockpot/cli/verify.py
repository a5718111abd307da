"""``stockpot verify OUT``."""

from __future__ import annotations

from pathlib import Path

import click

from stockpot.cli.options import print_json, progress_bar, say

__all__ = ["command"]


@click.command("verify")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--inputs", is_flag=True, help="Read the inputs again, too.")
@click.option("--threads", type=click.IntRange(1), default=None, help="Worker threads [default: all cores].")
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def command(folder: Path, inputs: bool, threads: int | None, as_json: bool) -> int:
    """Recompute the hashes of the merged model in FOLDER against its receipt; exit code 1 if they differ.

    With --inputs, sizes, headers and those tensors of the inputs that were merged are checked where they lie
    now: at their paths, else in the hub's cache.
    """
    from stockpot.execute.receipt import read_receipt
    from stockpot.execute.sources import check_inputs
    from stockpot.execute.verify import verify

    with progress_bar("verifying", quiet=as_json) as progress:
        differences = [*verify(folder, threads=threads, progress=progress)]
    checked = {}
    if inputs:
        with progress_bar("verifying inputs", quiet=as_json) as progress:
            checked = check_inputs(read_receipt(folder), threads=threads, progress=progress)
        differences += [told for found in checked.values() for told in found.differences]
    if as_json:
        data = {"folder": str(folder), "ok": not differences, "differences": differences}
        rows = {k: {"tensors": v.tensors, "differences": list(v.differences)} for k, v in checked.items()}
        print_json(data | ({"inputs": rows} if inputs else {}))
        return 1 if differences else 0
    for difference in differences:
        say(difference, error=True)
    for label, found in checked.items():
        if not found.differences:
            told = f"{found.tensors} tensors as they were" if found.tensors else "sizes and headers as they were"
            say(f"input {label}: {told}")
    say(f"{folder}: " + (f"{len(differences)} difference(s)" if differences else "as its receipt says"))
    return 1 if differences else 0
