"""The whole torture: kills, faults, full disks. ``python tests/torture/run.py [--kills 200] [--part NAME …]``.

Every merge that is broken off is continued with the same command, and its output compared byte for byte.
"""

from __future__ import annotations

import argparse
import errno
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "search"))

import evaluations
import faults
import full_disk
import kills
import searches
import system_calls
from scene import Scene
from scenes import SCENES

SURVEYED = """\
merge_method: ties
base_model: base
models: [{model: a}, {model: b}]
parameters: {density: 0.3, scope: model}
"""


def random_kills(folder, options):
    """SIGKILL from outside at random moments."""
    scene = Scene(folder)
    tried = kills.kill_at_random(scene, options.kills)
    scene.close()
    late = tried - options.kills
    return f"{options.kills} kills at random moments, each resumed: identical outputs ({late} more came after the end)"


def exact_kills(folder, _):
    """SIGKILL before and after every call; of those that read, every tenth where statistics of the model need many."""
    found = []
    for name, models in (("dare_ties", {}), ("ties over the whole model", {"recipe": SURVEYED, "tensors": 4})):
        scene = Scene(f"{folder}-{len(found)}", **models)
        calls = kills.calls_of_a_merge(scene)
        numbers = [n for n, call in enumerate(calls, 1) if not found or call != "preadv" or n % 10 == 0]
        killed = kills.kill_at_calls(scene, numbers)
        scene.close()
        told = f"{name}: {killed} kills around {len(numbers)} of {len(calls)} calls, {calls.count('rename')} rename"
        found.append(f"{told} and {calls.count('pwrite')} writes among them")
    return "; ".join(found)


def failing_calls(folder, _):
    """Each call fails, or moves half of the bytes."""
    scene = Scene(folder)
    count = len(kills.calls_of_a_merge(scene))
    numbers = range(1, count + 1)
    failed = {name: faults.fail_at_calls(scene, numbers, getattr(errno, name)) for name in ("EIO", "ENOSPC", "ESTALE")}
    faults.shorten_calls(scene, numbers)
    scene.close()
    ended = ", ".join(f"{name}: {n} ended with an error" for name, n in failed.items())
    return f"each of {count} calls failing ({ended}) and moving half of its bytes"


def full_disks(folder, _):
    """A tmpfs that fills up before each write."""
    reason = full_disk.cannot_mount()
    if reason is not None:
        return f"NOT RUN: {reason}"
    scene = Scene(folder)
    runs = []
    with full_disk.small_disk(str(scene.folder / "disk"), 8 << 20) as disk:
        writes = full_disk.writes_of_a_merge(scene, disk)
        for reserve in (True, False):
            runs += [full_disk.fill_up_at(scene, disk, n, reserve=reserve) for n in writes]
    scene.close()
    return f"a disk filling up before each of {len(writes)} writes, with and without reservations: {len(runs)} runs"


def failing_system_calls(folder, _):
    """Each system call fails, by strace."""
    reason = system_calls.cannot_trace()
    if reason is not None:
        return f"NOT RUN: {reason}"
    scene = Scene(folder, tensors=3, elements=300)
    results = system_calls.fail_each(scene, tell=lambda text: print("   ", text, flush=True))
    scene.close()
    runs, failed = (sum(column) for column in zip(*results.values(), strict=True))
    return f"each of {runs} system calls failing with EIO: {failed} ended with an error"


def forms(folder, _):
    """Every form of output: calls that fail (EIO at each, ENOSPC and ESTALE at every seventh) or fall short; kills."""
    found = []
    for name, kind in SCENES.items():
        scene = Scene(folder / name, kind=kind)
        calls = kills.calls_of_a_merge(scene)
        numbers = range(1, len(calls) + 1)
        failed = faults.fail_at_calls(scene, numbers, errno.EIO)
        for code in (errno.ENOSPC, errno.ESTALE):
            failed += faults.fail_at_calls(scene, numbers[code % 7 :: 7], code)
        faults.shorten_calls(scene, kills.moving(calls))
        killed = kills.kill_at_calls(scene, kills.changing(calls))
        scene.close()
        found.append(f"{name}: {len(calls)} calls, {failed} ended with an error, {killed} kills")
        print("   ", found[-1], flush=True)
    return "; ".join(found)


def killed_evaluations(folder, options):
    """SIGKILL at random moments of evaluations and soups."""
    each = max(1, options.kills // 4)
    for verb in evaluations.VERBS:
        evaluations.kill_evaluations(f"{folder}-{verb}", verb, each)
    return f"{each} kills each of {' and '.join(evaluations.VERBS)}, each repeated: equal figures, the cache sound"


def killed_searches(folder, options):
    """SIGKILL at random moments of searches."""
    count = max(1, options.kills // 5)
    runs, whole = searches.kill_searches(folder, count)
    told = f"{count} kills of searches in {runs} runs, {whole} searches ended: trials and tables as of one in one piece"
    return f"{told}, studies sound, no process left"


PARTS = {
    "random-kills": random_kills,
    "exact-kills": exact_kills,
    "failing-calls": failing_calls,
    "forms": forms,
    "full-disks": full_disks,
    "failing-system-calls": failing_system_calls,
    "evaluations": killed_evaluations,
    "searches": killed_searches,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--part", action="append", choices=PARTS)
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {os.cpu_count()} cores")
    missing = False
    with tempfile.TemporaryDirectory(prefix="stockpot-torture-") as place:
        for name in options.part or PARTS:
            started = time.perf_counter()
            told = PARTS[name](Path(place) / name, options)
            missing |= told.startswith("NOT RUN")
            print(f"{name}: {told} ({time.perf_counter() - started:.0f} s)", flush=True)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
