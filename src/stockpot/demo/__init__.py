"""``stockpot demo``: train small classifiers, merge them by recipe, and show what it brings.

Several networks are fine-tuned from one shared start on scikit-learn's handwritten digits. They are
saved as safetensors, merged by YAML recipes, and compared with the output ensemble on clean and on
shifted test images. Members and strengths of merges are chosen on other images than those of the
report, under the same kinds of shifts. It needs scikit-learn and matplotlib, not torch.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from stockpot.demo.results import DemoResult, Row, Scores
from stockpot.errors import Problem, UnsupportedError

__all__ = ["DemoResult", "Row", "Scores", "run"]


def run(
    folder: Path,
    *,
    quick: bool = False,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> DemoResult:
    """Run the demo in ``folder`` and return its table; earlier results there are replaced.

    Args:
        folder: Gets ``models/``, ``recipes/``, ``merged/``, ``table.txt``, ``results.json``,
            ``picture.png`` and ``report.html``, which has all of it; it is created when missing.
        quick: Train briefly and search coarsely: a check that everything works, not a result.
        seed: Fixes the splits, the training and the shifts.
        report: Gets each line, or block of lines, of the progress and of the results.

    Raises:
        UnsupportedError: when scikit-learn or matplotlib is not installed.
    """
    missing = [name for name in ("sklearn", "matplotlib") if find_spec(name) is None]
    if missing:
        fix = "pip install 'stockpot[demo]'"
        raise UnsupportedError(Problem(f"the demo needs {' and '.join(missing)}", fix=fix))
    from stockpot.demo.play import play

    return play(Path(folder), quick=quick, seed=seed, report=report)
