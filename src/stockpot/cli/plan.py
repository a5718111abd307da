"""``stockpot plan RECIPE [OUT]``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stockpot.cli.options import human, limit_options, print_json, recipe_options, say, show_notes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stockpot.planning.model import Plan, Survey

__all__ = ["command", "show_plan"]


@click.command("plan")
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path), required=False)
@limit_options
@recipe_options
@click.option("--overwrite", is_flag=True, help="Plan as if OUT may be replaced.")
@click.option("--tensors", is_flag=True, help="List every tensor with its inputs and parameters.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole plan for machines.")
def command(recipe: Path, out: Path | None, overwrite: bool, tensors: bool, as_json: bool, **limits: Any) -> None:
    """Show what merging RECIPE would read, write, need and take, and everything that is wrong.

    Only headers are read. With OUT, its disk and permissions are checked too.
    """
    from stockpot.api import plan as make_plan

    show_plan(make_plan(recipe, out, overwrite=overwrite, **limits), out, as_json, tensors)


def show_plan(plan: Plan, out: Path | None, as_json: bool, tensors: bool = False) -> None:
    """Print a plan as text or JSON."""
    from stockpot.execute.workplace import kept

    finished = kept(out)[0] if out is not None else 0
    if as_json:
        print_json({**_as_data(plan), "finished": finished})
        return
    cost = plan.cost
    rows = [
        ("inputs", ", ".join(f"{label} ({human(s.nbytes)})" for label, s in plan.sources.items())),
        ("output", f"{len(plan.steps)} tensors, {human(cost.written)} in {len(plan.shards)} file(s)"),
        ("beside it", ", ".join(name for name, _ in plan.sidecars) or "nothing"),
        *(("tokenizer" if i == 0 else "", text) for i, text in enumerate(_tokens(plan.tokenizer))),
        ("read", f"{human(cost.read)}, in at most {cost.passes} pass(es) over a tensor"),
        *((f"survey {s.group}", _survey(s)) for s in plan.surveys),
        ("memory", f"about {human(cost.memory)} with {cost.threads} thread(s)"),
        ("disk", f"{human(cost.written)} needed" + (f", {human(cost.disk_free)} free" if cost.disk_free else "")),
        ("time", f"about {cost.seconds + 1:.0f} s at {human(cost.assumed_rate)}/s, more where the disk is slower"),
    ]
    if finished:
        rows.append(("resume", f"{finished} tensors are finished already, if nothing has changed since"))
    for name, text in rows:
        say(f"{name:<10}{text}", lines=False)
    if tensors:
        for step in _tensor_rows(plan):
            say(f"{step['name']}  {step['dtype']}{step['shape']}  passes {step['passes']}  {step['how']}", lines=False)
    show_notes(plan.notes)


def _survey(survey: Survey) -> str:
    return (
        f"{survey.method} over the whole model first: {len(survey.members)} tensors, "
        f"{human(survey.input_bytes)} in {survey.passes} pass(es)"
    )


def _tokens(told: Mapping[str, Any]) -> Iterator[str]:
    """Where rows of embedding and head come from, in numbers; nothing where no one decided the vocabulary."""
    if not told:
        return
    yield f"{told['tokenizer']}: {told['tokens']} tokens, {told['rows']} rows; {told['in_all_models']} in all models"
    for label, own in told["models"].items():
        parts = [f"{own['own']} of its own", *(f"{n} of {other}" for other, n in own["taken"].items())]
        names = {"means": "means of several models", "zeros": "zeros", "padding": "mean rows as padding"}
        parts += [f"{own[key]} {name}" for key, name in names.items() if own[key]]
        yield f"{label}: {', '.join(parts)}"


def _as_data(plan: Plan) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "cost": asdict(plan.cost),
        "inputs": {label: dict(source.identity) for label, source in plan.sources.items()},
        "files": [{"file": s.file, "bytes": s.size} for s in plan.shards],
        "sidecars": [name for name, _ in plan.sidecars],
        "notes": [str(note) for note in plan.notes],
        "surveys": [
            {"method": s.method, "line": s.line, "tensors": len(s.members), "passes": s.passes, "bytes": s.input_bytes}
            for s in plan.surveys
        ],
        "seed": plan.seed,
        "tokenizer": dict(plan.tokenizer),
        "tensors": _tensor_rows(plan),
    }


def _tensor_rows(plan: Plan) -> list[dict[str, Any]]:
    return [
        {
            "name": step.name,
            "dtype": step.dtype.code,
            "shape": list(step.shape),
            "file": step.file,
            "offset": step.offset,
            "passes": step.passes,
            "how": _how(step.source),
        }
        for step in plan.steps
    ]


def _how(source: Any) -> Any:
    from stockpot.planning.model import Read

    if isinstance(source, Read):
        ref = source.ref
        return {"copy": source.model, "file": ref.file, "range": [ref.offset, ref.offset + ref.nbytes]}
    found: dict[str, Any] = {"method": source.name, "inputs": [_how(child) for child in source.inputs]}
    if source.base is not None:
        found["base"] = _how(source.base)
    if source.companions:
        found["companions"] = [_how(child) for child in source.companions]
    if source.scale != 1.0:
        found["lambda"] = source.scale
    if source.resolved is not None:
        found["parameters"] = {**source.resolved.one, **source.resolved.each}
    elif source.factors:
        found["factors"] = source.factors
    return found
