"""``stockpot methods [NAME]``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from stockpot.cli.options import print_json

if TYPE_CHECKING:
    from stockpot.methods.declare import Method, Parameter

__all__ = ["command"]


@click.command("methods")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def command(name: str | None, as_json: bool) -> None:
    """List the merging methods, or show one's formula, parameters, laws and reference."""
    from stockpot.methods.registry import METHODS, method_named

    chosen = [method_named(name)] if name else list(METHODS.values())
    if as_json:
        print_json([_data(m) for m in chosen])
    elif name:
        _explain(chosen[0])
    else:
        for method in chosen:
            click.echo(f"{method.name:<17}{method.summary}")


def _explain(method: Method) -> None:
    also = f" (also: {', '.join(method.aliases)})" if method.aliases else ""
    click.echo(f"{method.name}{also}: {method.summary}\n\n  {method.formula}\n\nbase_model: {method.base.value}")
    click.echo("parameters:" if method.parameters else "no parameters")
    for p in method.parameters:
        click.echo(f"  {p.name:<18}{_default(p):<20}{p.doc}{_range(p)}")
    for variant, text in (method.variants or {}).items():
        click.echo(f"variant {variant}: {text}")
    for law in sorted(law.value for law in method.laws):
        click.echo(f"law: {law}")
    for note in method.notes:
        click.echo(f"note: {note}")
    click.echo(f"reference: {method.cites}")


def _default(p: Parameter) -> str:
    from stockpot.methods.declare import REQUIRED

    where = "per model" if p.per_model else ""
    shown = f"{p.default:g}" if isinstance(p.default, float) else str(p.default)
    value = "required" if p.default is REQUIRED else f"= {shown}"
    return f"{value} {where}".strip()


def _range(p: Parameter) -> str:
    if p.choices:
        return f", one of {', '.join(p.choices)}"
    if p.low is None and p.high is None:
        return ""
    low = "-inf" if p.low is None else f"{p.low:g}"
    high = "inf" if p.high is None else f"{p.high:g}"
    return f", in {'(' if p.open_low else '['}{low}, {high}]"


def _data(method: Method) -> dict[str, Any]:
    from stockpot.methods.declare import REQUIRED

    return {
        "name": method.name,
        "aliases": list(method.aliases),
        "summary": method.summary,
        "formula": method.formula,
        "base": method.base.value,
        "parameters": [
            {
                "name": p.name,
                "doc": p.doc,
                "required": p.default is REQUIRED,
                "default": None if p.default is REQUIRED else p.default,
                "per_model": p.per_model,
                "kind": p.kind,
                "choices": list(p.choices),
                "low": p.low,
                "high": p.high,
            }
            for p in method.parameters
        ],
        "variants": dict(method.variants or {}),
        "laws": sorted(law.value for law in method.laws),
        "notes": list(method.notes),
        "reference": str(method.cites),
    }
