"""Fine-tunes of one start, one of them diverged, and a suite of clean and noisy digits."""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser

import numpy as np

from evaluating import digits, digits_bench, networks, save_arrays, trained
from files import write_model
from stockpot.evaluate import load_suite

SUITE = """tasks:
  clean:
    kind: classification
    predict: nets:logits
    split: {select: select.npz, report: report.npz}
  noisy:
    kind: classification
    predict: nets:logits
    split: {select: select-noisy.npz, report: report-noisy.npz}
"""
MODELS = ("m0", "m1", "m2", "m3")


@cache
def fine_tunes():
    """Name → tensors: four sound fine-tunes of the base, and one that diverged."""
    base = networks()["base"]
    found = {name: trained(np.arange(200 + 100 * i, 400 + 100 * i), 10 + i, base, 4) for i, name in enumerate(MODELS)}
    rng = np.random.default_rng(0)
    found["diverged"] = {n: (a + rng.normal(0, 3, a.shape)).astype(np.float32) for n, a in base.items()}
    return found


def suite_in(folder):
    """The suite of a bench."""
    return load_suite(folder / "suite.yml", allow_code=True)


def search_bench(folder):
    """Models, a suite with two tasks and the user's module, all in ``folder``."""
    digits_bench(folder)
    for name, theta in fine_tunes().items():
        write_model(folder / name, theta)
    x, _ = digits()
    rng = np.random.default_rng(1)
    for role, rows in (("select", slice(800, 1000)), ("report", slice(1000, 1300))):
        noise = rng.normal(0, 0.3, x[rows].shape).astype(np.float32)
        save_arrays(folder / f"{role}-noisy.npz", rows, inputs=np.clip(x[rows] + noise, 0, 1))
    (folder / "suite.yml").write_text(SUITE)
    return folder


class Reader(HTMLParser):
    """Checks that tags close and collects what a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.fetched += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_data(self, data):
        self.text.append(data)


RECIPE = """merge_method: task_arithmetic
base_model: base
models:
  - {model: m0, parameters: {weight: {search: [-0.5, 1.5], start: 0.3, name: m0}}}
  - {model: m1, parameters: {weight: {search: [-0.5, 1.5], start: 0.3, name: m1}}}
  - {model: m2, parameters: {weight: {search: [-0.5, 1.5], start: 0.3, name: m2}}}
"""


SIX = re.sub(r", name: m\d", ", filters: [a., b.]", RECIPE)
"""One weight for each layer of each model."""


def tuning_bench(folder):
    """As :func:`search_bench`, with tune data, and a recipe with three weights to be found."""
    search_bench(folder)
    (folder / "suite.yml").write_text(SUITE.replace("{select: select.npz", "{tune: tune.npz, select: select.npz"))
    (folder / "recipe.yml").write_text(RECIPE)
    return folder
