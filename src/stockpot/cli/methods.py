"""``stockpot methods [NAME]``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from stockpot.cli.options import print_json

if TYPE_CHECKING:
    from stockpot.methods.declare import Method, Parameter
    from stockpot.methods.pieces import Piece

__all__ = ["command"]


@click.command("methods")
@click.argument("name", required=False)
@click.option("--json", "form", flag_value="json", help="Print for machines.")
@click.option("--cite", "form", flag_value="cite", help="Print the reference as BibTeX; without NAME, all of them.")
@click.option("--markdown", "form", flag_value="markdown", help="Print the page of the documentation.")
def command(name: str | None, form: str | None) -> None:
    """List the merging methods and the steps of chains, or show one's formula, parameters, laws and reference."""
    from stockpot.methods.pieces import PIECES

    if name is not None and name in PIECES and form is None:
        _explain_step(PIECES[name])
    else:
        _show(name, form)


def _show(name: str | None, form: str | None) -> None:
    from stockpot.methods.bibtex import bibliography
    from stockpot.methods.document import document, section
    from stockpot.methods.registry import METHODS, method_named

    chosen = [method_named(name)] if name else list(METHODS.values())
    entries = bibliography(m.cites for m in METHODS.values())
    if form == "json":
        print_json([_data(m, entries[m.cites]) for m in chosen])
    elif form == "cite":
        click.echo("\n\n".join(sorted({entries[m.cites] for m in chosen})))
    elif form == "markdown":
        click.echo(section(chosen[0], entries[chosen[0].cites]) if name else document(METHODS), nl=False)
    elif name:
        _explain(chosen[0])
    else:
        _list(METHODS)


def _list(methods: Mapping[str, Method]) -> None:
    """Names, aliases and summaries, by family."""
    from stockpot.methods.document import by_family, title_of

    names = {m.name: ", ".join((m.name, *m.aliases)) for m in methods.values()}
    width = max(len(shown) for shown in names.values()) + 2
    for number, (family, members) in enumerate(by_family(methods).items()):
        click.echo(("\n" if number else "") + title_of(family))
        for method in members:
            click.echo(f"  {names[method.name]:<{width}}{method.summary}")
    _list_steps(width)


def _list_steps(width: int) -> None:
    from stockpot.methods.pieces import PIECES

    click.echo("\nSteps (merge_method: steps)")
    for piece in PIECES.values():
        click.echo(f"  {piece.name:<{width}}{piece.doc[0].upper()}{piece.doc[1:]}.")


def _explain_step(piece: Piece) -> None:
    click.echo(f"step {piece.name}: {piece.doc}")
    click.echo("parameters:" if piece.parameters else "no parameters")
    _explain_parameters(piece.parameters)


def _explain_parameters(parameters: Iterable[Parameter]) -> None:
    for p in parameters:
        click.echo(f"  {p.name:<18}{_default(p):<20}{p.doc}{_range(p)}")


def _explain(method: Method) -> None:
    from stockpot.methods.document import passes_of

    also = f" (also: {', '.join(method.aliases)})" if method.aliases else ""
    click.echo(f"{method.name}{also}: {method.summary}\n\n  {method.formula}\n\nbase_model: {method.base.value}")
    most = "or more" if method.at_most is None else f"to {method.at_most}"
    count = str(method.at_least) if method.at_most == method.at_least else f"{method.at_least} {most}"
    click.echo(f"models: {count}, as {'differences' if method.on == 'delta' else method.on}")
    click.echo(f"passes: {passes_of(method)}")
    click.echo("parameters:" if method.parameters else "no parameters")
    _explain_parameters(method.parameters)
    for companion in method.companions:
        each = " per model" if companion.per_model else ""
        need = f"{'required' if companion.required else 'optional'}{each}"
        click.echo(f"checkpoint {companion.name} ({need}): {companion.doc}")
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
    """What its default and its description do not say already."""
    from stockpot.methods.document import values_of

    values = "" if p.kind in ("bool", "ignored") else values_of(p)
    return f", {values}" if values else ""


def _data(method: Method, bibtex: str) -> dict[str, Any]:
    from stockpot.methods.declare import REQUIRED
    from stockpot.methods.document import family_of

    return {
        "name": method.name,
        "aliases": list(method.aliases),
        "family": family_of(method),
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
        "companions": [asdict(c) for c in method.companions],
        "variants": dict(method.variants or {}),
        "laws": sorted(law.value for law in method.laws),
        "notes": list(method.notes),
        "reference": str(method.cites),
        "bibtex": bibtex,
    }
