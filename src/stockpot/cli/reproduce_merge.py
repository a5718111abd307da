"""``stockpot reproduce-merge OUT NEW``."""

from __future__ import annotations

from pathlib import Path

import click

from stockpot.cli.options import SIZE, print_json, progress_bar, say

__all__ = ["command"]


def _pairs(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """``LABEL=PATH`` …; a label may hold ``=``, a path may not begin with one."""
    found = {}
    for text in given:
        label, _, path = text.rpartition("=")
        if not label or not path:
            raise click.BadParameter(f"{text!r} is not LABEL=PATH")
        found[label] = path
    return found


@click.command("reproduce-merge")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--input", "inputs", multiple=True, metavar="LABEL=PATH", callback=_pairs, help="Where an input lies now."
)
@click.option("--memory", type=SIZE, default="1GiB", show_default=True, help="Budget of resident memory.")
@click.option("--threads", type=click.IntRange(1), default=None, help="Worker threads [default: all cores].")
@click.option("--overwrite", is_flag=True, help="Replace NEW if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def command(
    folder: Path,
    new: Path,
    inputs: dict[str, str],
    memory: int,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Repeat the merge in FOLDER from its receipt into NEW, and compare; exit code 1 if they differ.

    An adapter that `stockpot lora` made is made again in the same way.
    The inputs are looked for where they were, else in the hub's cache or at the hub, by commit. FOLDER needs to
    hold nothing but the receipt.
    """
    from stockpot.execute.receipt import read_receipt
    from stockpot.execute.reproduce import reproduce
    from stockpot.lora.reproducing import reproduce_adapter

    again = reproduce_adapter if "adapter" in read_receipt(folder) else reproduce
    with progress_bar("merging", quiet=as_json) as progress:
        made = again(folder, new, inputs=inputs, memory=memory, threads=threads, overwrite=overwrite, progress=progress)
    if as_json:
        data = {"out": str(new), "ok": not made.differences, "differences": list(made.differences)}
        print_json(data | {"versions": list(made.versions)})
        return 1 if made.differences else 0
    for difference in made.differences:
        say(difference, error=True)
    for version in made.versions:
        say(f"note: {version}", error=True)
    say(f"{new}: " + (f"{len(made.differences)} difference(s)" if made.differences else f"the same as {folder}"))
    return 1 if made.differences else 0
