"""The bench of soups with data to tune and functions that torch differentiates; references held in memory."""

from __future__ import annotations

import numpy as np
from searching import search_bench

from stockpot.evaluate import candidate, load_suite
from stockpot.search.judge import Judge
from stockpot.search.mixing.learned import Learning, _Fit

TORCH = """
def torch_logits(tensors, inputs):
    hidden = (inputs @ tensors["a.weight"].T + tensors["a.bias"]).clamp_min(0)
    return hidden @ tensors["b.weight"].T + tensors["b.bias"]

def torch_probabilities(tensors, inputs):
    return torch_logits(tensors, inputs).softmax(1)
"""

TASK = """  {name}:
    kind: classification
    predict: nets:logits
    learn: nets:torch_logits
    split: {{tune: {tune}, select: select.npz, report: report.npz}}
"""


def learning_bench(folder):
    """As :func:`search_bench`, with one task ``clean`` that has tune data and can be learned from."""
    search_bench(folder)
    (folder / "nets.py").write_text((folder / "nets.py").read_text() + TORCH)
    write_suite(folder)
    return folder


def write_suite(folder, **tasks):
    """A suite of such tasks: name → its tune data."""
    tasks = tasks or {"clean": "tune.npz"}
    (folder / "suite.yml").write_text("tasks:\n" + "".join(TASK.format(name=n, tune=t) for n, t in tasks.items()))


def suite_of(folder):
    return load_suite(folder / "suite.yml", allow_code=True)


def fit_of(folder, models, **how):
    """What learning computes with, before its first step."""
    suite = suite_of(folder)
    return _Fit(
        [candidate(model) if isinstance(model, str) else model for model in models], suite, Learning(**how), "cpu"
    )


def judge_of(folder):
    return Judge.of(suite_of(folder), None, "cpu", None, None)


def every(fit):
    """One batch of all examples of each task."""
    return [list(range(lessons.count)) for _, lessons in fit._lessons]


def loss_at(fit, logits, batch):
    """The loss with other logits of shares."""
    fit._logits = logits
    return fit.gradient(batch)[0]


def differences(fit, batch, step):
    """dL/d(logits) by central differences."""
    start = fit._logits.copy()
    found = np.zeros_like(start)
    for place in np.ndindex(start.shape):
        up, down = start.copy(), start.copy()
        up[place] += step
        down[place] -= step
        found[place] = (loss_at(fit, up, batch) - loss_at(fit, down, batch)) / (2 * step)
    fit._logits = start
    return found
