"""``stockpot``: one verb each. Verbs are imported when they are used, so that --help is instant."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import click

from stockpot.cli.options import say
from stockpot.cli.signals import exit_code, stopping
from stockpot.errors import StockpotError

__all__ = ["cli", "main"]

_VERBS = {
    "merge": "Carry out a recipe and write the merged model.",
    "plan": "Show what a merge would read, write, need and take; nothing is written.",
    "check": "Check a recipe without any model.",
    "schema": "Print the JSON Schema of the recipe language, for editors.",
    "methods": "List the merging methods, or explain one.",
    "inspect": "Show a model's tensors, dtypes, sizes and layers.",
    "diff": "Compare two models tensor by tensor.",
    "verify": "Recompute a merged model's hashes against its receipt.",
    "lineage": "Draw the tree of merges behind a model.",
    "reproduce-merge": "Repeat a merge from its receipt and compare.",
    "demo": "Train small classifiers, merge them by recipe, and show what merging gains.",
}

_EXIT_CODES = """
Exit codes: 0 done; 1 not identical (diff, verify, reproduce-merge) or an unexpected failure; 2 wrong usage; 3 the
recipe is wrong; 4 a checkpoint is missing or damaged; 5 the inputs do not fit each other or the
output cannot be written; 6 the merge failed while running; 7 not supported in this version; 130 or
143 stopped by Ctrl-C or SIGTERM.
"""


@dataclass
class _Stop:
    """What to say when the program is stopped; a verb may know more."""

    on_stop: Callable[[], str] = lambda: "stockpot: stopped"


class _Verbs(click.Group):
    """A group whose commands live in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _VERBS:
            return None
        command: click.Command = import_module(f"stockpot.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))


@click.group(cls=_Verbs, epilog=_EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stockpot", prog_name="stockpot")
def cli() -> None:
    """Combine neural networks in weight space: streamed, exact, reproducible."""


def _quick_start() -> None:
    """Leave out what costs time at the start: collecting garbage during imports, a pool of BLAS threads."""
    gc.set_threshold(100_000)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    _quick_start()
    stop = _Stop()
    try:
        with stopping(lambda: stop.on_stop()):  # noqa: PLW0108 - a verb sets it later
            code = cli.main(args=arguments, prog_name="stockpot", standalone_mode=False, obj=stop)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except StockpotError as error:
        _show(error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        say(stop.on_stop(), error=True)
        return exit_code(error.__cause__ or error.__context__ or error)
    except BrokenPipeError:
        return 0


def _show(error: StockpotError) -> None:
    for problem in error.problems:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {problem}", err=True, color=_colours())
    if len(error.problems) > 1:
        click.echo(f"{len(error.problems)} problems", err=True)


def _colours() -> bool | None:
    return False if os.environ.get("NO_COLOR") else None


if __name__ == "__main__":
    sys.exit(main())
