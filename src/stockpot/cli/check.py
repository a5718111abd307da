"""``stockpot check RECIPE…``."""

from __future__ import annotations

from pathlib import Path

import click

from stockpot.cli.options import allow_code, print_json, say, show_notes

__all__ = ["command"]


@click.command("check")
@click.argument("recipes", type=click.Path(exists=True, dir_okay=False, path_type=Path), nargs=-1, required=True)
@click.option("--lenient", is_flag=True, help="Unknown keys are notes, not errors.")
@allow_code
@click.option("--json", "as_json", is_flag=True, help="Print the resolved recipe for machines.")
def command(recipes: tuple[Path, ...], lenient: bool, allow_code: bool, as_json: bool) -> int:
    """Parse and type-check RECIPES; no model is opened. The exit code is that of the worst."""
    from stockpot.errors import StockpotError
    from stockpot.recipe.mixture import describes_mixture, load_mixture
    from stockpot.recipe.parse import load_recipe

    worst = 0
    for path in recipes:
        try:
            if describes_mixture(path):
                mixture = load_mixture(path, lenient=lenient, allow_code=allow_code)
                show_notes(mixture.notes)
                if as_json:
                    print_json(dict(mixture.resolved))
                else:
                    say(f"{path}: ok, for stockpot moe")
                continue
            recipe = load_recipe(path, lenient=lenient, allow_code=allow_code)
        except StockpotError as error:
            worst = max(worst, error.exit_code)
            for problem in error.problems:
                say(f"{path}: error: {problem}", error=True)
            continue
        show_notes(recipe.notes)
        for problem in recipe.unsupported:
            say(f"{path}: not yet supported: {problem}", error=True)
        worst = max(worst, 7 if recipe.unsupported else 0)
        if as_json:
            print_json(dict(recipe.resolved))
        elif not recipe.unsupported:
            say(f"{path}: ok")
    return worst
