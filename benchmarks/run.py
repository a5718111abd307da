"""Measure `stockpot merge` against the floor (reading and writing the same bytes) and mergekit.

Makes the models where they are missing, then for each method alternates floor and merge. Every
number is of a whole process as a user starts it: wall time with start-up, and the peak resident
set the kernel reports for it. Inputs are in the page cache; outputs go to a new folder, and what
earlier runs left is removed and flushed to disk before the clock starts.

    python benchmarks/run.py                      about 20 GB of disk in ./.bench
    python benchmarks/run.py --size 15m --runs 1  a quick look
    python benchmarks/run.py --all                every streamed method
    python benchmarks/run.py --matrix             methods on whole matrices, on models of 15 M parameters
    python benchmarks/run.py --big-tensor         peak memory with a tensor beyond the budget
"""

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rows import BIG_METHODS, CORE, MATRIX, METHODS, Method

HERE = Path(__file__).resolve().parent
START_UP_SECONDS = 1.0
"""Taken off the wall time before it is divided by the floor: starting the interpreter."""
PEAK_TARGET_MB = 700


@dataclass(frozen=True)
class Measured:
    """Wall seconds and peak resident set (MB of 10^6 bytes) of one process."""

    seconds: float
    peak_mb: float


@dataclass
class Row:
    """All samples of one method; the figures of the table are made from them."""

    method: str
    passes: int = 1
    floors: list[float] = field(default_factory=list)
    merges: list[Measured] = field(default_factory=list)
    mergekit: list[Measured] = field(default_factory=list)

    @property
    def floor(self) -> float:
        """Median seconds of the floor."""
        return statistics.median(self.floors)

    @property
    def wall(self) -> float:
        """Median seconds of a whole merge."""
        return statistics.median(sample.seconds for sample in self.merges)

    @property
    def k(self) -> float:
        """How many times the floor a merge takes, start-up taken off."""
        return (self.wall - START_UP_SECONDS) / self.floor

    @property
    def peak_mb(self) -> float:
        """The largest peak of all merges, the warm-up left out."""
        return max(sample.peak_mb for sample in self.merges)

    @property
    def mergekit_wall(self) -> float | None:
        """Median seconds of mergekit, where it was run."""
        return statistics.median(s.seconds for s in self.mergekit) if self.mergekit else None


# ------------------------------------------------------------------------------------- measuring


def run_measured(command: list[str], environment: dict[str, str]) -> Measured:
    """Run a command to its end. On failure, leave with its error text.

    The peak includes what the child shares with this process before it starts its program, so
    this script keeps small itself.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    errors = process.stderr.read() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)}\nfailed with {process.returncode}:\n{errors[-3000:]}")
    return Measured(seconds, usage.ru_maxrss * 1024 / 1e6)


def clean(out: Path) -> None:
    """Remove an earlier result and let the disk catch up, so that no run pays for the last."""
    for folder in (out, out.with_name(out.name + ".partial")):
        shutil.rmtree(folder, ignore_errors=True)
    os.sync()


def warm(models: Path, names: set[str]) -> None:
    """Read all inputs once, so that they are in the page cache."""
    buffer = bytearray(8 << 20)
    for name in sorted(names):
        for path in sorted((models / name).glob("*.safetensors")):
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def floor(work: Path, models: Path, method: Method, threads: int) -> float:
    """Seconds of the floor for one method, in a process of its own."""
    folders = [str(models / name) for name in method.models]
    out = work / "floor"
    clean(out)
    command = [sys.executable, str(HERE / "floor.py"), str(out), *folders]
    done = subprocess.run([*command, "--threads", str(threads)], check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def merge(work: Path, recipe: Path, expected: int, options: argparse.Namespace) -> Measured:
    """One merge with stockpot; `expected` is the number of bytes its tensors should take."""
    out = work / "out"
    clean(out)
    command = [options.stockpot, "merge", str(recipe), str(out), "--quiet"]
    command += ["--threads", str(options.threads)]
    command += ["--memory", options.memory] if options.memory else []
    measured = run_measured(command, dict(os.environ))
    check_size(out, expected)
    clean(out)
    return measured


def merge_with_mergekit(work: Path, recipe: Path, expected: int, command: str) -> Measured:
    """One merge with mergekit, as it comes, without a tokenizer to copy."""
    out = work / "out"
    clean(out)
    measured = run_measured(
        [command, str(recipe), str(out), "--no-copy-tokenizer", "--quiet"],
        os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    check_size(out, expected)
    clean(out)
    return measured


def check_size(out: Path, expected: int) -> None:
    """Leave where a result is not of the size of its inputs: it would not be worth timing."""
    size = tensor_bytes(out)
    if abs(size - expected) > expected // 100 + 100_000:
        sys.exit(f"{out} holds {size} bytes of tensors, {expected} were expected")


def tensor_bytes(folder: Path) -> int:
    """The size of all safetensors files of a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


# ------------------------------------------------------------------------------------ the models


def models_folder(options: argparse.Namespace, fine_tunes: int, size: str) -> Path:
    """The folder with `base`, `ft1` ...; made first where it is not complete."""
    if options.models:
        return Path(options.models).resolve()
    out = Path(options.folder).resolve() / size
    last = out / f"ft{fine_tunes}" / "config.json"
    if not last.exists():
        say(f"making {size} models in {out}")
        command = [sys.executable, str(HERE / "make_models.py"), str(out), "--size", size]
        subprocess.run([*command, "--fine-tunes", str(fine_tunes)], check=True)
    return out


def write_recipe(work: Path, models: Path, method: Method) -> Path:
    """The method's recipe as a file, with absolute paths."""
    text = f"merge_method: {method.method or method.name}\n{method.recipe}dtype: bfloat16\n"
    for name in method.models:
        text = text.replace("{" + name + "}", json.dumps(str(models / name)))
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{method.name.replace(' ', '-')}.yml"
    path.write_text(text)
    return path


def passes_of(recipe: Path, options: argparse.Namespace) -> int:
    """Most passes over a tensor that the plan declares."""
    command = [options.stockpot, "plan", str(recipe), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(json.loads(done.stdout)["cost"]["passes"])


def say(line: str) -> None:
    """Report progress."""
    print(line, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------ both modes


def compare_speed(options: argparse.Namespace) -> list[Row]:
    """Floor and merge in turn, for every method asked for; then mergekit."""
    methods = [method for method in METHODS if method.name in options.methods]
    models = models_folder(options, 3, options.size)
    work = Path(options.folder).resolve() / "work"
    warm(models, {name for method in methods for name in method.models})
    expected = tensor_bytes(models / "ft1")
    rows = []
    for method in methods:
        recipe = write_recipe(work, models, method)
        row = Row(method.name, passes_of(recipe, options))
        say(f"{method.name}: warm-up")
        merge(work, recipe, expected, options)
        floor(work, models, method, options.threads)
        for number in range(options.runs):
            row.floors.append(floor(work, models, method, options.threads))
            row.merges.append(merge(work, recipe, expected, options))
            say(
                f"{method.name} {number + 1}/{options.runs}: floor {row.floors[-1]:.2f} s,"
                f" merge {row.merges[-1].seconds:.2f} s, {row.merges[-1].peak_mb:.0f} MB"
            )
        for _ in range(options.mergekit_runs if options.mergekit and method.mergekit_target else 0):
            row.mergekit.append(merge_with_mergekit(work, recipe, expected, options.mergekit))
            say(f"{method.name}: mergekit {row.mergekit[-1].seconds:.1f} s")
        rows.append(row)
    return rows


def measure_big_tensor(options: argparse.Namespace) -> list[Row]:
    """Merge models of one tensor that is larger than the memory budget."""
    options.memory = options.memory or "512MiB"
    models = models_folder(options, 2, "big")
    work = Path(options.folder).resolve() / "work"
    expected = tensor_bytes(models / "ft1")
    rows = []
    for method in BIG_METHODS:
        if method.name in options.methods:
            warm(models, set(method.models))
            row = Row(method.name)
            recipe = write_recipe(work, models, method)
            merge(work, recipe, expected, options)
            row.merges.append(merge(work, recipe, expected, options))
            say(f"{method.name}: {row.merges[0].seconds:.1f} s, {row.merges[0].peak_mb:.0f} MB")
            rows.append(row)
    return rows


# ------------------------------------------------------------------------------------- reporting


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    facts = {"processor": platform.machine(), "memory": "unknown"}
    for line in read_lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            facts["processor"] = line.split(":", 1)[1].strip()
    for line in read_lines("/proc/meminfo"):
        if line.startswith("MemTotal"):
            facts["memory"] = f"{int(line.split()[1]) / 2**20:.1f} GiB"
    facts["cores"] = str(len(os.sched_getaffinity(0)))
    facts["python"] = platform.python_version()
    return facts


def read_lines(path: str) -> list[str]:
    """The lines of a text file, none where there is no such file."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def against(value: float, limit: float, *, most: bool) -> str:
    """A figure beside its target, marked where it misses it. `most`: the target is a maximum."""
    if math.isinf(limit):
        return f"{value:.2f}"
    missed = value > limit if most else value < limit
    return f"{value:.2f} ({'<=' if most else '>='} {limit:g}){' !' if missed else ''}"


def speed_cells(row: Row) -> tuple[str, ...]:
    """One line of the speed table."""
    method = next(method for method in METHODS if method.name == row.method)
    spread = f"{min(s.seconds for s in row.merges):.2f}-{max(s.seconds for s in row.merges):.2f}"
    cells = (
        row.method,
        str(row.passes),
        f"{row.floor:.2f}",
        f"{row.wall:.2f}",
        spread,
        against(row.k, method.most(row.passes), most=True),
        f"{row.peak_mb:.0f} (<= {PEAK_TARGET_MB}){' !' if row.peak_mb > PEAK_TARGET_MB else ''}",
    )
    if row.mergekit_wall is None:
        return (*cells, "", "", "")
    ratio = against(row.mergekit_wall / row.wall, method.mergekit_target, most=False)
    peak = f"{max(sample.peak_mb for sample in row.mergekit):.0f}"
    return (*cells, f"{row.mergekit_wall:.1f}", ratio, peak)


def print_columns(lines: list[tuple[str, ...]]) -> None:
    """Print rows of cells in aligned columns, the first one to the left."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        first, *rest = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join((first, *rest)).rstrip())


def print_speed(rows: list[Row], options: argparse.Namespace) -> None:
    """The speed table with the machine and the method of measuring."""
    print_machine()
    print(f"models {options.models or options.size}, bfloat16; {options.threads} threads;")
    print(f"median of {options.runs} runs, floor and merge in turn, inputs in the page cache;")
    print("whole processes with start-up; one warm-up merge (compiles kernels) not counted.")
    print("floor: every input byte read once, every output byte written once. k = (wall - 1 s) /")
    print("floor. peak: resident set, MB of 10^6 bytes. ratio: mergekit's wall over stockpot's.")
    print("Targets in brackets, ! where one is missed; they are meant for the 1.1b models, where")
    print("the floor is long against start-up.")
    head = ("method", "passes", "floor s", "wall s", "min-max", "k", "peak MB")
    more = ("mergekit s", "ratio", "mergekit MB")
    print_columns([(*head, *more), *map(speed_cells, rows)])
    if not options.mergekit:
        print("mergekit was not measured: it is not installed here (--mergekit PATH).")


def print_big(rows: list[Row], options: argparse.Namespace) -> None:
    """The table of the big-tensor mode."""
    print_machine()
    size = tensor_bytes(models_folder(options, 2, "big") / "ft1") / 2**30
    print(f"one tensor of {size:.2f} GiB a model, bfloat16, budget --memory {options.memory},")
    print(f"{options.threads} threads, one run after a warm-up merge, inputs in the page cache")
    print("where they fit; peak: resident set, MB of 10^6 bytes.")
    lines = [(row.method, f"{row.wall:.2f}", f"{row.peak_mb:.0f}") for row in rows]
    print_columns([("method", "wall s", "peak MB"), *lines])


def print_machine() -> None:
    """One line about the machine."""
    print(", ".join(f"{name} {value}" for name, value in machine().items()))


def arguments() -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [method.name for method in METHODS]
    parser.add_argument("--folder", default=".bench", help="models and outputs (default ./.bench)")
    parser.add_argument("--models", help="a folder with base, ft1, ft2, ft3 to use as it is")
    parser.add_argument("--size", choices=("1.1b", "250m", "15m"), help="1.1b, or 15m with --matrix")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", help="passed to stockpot merge; 512MiB with --big-tensor")
    parser.add_argument("--methods", nargs="+", choices=names, help="only these")
    parser.add_argument("--all", action="store_true", help="every streamed method")
    parser.add_argument("--matrix", action="store_true", help="the methods on whole matrices")
    parser.add_argument("--stockpot", default=shutil.which("stockpot"), help="the command")
    parser.add_argument("--mergekit", default=shutil.which("mergekit-yaml"), help="mergekit-yaml")
    parser.add_argument("--mergekit-runs", type=int, default=1, help="0 leaves mergekit out")
    parser.add_argument("--big-tensor", action="store_true")
    parser.add_argument("--json", action="store_true", help="print all samples as JSON")
    options = parser.parse_args()
    if not options.stockpot:
        parser.error("stockpot is not installed here; give --stockpot PATH/TO/stockpot")
    options.size = options.size or ("15m" if options.matrix else "1.1b")
    if not options.methods:
        chosen = MATRIX if options.matrix else METHODS[: -len(MATRIX)] if options.all else CORE
        options.methods = [method.name for method in chosen]
    return options


def main() -> None:
    """Measure and print."""
    options = arguments()
    rows = measure_big_tensor(options) if options.big_tensor else compare_speed(options)
    if options.json:
        document = {
            "machine": machine(),
            "threads": options.threads,
            "memory": options.memory,
            "targets": {method.name: asdict(method) for method in METHODS},
            "rows": [asdict(row) for row in rows],
        }
        print(json.dumps(document, indent=1))
    elif options.big_tensor:
        print_big(rows, options)
    else:
        print_speed(rows, options)


if __name__ == "__main__":
    main()
