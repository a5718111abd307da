"""``stockpot lineage OUT``."""

from __future__ import annotations

from pathlib import Path

import click

from stockpot.cli.options import print_json, say

__all__ = ["command"]


@click.command("lineage")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--mermaid", "as_mermaid", is_flag=True, help="Print a mermaid flow chart.")
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def command(folder: Path, as_mermaid: bool, as_json: bool) -> None:
    """Draw the tree of merges behind the model in FOLDER.

    It is told by receipts, each of which holds the ancestors of its inputs, and by mergekit_config.yml.
    """
    from stockpot.provenance.ancestry import lineage
    from stockpot.provenance.draw import mermaid, text_tree

    tree = lineage(folder)
    if as_json:
        print_json(tree.as_data())
    else:
        say(mermaid(tree) if as_mermaid else text_tree(tree))
