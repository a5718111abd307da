"""``stockpot schema``."""

from __future__ import annotations

import click

from stockpot.cli.options import print_json

__all__ = ["command"]


@click.command("schema")
@click.option("--search", is_flag=True, help="Of recipes whose values may be left open, for stockpot search.")
def command(search: bool) -> None:
    """Print the JSON Schema of the recipe language, for editors that complete and check YAML."""
    from stockpot.recipe.schema import json_schema

    print_json(json_schema(search=search))
