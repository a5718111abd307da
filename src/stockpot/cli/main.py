"""``stockpot``: one verb each. Verbs are imported when they are used, so that --help is instant."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

import click

from stockpot.cli.options import say
from stockpot.cli.signals import Stopped, exit_code, stopping
from stockpot.errors import StockpotError
from stockpot.printable import printable, redacted

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
    "moe": "Make a mixture of experts of dense models, and tell how well it routes.",
    "evaluate": "Measure models and recipes on a suite of tasks, without writing merges.",
    "soup": "Average those fine-tunes of one start that help, chosen on held-out data.",
    "sweep": "Draw the curve of a family of merges over its number: WiSE-FT, task vectors, negation, analogies.",
    "search": "Find values for what a recipe leaves open, on held-out data.",
    "reproduce": "Measure claims of the literature in miniature, the papers' figures beside ours.",
    "lora": "Adapters: fold one into its base, or show what it does.",
    "transplant": "Give a model the tokenizer of another.",
    "demo": "Train small classifiers, merge them by recipe, and show what merging gains.",
}

_EXIT_CODES = """
Exit codes: 0 done; 1 not identical (diff, verify, reproduce-merge), a model failed on a task (evaluate, soup, sweep,
search), a claim does not hold (reproduce) or an unexpected failure; 2 wrong usage; 3 the recipe or suite is wrong; 4 a
checkpoint is missing or damaged; 5 the inputs do not fit each other or the output cannot be written; 6 the merge
failed while running; 7 not supported in this version; 130 or 143 stopped by Ctrl-C or SIGTERM.
"""

_MAX_SHOWN = 200
"""Problems that are printed; a file of a stranger could make a million."""


@dataclass
class _Stop:
    """What to say when the program is stopped, of which a verb may know more; and what it was called with."""

    on_stop: Callable[[], str] = lambda: "stockpot: stopped"
    arguments: Sequence[str] = ()


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
    """Run the command line; returns the exit code.

    Args:
        arguments: None takes those of the process, which a failure or a signal then ends for good.
    """
    _quick_start()
    stop = _Stop(arguments=sys.argv[1:] if arguments is None else arguments)
    try:
        with stopping(lambda: stop.on_stop()):  # noqa: PLW0108 - a verb sets it later
            code = _ended(arguments, stop)
            if code and arguments is None:
                _leave(code)
            return code
    except Stopped as late:  # when nothing was left to do but to end
        return exit_code(late)


def _ended(arguments: list[str] | None, stop: _Stop) -> int:
    """The exit code; whatever there is to say of an error is said."""
    try:
        code = cli.main(args=arguments, prog_name="stockpot", standalone_mode=False, obj=stop)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        _show_usage(error)
        return error.exit_code
    except StockpotError as error:
        _show(error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        say(stop.on_stop(), error=True)
        return exit_code(error.__cause__ or error.__context__ or error)
    except BrokenPipeError:
        return 0


def _show_usage(error: click.ClickException) -> None:
    """Click's message repeats arguments, which may be names of a stranger's files."""
    told = io.StringIO()
    error.show(told)
    click.echo(printable(redacted(told.getvalue())), nl=False, err=True)


def _leave(code: int) -> None:
    """End this process without tearing down the interpreter: a thread may still be in compiled code."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _show(error: StockpotError) -> None:
    for problem in error.problems[:_MAX_SHOWN]:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {problem}", err=True, color=_colours())
    if len(error.problems) > 1:
        hidden = len(error.problems) - _MAX_SHOWN
        click.echo(
            f"{len(error.problems)} problems" + (f", of which {hidden} are not shown" if hidden > 0 else ""), err=True
        )


def _colours() -> bool | None:
    return False if os.environ.get("NO_COLOR") else None


if __name__ == "__main__":
    sys.exit(main())
