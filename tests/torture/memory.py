"""What every method and form of output takes, as the kernel counts it, against its budget and what the plan says.

    python tests/torture/memory.py                 all of them, with the least budget its plan accepts
    python tests/torture/memory.py ties tsv_m      these
    python tests/torture/memory.py union           or a form of output

Prints a table and leaves with 1 if any process was larger than its budget or than its plan. It takes about
2 GB of disk and some minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from large import LARGE, measured_form

from given import Form, forms, required
from measured import MIB, large_model, least, planned, stockpot
from stockpot.methods.declare import Base, Matrix
from stockpot.methods.registry import METHODS

BIG = {"embed.weight": (8192, 4096), "layers.0.w": (2048, 4096), "layers.1.w": (2048, 4096), "norm.weight": (4096,)}
SQUARE = {"layers.0.w": (1024, 1024), "layers.1.w": (512, 2048), "layers.2.w": (2048, 512), "norm.weight": (1024,)}
MORE = [
    Form(METHODS["nuslerp"], {"nuslerp_flatten": False}),
    Form(METHODS["nuslerp"], {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
    Form(METHODS["dare_ties"], {"density": 0.5}),
    Form(METHODS["della"], {"density": 0.5, "epsilon": 0.2}),
    Form(METHODS["ties"], {"density": 0.2, "scope": "model"}),
    Form(METHODS["ties"], {"density": 0.2}),
    Form(METHODS["breadcrumbs"], {"density": 0.5, "gamma": 0.1}),
    Form(METHODS["sce"], {"select_topk": 0.2}),
]


def write_recipe(folder: Path, form: Form, count: int) -> Path:
    """A recipe of ``form`` over ``count`` models of ``folder``, with the companions that it needs, as JSON."""
    method = form.method
    many = count if method.at_most is None else min(count, method.at_most)
    if method.base is Base.MEMBER:
        many -= 1
    one = {k: v for k, v in {**required(method), **form.parameters}.items() if v is not None}
    entries = []
    for i in range(many):
        own = {c.name: str(folder / f"{c.name}{i}") for c in method.companions if c.required and c.per_model}
        entries.append({"model": str(folder / f"m{i + 1}"), "parameters": own})
    one |= {c.name: str(folder / f"{c.name}0") for c in method.companions if c.required and not c.per_model}
    recipe = {"merge_method": method.name, "models": entries, "parameters": one}
    if method.base in (Base.REQUIRED, Base.MEMBER):
        recipe["base_model"] = str(folder / "m0")
    path = folder / f"{form}.yml"
    path.write_text(json.dumps(recipe))
    return path


def make_models(folder: Path, shapes: dict[str, tuple[int, ...]], count: int, form: Form | None = None) -> None:
    """A base and ``count`` models; or the companions of a form."""
    if form is None:
        for i in range(count + 1):
            large_model(folder / f"m{i}", shapes, data=1 << 62, seed=i)
        return
    for companion in form.method.companions:
        own = {n: (s[-1:] * 2 if companion.gram and len(s) == 2 else s) for n, s in shapes.items()}
        for i in range(count if companion.required else 0):
            large_model(folder / f"{companion.name}{i}", own, code="F32", data=1 << 62, seed=100 + i)


def measure(folder: Path, recipe: Path, budget: int, *arguments: str) -> tuple[int, int, str]:
    """(planned, peak, threads or error) of one merge within a budget."""
    limits = ("--memory", str(budget), *arguments)
    cost = planned(recipe, *limits)
    out = folder / "out"
    done = stockpot("merge", recipe, out, "--quiet", *limits)
    shutil.rmtree(out, ignore_errors=True)
    return cost["memory"], done.peak, str(cost["threads"]) if done.code == 0 else done.errors.strip()[:100]


def rows(folder: Path, names: list[str]) -> list[tuple[str, int, int, int, str]]:
    """One row for each form and budget."""
    found = []
    for form in [*forms(), *MORE]:
        if names and form.method.name not in names:
            continue
        matrix = isinstance(form.method.family, Matrix)
        place = folder / ("square" if matrix else "big")
        make_models(place, SQUARE if matrix else BIG, 3, form)
        recipe = write_recipe(place, form, 3)
        for budget, more in ((least(recipe), ("--threads", "1")), (1024 * MIB, ("--threads", "4"))):
            row = (str(form), budget, *measure(place, recipe, budget, *more))
            found.append(row)
            show(row)
    return found


def form_rows(folder: Path, names: list[str]) -> list[tuple[str, int, int, int, str]]:
    """One row for each form of output, each with tensors larger than its budget."""
    found = []
    for name in LARGE:
        if names and name not in names:
            continue
        budget, plan, done = measured_form(folder / name, name)
        shutil.rmtree(folder / name)
        found.append((f"{name} (form)", budget, plan, done.peak, "1" if done.code == 0 else done.errors.strip()[:100]))
        show(found[-1])
    return found


def show(row: tuple[str, int, int, int, str]) -> None:
    """One line of the table, in MiB."""
    name, budget, plan, peak, note = row
    mark = "" if 0 < peak <= min(budget, plan) and note.isdigit() else "  !"
    print(f"{name:44} {budget >> 20:6} {plan / MIB:8.1f} {peak / MIB:8.1f}  {note}{mark}", flush=True)


def main() -> int:
    """Measure and print; 1 if anything was larger than it should."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", metavar="METHOD|FORM")
    parser.add_argument("--folder", type=Path, help="where the models are made (a temporary folder)")
    options = parser.parse_args()
    print(f"{'method':44} {'budget':>6} {'planned':>8} {'peak':>8}  threads   (MiB)")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make_models(folder / "big", BIG, 3)
        make_models(folder / "square", SQUARE, 3)
        measured = [*form_rows(folder, options.methods), *rows(folder, options.methods)]
    return int(any(not note.isdigit() or peak > min(budget, plan) for _, budget, plan, peak, note in measured))


if __name__ == "__main__":
    sys.exit(main())
