"""``stockpot lora merge``, ``extract`` and ``resize``: verbs that write an adapter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stockpot.cli.options import SIZE, allow_code, human, print_json, progress_bar, say, with_options

if TYPE_CHECKING:
    from stockpot.lora.factors import Wanted
    from stockpot.lora.output import Made
    from stockpot.lora.report import Intended
    from stockpot.planning.model import Limits

__all__ = ["extract", "merge", "resize"]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_ROWS = 12
"""Modules that are shown, those that lost most; --json has all."""

_EXACT, _FULL = "concat", "full"


def _output(function: F) -> F:
    """Options of all verbs that write an adapter."""
    options = [
        click.option("--rank", type=click.IntRange(1), default=None, help="Largest rank of a module."),
        click.option(
            "--energy",
            type=click.FloatRange(0, 1, min_open=True),
            default=None,
            help="Share of the squared norm of each change that must be kept, as far as --rank allows.",
        ),
        click.option("--dtype", default=None, help="Dtype of the factors [default: as the text says]."),
        click.option("--memory", type=SIZE, default="1GiB", show_default=True, help="Budget of resident memory."),
        click.option("--threads", type=click.IntRange(1), default=None, help="Worker threads [default: all cores]."),
        click.option("--dry-run", is_flag=True, help="Tell what would be done, and write nothing."),
        click.option("--overwrite", is_flag=True, help="Replace OUT if it exists."),
        click.option("--no-sync", is_flag=True, help="Do not wait until the disk has everything before OUT appears."),
        click.option("--json", "as_json", is_flag=True, help="Print the report for machines, all modules in it."),
        click.option("--quiet", is_flag=True, help="Print nothing but errors."),
    ]
    return with_options(function, options)


@click.command("merge")
@click.argument("paths", nargs=-1, required=True, metavar="[ADAPTER]... OUT")
@click.option("--recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A recipe of adapters.")
@click.option("--method", default=None, help="Any method of `stockpot methods`, or concat [default: linear].")
@click.option("--weight", type=float, multiple=True, help="For all adapters, or one for each, in order.")
@click.option("--density", type=float, multiple=True, help="Likewise, of methods that drop entries.")
@click.option("--set", "values", multiple=True, metavar="NAME=VALUE", help="Another parameter of the method.")
@click.option("--space", type=click.Choice(["full", "knots", "core"]), default=_FULL, show_default=True)
@click.option("--base", default=None, help="The model that the adapters are on, for what is a function of its weights.")
@click.option("--compat", type=click.Choice(["peft"]), default=None, help="PEFT's own form of that name.")
@click.option("--seed", type=int, default=None, help="Key of random numbers, over the recipe's own.")
@allow_code
@_output
def merge(paths: tuple[str, ...], recipe: Path | None, **options: Any) -> None:
    """Merge ADAPTERs (folders, files or hub ids) into one adapter, written to the folder OUT.

    The method works on the changes themselves, scale · B·A of each module, and the result is factorised again, at
    the largest rank that an adapter has in each module unless --rank or --energy say otherwise. What is lost is
    reported. concat puts factors side by side: exact, of the sum of the ranks. With --recipe, models, method and
    parameters are those of a recipe whose models are adapters: `stockpot lora merge --recipe R.yml OUT`.
    """
    *adapters, last = paths
    _check_request(adapters, recipe, options)
    if options["compat"] is not None:
        _as_peft(tuple(adapters), Path(last), options)
        return
    _merged(adapters, recipe, Path(last), options)


def _check_request(adapters: list[str], recipe: Path | None, options: Mapping[str, Any]) -> None:
    given = [o for o in ("method", "weight", "density", "values", "compat") if options[o]]
    if recipe is not None and (adapters or given):
        told = "ADAPTER" if adapters else f"--{'set' if given[0] == 'values' else given[0]}"
        raise click.UsageError(f"the recipe says which adapters are merged, and how: leave {told} out")
    if recipe is None and not adapters:
        raise click.UsageError("name the adapters, then OUT; or give --recipe and OUT")
    if options["method"] == _EXACT and (options["rank"] or options["energy"] or options["space"] != _FULL):
        raise click.UsageError(
            "concat keeps everything: leave --rank, --energy and --space out, or use task_arithmetic"
        )
    if options["compat"] and options["dry_run"]:
        raise click.UsageError("--dry-run does not know PEFT's forms: leave --compat out")
    if options["compat"] and (options["energy"] or options["values"] or options["space"] != _FULL or options["base"]):
        raise click.UsageError("forms of --compat peft take --weight, --density and --rank alone")


def _merged(adapters: list[str], recipe: Path | None, out: Path, options: Mapping[str, Any]) -> None:
    from stockpot.lora.merging import merge_adapters, plan_merge
    from stockpot.lora.requests import merge_asked

    keys = ("space", "base", "dtype", "seed", "allow_code")
    how = {key: options[key] for key in keys}
    values = {} if recipe is not None else _values(options)
    with _without_lines() if recipe is None else nullcontext():
        what = merge_asked(recipe or adapters, options["method"] or "linear", values, _wanted(options), **how)
        _done(what, out, options, "merging", plan_merge, merge_adapters)


@contextmanager
def _without_lines() -> Iterator[None]:
    """Errors of a recipe that nobody wrote, without its lines."""
    from dataclasses import replace

    from stockpot.errors import StockpotError

    try:
        yield
    except StockpotError as error:
        raise type(error)(*(replace(p, line=None) for p in error.problems)) from error


def _as_peft(adapters: tuple[str, ...], out: Path, options: Mapping[str, Any]) -> None:
    from stockpot.lora.compat_merging import CompatMerge, merge_as_peft

    form = options["method"] or "svd"
    if len(options["density"]) > 1:
        raise click.UsageError("PEFT's forms have one --density")
    asked = _present(
        {
            "verb": "merge",
            "compat": "peft",
            "form": form,
            "adapters": list(adapters),
            **_asked(options, "weight", "density"),
        }
    )
    density = options["density"][0] if options["density"] else None
    weights = tuple(options["weight"]) or (1.0,)
    what = CompatMerge(adapters, form, weights, density, options["rank"], options["dtype"], options["seed"] or 0, asked)
    made = merge_as_peft(what, out, _limits(options), **_how(options))
    if made.report.distance is not None and not options["quiet"]:
        told = f"{made.report.distance:.3f}" if made.report.distance is not None else "?"
        say(
            f"warning: PEFT's {form} combines A and B one by one, which is no merge of the changes B·A: "
            f"its result is {told} (relative norm of the difference) from that merge; without --compat it is exact",
            error=True,
        )
    _tell(made, options)


@click.command("extract")
@click.argument("tuned")
@click.argument("base")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--include", default=None, metavar="REGEX", help="Modules to factorise, embeddings and heads too.")
@click.option("--exclude", default=None, metavar="REGEX", help="Modules not to factorise.")
@click.option(
    "--save-modules",
    default="embeddings,heads,norms,biases,others",
    show_default=True,
    help="What is stored whole where it has changed; also: weights, none.",
)
@click.option("--drop", default=None, metavar="REGEX", help="Tensors whose change is left out, and reported.")
@click.option("--prefix", default="", help="What the model's class has before the names, such as transformer.")
@click.option("--seed", type=int, default=0, show_default=True, help="Key of random numbers.")
@_output
def extract(tuned: str, base: str, out: Path, **options: Any) -> None:
    """Write the adapter on BASE that makes of it, nearly, the fine-tuned model TUNED, to the folder OUT.

    Both may be MODEL+ADAPTER. Each matrix of a linear layer (or convolution) is factorised, by --rank, --energy or
    both. Nothing that has changed is left out unless --drop names it. Factors are float32 unless --dtype says
    otherwise. An extraction that is broken off begins again.
    """
    from stockpot.lora.extracting import extract as made_of
    from stockpot.lora.extracting import plan_extract
    from stockpot.lora.kinds import CATEGORIES
    from stockpot.lora.requests import extract_asked

    words = [w.strip() for w in options["save_modules"].split(",") if w.strip() not in ("", "none")]
    unknown = [w for w in words if w not in CATEGORIES]
    if unknown:
        raise click.UsageError(f"--save-modules does not know {unknown[0]}; it takes {', '.join(CATEGORIES)} or none")
    how = {key: options[key] for key in ("include", "exclude", "drop", "prefix", "dtype", "seed")}
    what = extract_asked(tuned, base, _needed(options), save_modules=words, **how)
    _done(what, out, options, "extracting", plan_extract, made_of)


@click.command("resize")
@click.argument("adapter")
@click.argument("out", type=click.Path(path_type=Path))
@_output
def resize(adapter: str, out: Path, **options: Any) -> None:
    """Write ADAPTER cut to --rank, --energy or both to the folder OUT: the nearest adapter of that rank.

    Factors keep their dtype unless --dtype says otherwise.
    """
    from stockpot.lora.requests import resize_asked
    from stockpot.lora.resizing import plan_resize
    from stockpot.lora.resizing import resize as resized

    what = resize_asked(adapter, _needed(options), dtype=options["dtype"])
    _done(what, out, options, "resizing", plan_resize, resized)


def _done(
    what: T,
    out: Path,
    options: Mapping[str, Any],
    word: str,
    plan: Callable[[T, Limits], Intended],
    make: Callable[..., Made],
) -> None:
    """Do what is asked for, or tell what would be done."""
    if options["dry_run"]:
        _tell_intended(plan(what, _limits(options)), out, options)
        return
    with progress_bar(word, quiet=options["quiet"] or options["as_json"]) as progress:
        made = make(what, out, _limits(options), progress=progress, **_how(options))
    _tell(made, options)


def _tell_intended(found: Intended, out: Path, options: Mapping[str, Any]) -> None:
    """What would be made."""
    if options["as_json"]:
        print_json({"out": str(out), **found.as_data()})
        return
    if options["quiet"]:
        return
    for note in found.notes:
        say(f"note: {note}", error=True)
    widest = max((len(part.module) for part in found.modules), default=0)
    for part in found.modules[:_ROWS]:
        how = "from its whole change" if part.dense else "from factors"
        say(f"{part.module:<{widest}}  rank at most {part.rank}, {how}", lines=False)
    if len(found.modules) > _ROWS:
        say(f"… and {len(found.modules) - _ROWS} more")
    if found.whole:
        say(f"stored whole: {len(found.whole)} tensors")
    told = f"{len(found.modules)} modules, factors of {human(found.nbytes)} at most"
    say(f"would write {out}/{found.file}: {told}; needs {human(found.memory)} of memory")


def _values(options: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Parameters of the method, as lists of values."""
    from stockpot.recipe.scalars import plain
    from stockpot.recipe.yaml_nodes import compose

    found: dict[str, list[Any]] = {name: list(options[name]) for name in ("weight", "density") if options[name]}
    for text in options["values"]:
        name, equals, value = text.partition("=")
        if not equals or not name or name in found:
            raise click.UsageError(f"--set {text}: write NAME=VALUE, each name once")
        (node,), _ = compose(value or "''")
        found[name] = [plain(node)]
    return found


def _wanted(options: Mapping[str, Any]) -> Wanted:
    from stockpot.lora.factors import Wanted

    return Wanted(options["rank"], options["energy"])


def _needed(options: Mapping[str, Any]) -> Wanted:
    """Of verbs that keep everything without one."""
    if options["rank"] is None and options["energy"] is None:
        raise click.UsageError("give --rank, --energy, or both")
    return _wanted(options)


def _limits(options: Mapping[str, Any]) -> Limits:
    from stockpot.planning.model import Limits

    return Limits(options["memory"], options["threads"] or os.cpu_count() or 1)


def _how(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"overwrite": options["overwrite"], "durable": not options["no_sync"]}


def _asked(options: Mapping[str, Any], *more: str) -> dict[str, Any]:
    """What the receipt tells of the options."""
    return {key: options[key] for key in ("rank", "energy", "dtype", *more)}


def _present(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in asked.items() if v not in (None, "", ())}


def _tell(made: Made, options: Mapping[str, Any]) -> None:
    """What was made."""
    from stockpot.lora.report import table

    report = made.report
    if options["as_json"]:
        print_json({"out": str(made.folder), "bytes": made.nbytes, "memory": report.memory, **report.as_data()})
        return
    if options["quiet"]:
        return
    for note in report.notes:
        say(f"note: {note}", error=True)
    for line in table(report.modules, _ROWS):
        say(line, lines=False)
    if report.whole:
        say(f"stored whole: {len(report.whole)} tensors")
    for name, norm in report.dropped.items():
        say(f"left out: {name}, whose change has norm {norm:.4g}", lines=False)
    kept = f"{100 * report.retained:.2f} % of the squared norm of all changes"
    say(f"{made.folder}: {len(report.modules)} modules, {human(made.nbytes)}, {kept}")
