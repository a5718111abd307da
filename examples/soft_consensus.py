"""A method of your own: one decorated function. The recipe soft_consensus.yml beside it merges with it.

Run it with no arguments: it makes tiny models, carries out the recipe and prints what came out. With
models of yours where the recipe says, the same is::

    stockpot merge soft_consensus.yml out --allow-code
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

import stockpot as sp

Floats = npt.NDArray[np.float64]


@sp.elementwise
def soft_consensus(deltas: Floats, weight: sp.PerModel = 1.0, power: float = 1.0) -> Floats:
    """Shrinks each entry by how much the models agree on its sign: |sum| / sum of magnitudes, to a power."""
    deltas = weight * deltas
    total = deltas.sum(axis=0)
    agreement = np.abs(total) / np.maximum(np.abs(deltas).sum(axis=0), 1e-300)
    return agreement**power * total / len(deltas)


def main() -> None:
    """Merge tiny models by the recipe beside this file, in a folder that is removed again."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for seed, name in enumerate(("base", "math", "code")):
            rng = np.random.default_rng(seed)
            arrays = {f"layers.{i}.weight": rng.normal(size=(4, 3)).astype(np.float32) for i in range(2)}
            sp.save(1.0 * sp.open(arrays, name=name), folder / name)
        for file in ("soft_consensus.py", "soft_consensus.yml"):
            shutil.copy(here / file, folder)
        sp.merge(folder / "soft_consensus.yml", folder / "out", allow_code=True)
        merged = sp.compute(1.0 * sp.open(folder / "out"))
        print(f"{soft_consensus} made {', '.join(merged)}")


if __name__ == "__main__":
    main()
