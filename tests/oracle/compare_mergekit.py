"""Compare stockpot's `compat: mergekit` with mergekit itself, tensor by tensor.

Makes tiny random Llama, GPT-2 and BERT checkpoints, runs a table of recipes through both tools
and prints for each run how far the results lie apart. pytest does not collect this script: it
needs an environment with mergekit in it (`pip install mergekit`, several hundred megabytes).

Distances of one element are counted in units: the spacing of numbers of the output's dtype (one
unit in the last place) at the largest of |stockpot's value|, |mergekit's value| and the root mean
square of mergekit's tensor. The third term is the absolute criterion: where a sum of ordinary
entries nearly cancels, the result carries the rounding of its operands, not of its own size. The
column `ulp` is the same without the third term.

The columns `M-exact` and `S-exact` say how far mergekit and stockpot lie from the same recipe
computed by mergekit on the same values stored as float64, without a `dtype`. They tell whose
rounding a difference is; in bfloat16 `M-exact` is what mergekit's own arithmetic costs. A few
methods stay in float32 whatever the input (slerp of mergekit 0.1.4): there they tell less.

slerp, nuslerp and model_stock take norms and inner products in the recipe's dtype, and the order
of those sums depends on the processor and on mergekit's release: 0.1.4 and 0.1.5 lie up to four
units apart in float32. `--excuse-rounding` accepts a float32 difference where stockpot is the
one within a unit of the float64 result.

arcee_fusion and ramplus_tl give float32 tensors in mergekit whatever `dtype` says, and stockpot
the dtype asked for: of these only the values are compared.

A recipe that mergekit itself refuses is skipped and counted. Exit status: 0 if all float32 runs
agree to one unit; 1 if one does not, or stockpot refused a recipe, or nothing ran; 2 for wrong
usage; 3 if mergekit or stockpot is not installed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from recipes import CORE, FAMILIES, MORE, Recipe
from tensors import (
    PRECISIONS,
    Distance,
    Precision,
    distance,
    read_folder,
    stored_dtypes,
    tied_copies,
)

HERE = Path(__file__).resolve().parent
MODELS = ("base", "a", "b", "c")
WORDS = 3  # leading columns of the table that hold words
WIDE = 100.0  # from here a number of the table is printed with three digits


@dataclass(frozen=True)
class Case:
    """One run: a recipe on a family in a precision, and where its files lie under `folder`."""

    recipe: Recipe
    family: str
    precision: Precision
    folder: Path

    @property
    def mergekit_out(self) -> Path:
        """Where mergekit writes in the case's own precision."""
        return self.folder / "mergekit"

    @property
    def exact_out(self) -> Path:
        """Where mergekit writes what it makes of the values widened to float64."""
        return self.folder / "exact"

    @property
    def stockpot_out(self) -> Path:
        """Where stockpot writes."""
        return self.folder / "stockpot"


@dataclass
class Row:
    """One line of the table. `refused` names the tool that refused the recipe, `error` says why."""

    recipe: str
    family: str
    precision: str
    refused: str | None = None
    error: str = ""
    elements: int = 0
    names_only_mergekit: list[str] = field(default_factory=list)
    names_only_stockpot: list[str] = field(default_factory=list)
    tied_copies: list[str] = field(default_factory=list)
    other_dtypes: list[str] = field(default_factory=list)
    stockpot_mergekit: Distance | None = None
    mergekit_exact: Distance | None = None
    stockpot_exact: Distance | None = None
    verdict: str = ""


# ------------------------------------------------------------------------------------- the tools


@dataclass(frozen=True)
class Outcome:
    """What came of a list of mergekit jobs: versions, and an error or None for each job."""

    versions: dict[str, str]
    errors: list[str | None]


@dataclass(frozen=True)
class Mergekit:
    """An installed mergekit: its command, and the Python that the command runs under."""

    command: Path

    @property
    def python(self) -> Path:
        """The interpreter named in the first line of the command's script."""
        first = self.command.read_bytes().split(b"\n", 1)[0].decode()
        named = Path(first.removeprefix("#!").strip())
        return named if named.exists() else self.command.with_name("python")

    def make_models(self, out: Path, families: list[str]) -> None:
        """Write the tiny checkpoints."""
        script = [str(self.python), str(HERE / "make_tiny.py"), str(out), "--families", *families]
        subprocess.run(script, check=True, env=offline(), capture_output=True)

    def merge_all(self, jobs: list[tuple[str, str]], *, stable: bool) -> Outcome:
        """Run all jobs (recipe, output) in one process."""
        script = [str(self.python), str(HERE / "run_mergekit.py"), *["--stable"][: int(stable)]]
        done = subprocess.run(
            script,
            input=json.dumps(jobs),
            env=offline(),
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"mergekit's process failed:\n{done.stderr[-4000:]}")
        return Outcome(**json.loads(done.stdout))

    def merge_each(self, jobs: list[tuple[str, str]]) -> Outcome:
        """The same through the command line, one process a recipe: slow, nothing in between."""
        errors: list[str | None] = []
        for recipe, out in jobs:
            line = [str(self.command), recipe, out, "--no-copy-tokenizer", "--quiet", "-j", "1"]
            done = subprocess.run(line, env=offline(), capture_output=True, text=True, check=False)
            errors.append(done.stderr[-300:] if done.returncode else None)
        return Outcome({}, errors)


def offline() -> dict[str, str]:
    """The environment for mergekit: no hub, no progress bars, one thread."""
    return os.environ | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
        "PYTHONHASHSEED": "0",
    }


def run_stockpot(command: Path, case: Case) -> str | None:
    """Merge with stockpot; the end of its error text where it refuses."""
    line = [
        str(command),
        "merge",
        str(case.folder / "stockpot.yml"),
        str(case.stockpot_out),
        *("--threads", "1", "--overwrite", "--quiet"),
    ]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return (done.stderr or done.stdout)[-300:].strip() if done.returncode else None


# ------------------------------------------------------------------------------------- the cases


def placeholders(models: Path, family: str) -> dict[str, str]:
    """What a recipe's placeholders stand for, for the checkpoints in the folder `models`."""
    known = FAMILIES[family]
    return {name: json.dumps(str(models / name)) for name in MODELS} | {
        "n": str(known.layers),
        "half": str(known.layers // 2),
        "attention": known.attention,
        "mlp": known.mlp,
    }


def lay_out(work: Path, options: argparse.Namespace) -> list[Case]:
    """All cases asked for, their recipes written as files."""
    table = {"core": CORE, "more": MORE, "all": CORE + MORE}[options.recipes]
    cases = []
    for number, recipe in enumerate(table):
        if options.only and not any(word in recipe.name for word in options.only):
            continue
        for family in options.families:
            for precision in PRECISIONS:
                if precision.name in options.precisions:
                    folder = work / "runs" / f"{number:02}-{family}-{precision.name}"
                    cases.append(Case(recipe, family, precision, folder))
    for case in cases:
        write_recipes(work / "models" / case.family, case)
    return cases


def write_recipes(models: Path, case: Case) -> None:
    """The recipe as mergekit reads it, as stockpot reads it, and on float64 values."""
    shutil.rmtree(case.folder, ignore_errors=True)
    case.folder.mkdir(parents=True)
    name = case.precision.models
    text = case.recipe.render(placeholders(models / name, case.family)) + case.precision.lines
    wide = case.recipe.render(placeholders(models / f"{name}_wide", case.family))
    (case.folder / "mergekit.yml").write_text(text)
    (case.folder / "stockpot.yml").write_text("compat: mergekit\n" + text)
    (case.folder / "exact.yml").write_text(wide)


def mergekit_jobs(cases: list[Case]) -> list[tuple[str, str]]:
    """The recipe and output of every case, then the same for the float64 values."""
    own = [(str(case.folder / "mergekit.yml"), str(case.mergekit_out)) for case in cases]
    wide = [(str(case.folder / "exact.yml"), str(case.exact_out)) for case in cases]
    return own + wide


def compare(case: Case, row: Row, *, with_stockpot: bool) -> None:
    """Fill in the distances between the results that lie in the case's folder."""
    theirs = read_folder(case.mergekit_out)
    exact = read_folder(case.exact_out)
    row.elements = sum(value.size for value in theirs.values())
    row.mergekit_exact = distance(theirs, exact, theirs, case.precision)
    if not with_stockpot:
        return
    ours = read_folder(case.stockpot_out)
    row.tied_copies = tied_copies(sorted(theirs.keys() - ours.keys()), theirs)
    row.names_only_mergekit = sorted(theirs.keys() - ours.keys() - set(row.tied_copies))
    row.names_only_stockpot = sorted(ours.keys() - theirs.keys())
    dtypes = stored_dtypes(case.stockpot_out)
    for name, dtype in stored_dtypes(case.mergekit_out).items():
        if dtypes.get(name, dtype) != dtype and not (case.recipe.widens and dtype == "F32"):
            row.other_dtypes.append(f"{name}: {dtypes[name]} against {dtype}")
    row.stockpot_mergekit = distance(ours, theirs, theirs, case.precision)
    row.stockpot_exact = distance(ours, exact, theirs, case.precision)


def judge(row: Row, *, excuse: bool) -> str:
    """`ok`, `FAIL` with its reason, or `info` for precisions in which mergekit's rounding rules.

    With `excuse`, a float32 difference passes as `noise` where stockpot lies within one unit of
    the float64 result, so that the difference is mergekit's own rounding.
    """
    if row.refused:
        return "skipped" if row.refused == "mergekit" else "FAIL"
    between = row.stockpot_mergekit
    if between is None or row.stockpot_exact is None:
        return "mergekit ran"
    if row.names_only_mergekit or row.names_only_stockpot:
        return "FAIL (names)"
    if row.other_dtypes or np.isinf(between.units):
        return "FAIL (dtypes, shapes or non-finite values)"
    if between.units <= 1.0 or row.precision != "float32":
        return "ok" if between.units <= 1.0 else "info"
    return "noise" if excuse and row.stockpot_exact.units <= 1.0 else "FAIL (numbers)"


# ------------------------------------------------------------------------------------- reporting


def number(value: float) -> str:
    """A distance in at most six characters."""
    return f"{value:.2f}" if round(value, 2) < WIDE else f"{value:.3g}"


def columns(row: Row) -> tuple[str, ...]:
    """The cells of a row."""
    names = (row.recipe, row.family, row.precision)
    if row.refused:
        reason = f"{row.verdict}: {row.refused} refused: {' '.join(row.error.split())}"
        return (*names, *[""] * 6, reason)
    between, theirs, ours = row.stockpot_mergekit, row.mergekit_exact, row.stockpot_exact
    first = ("",) * 4
    if between:
        first = (
            f"{100 * between.differing:.3f}",
            number(between.ulp),
            number(between.units),
            str(between.beyond),
        )
    rest = (number(theirs.units) if theirs else "", number(ours.units) if ours else "")
    worst = between or theirs
    note = worst.worst if worst and worst.units > 1.0 else ""
    return (*names, *first, *rest, f"{row.verdict} {note}".strip())


def print_table(rows: list[Row], versions: dict[str, str]) -> None:
    """The table as text, with the meaning of its columns above it."""
    print("  ".join(f"{name} {version}" for name, version in versions.items()))
    print("differ: share of elements that are not equal. ulp, units, > 1: the largest distance")
    print("stockpot-mergekit, also with the floor at the tensor's root mean square, and the number")
    print("of elements beyond one such unit. M-exact, S-exact: units from the float64 result.")
    head = ("recipe", "model", "precision", "differ %", "ulp", "units", "> 1", "M-exact", "S-exact")
    lines = [(*head, "verdict, worst tensor"), *map(columns, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        cells = [
            cell.ljust(width) if i < WORDS else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=False))
        ]
        print("  ".join((*cells, line[-1])).rstrip())
    failed = sum(row.verdict.startswith("FAIL") for row in rows)
    skipped = sum(row.verdict == "skipped" for row in rows)
    print(f"{len(rows) - failed - skipped} passed, {failed} failed, {skipped} skipped")


def find(option: str | None, name: str) -> Path | None:
    """The executable given by an option, or on PATH; None where there is none."""
    found = shutil.which(option or name)
    return Path(found) if found else None


def arguments() -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [precision.name for precision in PRECISIONS]
    parser.add_argument("--mergekit", metavar="PATH", help="the mergekit-yaml command")
    parser.add_argument("--stockpot", metavar="PATH", help="the stockpot command")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--precisions", nargs="+", choices=names, default=names)
    parser.add_argument("--recipes", choices=("core", "more", "all"), default="core")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="recipes with WORD in the name")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in DIR, leave all files")
    parser.add_argument("--mergekit-only", action="store_true", help="do not run stockpot")
    parser.add_argument("--cli", action="store_true", help="start mergekit-yaml for every recipe")
    parser.add_argument("--unstable", action="store_true", help="let torch order equal magnitudes as it likes")
    parser.add_argument(
        "--excuse-rounding",
        action="store_true",
        help="pass a float32 difference where stockpot is within one unit of the float64 result",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser.parse_args()


def run(work: Path, mergekit: Mergekit, stockpot: Path | None, options: argparse.Namespace) -> int:
    """Do everything in the folder `work`; the exit status."""
    last = "bf16_wide/c/model.safetensors"
    missing = [name for name in options.families if not (work / "models" / name / last).exists()]
    if missing:
        mergekit.make_models(work / "models", missing)
    cases = lay_out(work, options)
    jobs = mergekit_jobs(cases)
    done = mergekit.merge_each(jobs) if options.cli else mergekit.merge_all(jobs, stable=not options.unstable)
    errors = done.errors
    rows = []
    for case, error, wide in zip(cases, errors, errors[len(cases) :], strict=False):
        row = Row(case.recipe.name, case.family, case.precision.name)
        if refusal := error or wide:
            row.refused, row.error = "mergekit", refusal
        elif stockpot and (refusal := run_stockpot(stockpot, case)) is not None:
            row.refused, row.error = "stockpot", refusal
        else:
            compare(case, row, with_stockpot=stockpot is not None)
        row.verdict = judge(row, excuse=options.excuse_rounding)
        rows.append(row)
        if sys.stderr.isatty():
            print(f"\r{len(rows)} of {len(cases)}", end="", file=sys.stderr, flush=True)
    if options.json:
        document = {"versions": done.versions, "rows": [asdict(row) for row in rows]}
        print(json.dumps(document, indent=1))
    else:
        print_table(rows, done.versions)
    skipped = all(row.verdict == "skipped" for row in rows)
    return int(skipped or any(row.verdict.startswith("FAIL") for row in rows))


def main() -> int:
    """Find the tools, choose the folder, run; the exit status."""
    options = arguments()
    command = find(options.mergekit, "mergekit-yaml")
    if command is None:
        wanted = options.mergekit or "mergekit-yaml on PATH"
        print(f"mergekit is not installed here ({wanted} not found): nothing was compared. Give")
        print("the command of an environment that has it: --mergekit PATH/TO/mergekit-yaml")
        return 3
    stockpot = None if options.mergekit_only else find(options.stockpot, "stockpot")
    if stockpot is None and not options.mergekit_only:
        wanted = options.stockpot or "stockpot on PATH"
        print(f"stockpot is not installed here ({wanted} not found): nothing was compared. Install")
        print("it, give --stockpot PATH/TO/stockpot, or ask for --mergekit-only")
        return 3
    mergekit = Mergekit(command.absolute())
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        return run(options.keep.resolve(), mergekit, stockpot, options)
    with tempfile.TemporaryDirectory(prefix="stockpot-oracle-") as folder:
        return run(Path(folder), mergekit, stockpot, options)


if __name__ == "__main__":
    sys.exit(main())
