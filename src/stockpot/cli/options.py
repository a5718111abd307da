"""Options and output that several verbs share."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stockpot.errors import Problem
from stockpot.printable import may_hold_secrets, printable, redacted

__all__ = [
    "SIZE",
    "allow_code",
    "human",
    "limit_options",
    "print_json",
    "progress_bar",
    "recipe_options",
    "say",
    "set_aside",
    "show_notes",
    "with_options",
]

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


if TYPE_CHECKING:
    _IntType = click.ParamType[int]
else:
    _IntType = click.ParamType  # generic since click 8.2


class _Size(_IntType):
    """A number of bytes: ``256MiB``, ``5GB``, ``1000000``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]i?)?b?\s*", str(value).lower())
        if match is None:
            self.fail(f"{value!r} is not a size; write 256MiB, 5GB or a number of bytes", param, ctx)
        size = int(float(match[1]) * _UNITS[match[2] or ""])
        if size < 1:
            self.fail(f"{value!r} is not a positive size", param, ctx)
        return size


SIZE = _Size()


allow_code = click.option("--allow-code", is_flag=True, help="Run the method file that the recipe names.")
"""Code in a recipe runs only when it is asked for."""


def limit_options(function: F) -> F:
    """--memory, --threads, --shard-size and --quantize: what a merge may use, and how its result is stored."""
    return with_options(
        function,
        (
            click.option("--memory", type=SIZE, default="1GiB", show_default=True, help="Budget of resident memory."),
            click.option(
                "--threads", type=click.IntRange(1), default=None, help="Worker threads [default: all cores]."
            ),
            click.option("--shard-size", type=SIZE, default="5GB", show_default=True, help="Largest output file."),
            click.option(
                "--quantize", type=click.Choice(["same"]), default=None, help="Write 8-bit floats as the base."
            ),
        ),
    )


def recipe_options(function: F) -> F:
    """--seed, --lenient and --allow-code: how a recipe is read."""
    return with_options(
        function,
        (
            click.option("--seed", type=int, default=None, help="Key of random numbers, over the recipe's own."),
            click.option("--lenient", is_flag=True, help="Unknown recipe keys are notes, not errors."),
            allow_code,
        ),
    )


def with_options(function: F, options: Sequence[Callable[[F], F]]) -> F:
    """``function`` with ``options``, in the order in which --help shows them."""
    for option in reversed(options):
        function = option(function)
    return function


def human(nbytes: float) -> str:
    """Bytes for people: ``2.20 GB``.

    >>> human(2_200_096_768)
    '2.20 GB'
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes:.0f} B"


def say(text: str, *, error: bool = False, lines: bool = True) -> None:
    """One message on standard output (or error): names from files cannot command the terminal, secrets are hidden.

    Where ``lines`` is false, a name that holds a line end cannot pass for a line of its own either.
    """
    click.echo(printable(redacted(text), lines=lines), err=error)


@contextmanager
def set_aside() -> Iterator[None]:
    """Standard output is for a document alone: what is printed meanwhile, by code of users too, goes to standard error.

    So it does in processes that are started meanwhile.
    """
    own, kept = sys.stdout, -1
    own.flush()
    with suppress(OSError):  # closed from the start
        kept = os.dup(1)
        os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = own
        if kept >= 0:
            os.dup2(kept, 1)
            os.close(kept)


def print_json(data: Any) -> None:
    """One JSON document on standard output; numbers that are not finite, which JSON lacks, are null.

    Secrets are hidden, and characters that a terminal could obey are written as JSON's escapes.
    """
    import json

    data = _finite(data)
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    if may_hold_secrets(text):
        text = json.dumps(_hidden(data), indent=1, ensure_ascii=False, allow_nan=False)
    click.echo("\n".join(line if line.isprintable() else _escaped(line) for line in text.split("\n")))


def _escaped(line: str) -> str:
    import json

    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _hidden(data: Any) -> Any:
    if isinstance(data, dict):
        return {_hidden(key): _hidden(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_hidden(value) for value in data]
    return redacted(data) if isinstance(data, str) else data


def show_notes(notes: tuple[Problem, ...]) -> None:
    """Notes on standard error."""
    for note in notes:
        say(f"note: {note}", error=True)


@contextmanager
def progress_bar(label: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """A bar with bytes per second and time left on standard error; none when that is not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    numbers = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(
        TextColumn("{task.description}"), BarColumn(), *numbers, console=Console(stderr=True), transient=True
    ) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
