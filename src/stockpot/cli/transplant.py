"""``stockpot transplant MODEL OUT --tokenizer OTHER``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from stockpot.cli.merge import Asked, carry_out, output_options
from stockpot.cli.options import limit_options, say

__all__ = ["command"]

_METHODS = ("omp", "interpolation", "subword", "linear", "mean", "zero")


@click.command("transplant")
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--tokenizer", required=True, metavar="OTHER", help="The model whose tokenizer it gets, with its weights."
)
@click.option(
    "--method",
    type=click.Choice(_METHODS),
    default="omp",
    show_default=True,
    help="How rows are made that MODEL lacks.",
)
@click.option(
    "-k", "--k", type=click.IntRange(1), default=None, help="Rows that one is made of [omp: 64; interpolation: 8]."
)
@click.option("--dtype", default=None, help="Dtype of the output, such as bfloat16 [default: as MODEL].")
@limit_options
@output_options
def command(
    model: str, out: Path, tokenizer: str, method: str, k: int | None, dtype: str | None, **options: Any
) -> None:
    """Give MODEL (perhaps MODEL+ADAPTER) the tokenizer of OTHER and write the result to the folder OUT.

    Rows of embedding and head whose tokens both know are copied; others are made of MODEL's own rows. Where each
    row comes from is told in OUT/stockpot-transplant.json. A tenth of the tokens that both know (at most 512) are made
    as if they were missing, and compared with what they are: by the method, and by the linear map between the two
    models as a baseline.
    """
    from stockpot.api import plan, transplant
    from stockpot.lora.opening import model_named
    from stockpot.planning.tokens.transplant_report import REPORT_NAME

    asked, limits = Asked.taken(out, options)
    expression = transplant(model_named(model), tokenizer, method=method, k=k)
    carry_out(lambda: plan(expression, out, dtype=dtype, overwrite=asked.overwrite, **limits), asked)
    if not (asked.dry_run or asked.quiet or asked.as_json):
        _tell(_head(out / REPORT_NAME))


def _head(path: Path) -> Mapping[str, Any]:
    """The report without its rows, which may be many."""
    lines = []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.startswith(' "rows": ['):
                    break
                lines.append(line)
    except OSError as error:
        from stockpot.checkpoint.places import cannot_read

        raise cannot_read(path, error) from error
    found: Mapping[str, Any] = json.loads("".join(lines).rstrip().rstrip(",") + "}")
    return found


def _tell(head: Mapping[str, Any]) -> None:
    counts, held = head["counts"], head["held_out"]
    rest = f", {counts['mean']} the mean of all" if counts["mean"] else ""
    say(
        f"{counts['rows']} rows: {counts['copied']} copied, {counts['by_role']} copied by their role, "
        f"{counts['made']} made ({head['method']}){rest}"
    )
    if not held["tokens"]:
        say("too few tokens in common to hold some out")
        return
    say(f"{held['tokens']} tokens in common, made as if they were missing (relative error, cosine with the truth):")
    for name, methods in held["tensors"].items():
        told = "; ".join(f"{way} {found['error']:.3f}, {found['cosine']:.3f}" for way, found in methods.items())
        say(f"  {name}: {told}")
