"""The average of two merges, as easy as one: build an expression, look at it, compute it.

Run it with no arguments: it makes tiny models of its own. With three model folders or hub ids (base and
two fine-tunes) and an output folder, it merges those.
"""

from __future__ import annotations

import sys

import numpy as np

import stockpot as sp


def tiny(name: str, seed: int) -> sp.Expression:
    """A model of two small tensors, in memory."""
    rng = np.random.default_rng(seed)
    arrays = {"layers.0.weight": rng.normal(size=(4, 3)), "layers.1.weight": rng.normal(size=(2, 4))}
    return sp.open({k: v.astype(np.float32) for k, v in arrays.items()}, name=name)


def main() -> None:
    """Merge what the command line names, or tiny models."""
    if len(sys.argv) == 5:
        base, math, code = (sp.open(path) for path in sys.argv[1:4])
    else:
        base, math, code = tiny("base", 0), tiny("math", 1), tiny("code", 2)
    ties = base + 0.8 * sp.ties(math - base, code - base, density=0.5)
    arc = sp.slerp(math, code, t=0.5)
    merged = 0.5 * ties + 0.5 * arc
    if len(sys.argv) == 5:
        print(sp.save(merged, sys.argv[4]).folder)
        return
    for name, tensor in sp.compute(merged).items():
        print(name, tensor.dtype, tensor.shape, float(np.abs(tensor).mean()))


main()
