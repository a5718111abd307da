"""Measure how many candidates of a search are merged a second: recipes of one text with other values, in memory.

Makes a base and three fine-tunes of 20 M parameters where they are missing. Each method is run as a search runs it, in
one process: a recipe's text with new values is parsed, planned, hashed (so that predictions could be looked up) and
merged into arrays, which the next candidate replaces. Inputs are in the page cache; kernels are compiled before.

    python benchmarks/search.py                          100 candidates of each method, bfloat16 and float32
    python benchmarks/search.py --methods ties --profile where the time goes
"""

import argparse
import cProfile
import os
import pstats
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = 5.0
"""Candidates a second, on two cores."""


def recipes(folder: Path, tensors: list[str]) -> dict[str, Callable[[int, float], str]]:
    """Method → number and value in (0, 1) of a candidate → text."""
    models = ("ft1", "ft2", "ft3")
    base = f"base_model: {folder / 'base'}\n"

    def entries(**parameters: str) -> str:
        own = ", ".join(f"{name}: {value}" for name, value in parameters.items())
        return "models:\n" + "".join(f"  - {{model: {folder / m}, parameters: {{{own}}}}}\n" for m in models)

    def by_tensor(x: float) -> str:
        own = "".join(f"\n    - {{filter: {n!r}, value: {(x + i / 7) % 1:.4f}}}" for i, n in enumerate(tensors))
        return f"merge_method: task_arithmetic\n{base}{entries()}parameters:\n  weight:{own}\n    - {{value: {x}}}\n"

    return {
        "linear": lambda _, x: f"merge_method: linear\n{entries(weight=f'{x + 0.1}')}",
        "slerp": lambda _, x: (
            f"merge_method: slerp\nbase_model: {folder / 'ft1'}\nmodels: [{{model: {folder / 'ft2'}}}]\n"
            f"parameters: {{t: {x}}}\n"
        ),
        "task_arithmetic": lambda _, x: f"merge_method: task_arithmetic\n{base}{entries(weight=f'{x}')}",
        "per tensor": lambda _, x: by_tensor(x),
        "ties": lambda _, x: f"merge_method: ties\n{base}{entries(weight='0.5', density=f'{0.1 + 0.8 * x}')}",
        "dare_ties": lambda _, x: f"merge_method: dare_ties\n{base}{entries(weight='0.5', density=f'{0.1 + 0.8 * x}')}",
        "model_stock": lambda i, _: f"merge_method: model_stock\n{base}{entries()}# {i}\n",
    }


def values(count: int) -> Iterator[float]:
    """Different numbers in (0, 1)."""
    return (round((0.37 + 0.618 * i) % 1, 6) for i in range(count))


def models_folder(folder: Path, dtype: str) -> Path:
    """Where the models are, made first where they are not."""
    out = folder.resolve() / f"20m-{dtype}"
    if not (out / "ft3" / "config.json").exists():
        command = [sys.executable, str(HERE / "make_models.py"), str(out), "--size", "20m", "--dtype", dtype]
        subprocess.run([*command, "--fine-tunes", "3"], check=True)
    return out


def run(texts: list[str], threads: int) -> list[list[float]]:
    """Seconds of each candidate: parsing, planning, hashing, merging."""
    from stockpot.evaluate import Cache, Inputs, candidate
    from stockpot.evaluate.identity import model_hash
    from stockpot.recipe.parse import parse_recipe

    found, inputs = [], Inputs()
    with Cache(None) as cache:
        for text in texts:
            times = [time.perf_counter()]
            recipe = parse_recipe(text, name="candidate")
            times.append(time.perf_counter())
            one = candidate(recipe, threads=threads, inputs=inputs)
            _ = one.plan
            times.append(time.perf_counter())
            model_hash(one.plan, cache)
            times.append(time.perf_counter())
            _ = one.opened().tensors
            times.append(time.perf_counter())
            found.append([b - a for a, b in pairwise(times)])
    return found


def main() -> None:
    """Parse the command line, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(".bench"))
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--methods", nargs="*", default=None)
    parser.add_argument("--dtypes", nargs="*", default=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--profile", action="store_true", help="print where the calling thread's time goes")
    options = parser.parse_args()
    parts = ("parse", "plan", "hash", "merge")
    heads = "  ".join(f"{part:>6}" for part in parts)
    print(f"{'method':<16} {'dtype':<9} {'per second':>10} {'cpu ms':>7}   median ms: {heads}")
    slow = False
    for dtype in options.dtypes:
        known = recipes(models_folder(options.folder, dtype), [f"layers.{i}." for i in range(8)])
        for method in options.methods or known:
            texts = [known[method](i, x) for i, x in enumerate(values(options.candidates + 2))]
            run(texts[:2], options.threads)
            profile = cProfile.Profile()
            if options.profile:
                profile.enable()
            started, used = time.perf_counter(), time.process_time()
            times = run(texts[2:], options.threads)
            rate = len(times) / (time.perf_counter() - started)
            cpu = 1000 * (time.process_time() - used) / len(times)
            profile.disable()
            medians = [f"{1000 * statistics.median(own):6.1f}" for own in zip(*times, strict=True)]
            print(f"{method:<16} {dtype:<9} {rate:>10.1f} {cpu:>7.0f}              {'  '.join(medians)}", flush=True)
            slow |= rate < TARGET
            if options.profile:
                pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
    sys.exit(slow)


if __name__ == "__main__":
    main()
