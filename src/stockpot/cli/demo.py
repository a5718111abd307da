"""``stockpot demo [FOLDER]``."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command("demo")
@click.argument("folder", type=click.Path(path_type=Path), default="demo-out")
@click.option("--quick", is_flag=True, help="A shorter run with smaller networks.")
def command(folder: Path, quick: bool) -> None:
    """Train classifiers from one shared start, merge them by recipe, and compare them.

    Everything is kept in FOLDER: models, recipes, merged models, a table, a picture, and report.html with all of it.
    """
    try:
        from stockpot.demo import run
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing: pip install 'stockpot[demo]'") from error
    run(folder, quick=quick, report=click.echo)
