"""``python tests/fuzz/run.py --target header --count 1000000 --seed 0 --jobs 2``: damaged input by the million.

Each input is read or refused with a StockpotError, in a second and within memory. What breaks something is
kept in tests/fuzz/corpus and replayed by the tests. The exit code is 1 when anything broke.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parents[1] / "src")]

import fuzz  # noqa: E402 - its folder was just put on the path

_PROMISED = dict.fromkeys(fuzz.TARGETS, 100_000) | {
    "header": 1_000_000,
    **dict.fromkeys(("adapter", "table", "tokenizer", "mixture", "suite", "space"), 50_000),
}
_CHUNK = 1000
_ADDRESS_SPACE = 8 << 30


def main():
    """Run the targets that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=[*fuzz.TARGETS, "all"], default="all")
    parser.add_argument("--count", type=int, help="inputs of each target [default: what is promised of it]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    chosen = list(fuzz.TARGETS) if options.target == "all" else [options.target]
    return max([_run(name, options.count or _PROMISED[name], options.seed, options.jobs) for name in chosen])


def _run(name, count, seed, jobs):
    started = time.perf_counter()
    tasks = [(name, range(i, min(i + _CHUNK, count)), seed) for i in range(0, count, _CHUNK)]
    total = fuzz.Result()
    peak = 0
    with multiprocessing.get_context("spawn").Pool(jobs, _limited) as pool:
        for result, memory in pool.imap_unordered(_task, tasks):
            _add(total, result)
            peak = max(peak, memory)
    total.seconds = time.perf_counter() - started
    return _tell(name, total, peak)


def _limited():
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))


def _task(task):
    result = fuzz.run(*task)
    return result, fuzz.peak()


def _add(total, part):
    total.count += part.count
    total.accepted += part.accepted
    total.slowest = max(total.slowest, part.slowest)
    total.grown = max(total.grown, part.grown)
    for where, found in part.failures.items():
        total.failures.setdefault(where, found)


def _tell(name, total, peak):
    rate = total.count / total.seconds
    print(
        f"{name}: {total.count} inputs in {total.seconds:.0f} s ({rate:.0f}/s), {total.accepted} accepted, "
        f"slowest {total.slowest:.3f} s, peak memory {peak / 2**20:.0f} MiB, {len(total.failures)} failures",
        flush=True,
    )
    for data, told in total.failures.values():
        print(f"--- {fuzz.keep(name, data)} ({len(data)} bytes)\n{told[-3000:]}", flush=True)
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())
