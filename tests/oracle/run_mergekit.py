"""Run many mergekit recipes in one process (its start-up takes seconds, a tiny merge none).

Runs under the Python of the mergekit environment. Reads from standard input one JSON list of
``[recipe path, output folder]``; prints to standard output one JSON object: mergekit's version,
torch's version, and for every recipe the text of its error or null, in order.

``--stable`` makes ``torch.argsort``, ``torch.sort`` and ``torch.topk`` keep equal values in the
order of their index. mergekit asks for no order, and torch then gives one that depends on the
processor; the stable one is among those it may give, and is the same everywhere.
"""

import argparse
import functools
import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

OPTIONS = MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False, num_threads=1, random_seed=0)


def stable_topk(values: torch.Tensor, k: int, *, largest: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """`torch.topk` along the last axis with equal values taken in the order of their index."""
    ordered, indices = torch.sort(values, dim=-1, descending=largest, stable=True)
    return ordered[..., :k], indices[..., :k]


def merge(recipe: str, out: str) -> str | None:
    """Run one recipe; the text of the error where mergekit refuses it."""
    try:
        text = Path(recipe).read_text(encoding="utf-8")
        config = MergeConfiguration.model_validate(yaml.safe_load(text))
        run_merge(config, out, options=OPTIONS)
    except Exception as error:  # noqa: BLE001  whatever mergekit raises is a row of the table
        return f"{type(error).__name__}: {error}"
    return None


def main() -> None:
    """Read the jobs, run them in order, print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stable", action="store_true")
    if parser.parse_args().stable:
        torch.argsort = functools.partial(torch.argsort, stable=True)
        torch.sort = functools.partial(torch.sort, stable=True)
        torch.topk = stable_topk
    OPTIONS.apply_global_options()
    errors = [merge(recipe, out) for recipe, out in json.load(sys.stdin)]
    versions = {name: version(name) for name in ("mergekit", "torch", "transformers")}
    json.dump({"versions": versions, "errors": errors}, sys.stdout)


if __name__ == "__main__":
    main()
