"""Processes as the kernel counts them, and large models that cost little disk."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from dataclasses import dataclass
from math import prod

import numpy as np

MIB = 1 << 20

_WIDTHS = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1}

_LAUNCHER = """
import atexit, sys
def tell():
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(f"peak {peak} kB", file=sys.stderr)
atexit.register(tell)
sys.argv[0] = "stockpot"
from stockpot.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Done:
    """A finished command: its exit code, what it printed, the largest resident set it had (bytes)."""

    code: int
    out: str
    errors: str
    peak: int


def environment(**more):
    """The environment of a child that finds the modules that this process finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **more}


def stockpot(*arguments, enter=None, **more):
    """Run the command line in a process that tells its VmHWM, which begins anew with each program, when it ends.

    Args:
        enter: Called in the child before the program begins.
        more: Variables of its environment.
    """
    command = [sys.executable, "-c", _LAUNCHER, *map(str, arguments)]
    done = subprocess.run(
        command, env=environment(**more), capture_output=True, text=True, check=False, preexec_fn=enter
    )
    peak = re.search(r"^peak (\d+) kB$", done.stderr, re.MULTILINE)
    errors = re.sub(r"^peak \d+ kB\n", "", done.stderr, flags=re.MULTILINE)
    return Done(done.returncode, done.stdout, errors, int(peak[1]) << 10 if peak else -1)


def large_model(folder, shapes, *, code="BF16", data=0, seed=0):
    """A model whose tensors are holes but for the first ``data`` elements of each: normal, around 0.02 wide.

    Args:
        shapes: Tensor name → shape.
        code: Of all tensors, or tensor name → code.
    """
    place, header, starts = 0, {}, []
    for name, shape in shapes.items():
        own = code if isinstance(code, str) else code[name]
        end = place + _WIDTHS[own] * prod(shape)
        header[name] = {"dtype": own, "shape": list(shape), "data_offsets": [place, end]}
        starts.append((place, min(data, prod(shape)), own))
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + place)
        for start, count, own in starts if data else ():
            file.seek(8 + len(text) + start)
            file.write(_stored(rng, count, own))
    return folder


def _stored(rng, count, code):
    values = rng.standard_normal(count, np.float32)
    values *= np.float32(0.02)
    if code == "F8_E4M3":
        return rng.integers(0, 0x7F, count, np.uint8).tobytes()
    if code == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype({"F64": np.float64, "F32": np.float32, "F16": np.float16}[code]).tobytes()


def planned(recipe, *arguments):
    """The cost that ``stockpot plan`` tells."""
    done = stockpot("plan", recipe, "--json", *arguments)
    assert done.code == 0, done.errors
    return json.loads(done.out)["cost"]


def least_of(*command):
    """The smallest budget (bytes) that a command accepts, likewise."""
    done = stockpot(*command, "--memory", "1MiB")
    assert done.code == 5, done.errors
    return int(re.search(r"needs (\d+) MiB of memory", done.errors)[1]) * MIB


def least(recipe, *arguments):
    """The smallest budget (bytes) that the plan accepts, from the message that refuses a smaller one."""
    return least_of("plan", recipe, *arguments)
