"""Where a claim on texts works: its models as folders, its data as suites, and figures read from results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

import stockpot as sp
from stockpot.errors import ExecutionError, Problem
from stockpot.evaluate import Candidate, Result, Suite, candidate, load_suite
from stockpot.reproduce.texts.encoder import Arrays, Examples

__all__ = ["figure", "mean_percent", "model", "normalised", "percent", "suite_of", "suite_of_texts"]

_HEAD = "# what the claim is measured on; figures need no intervals here\nseed: 0\nresamples: 20\ntasks:\n"


def model(folder: Path, name: str, tensors: Arrays) -> Candidate:
    """A model, written to a folder of its name."""
    place = folder / "models" / name
    sp.save(sp.open(tensors, name=name), place, durable=False, threads=1)
    return candidate(place, name=name, threads=1)


def suite_of(folder: Path, tasks: Mapping[str, tuple[str, Mapping[str, Examples]]]) -> Suite:
    """A suite of classification tasks, written to a folder.

    Args:
        tasks: Name → the encoder's head, and role → examples.
    """
    place = folder / "suite"
    place.mkdir(parents=True, exist_ok=True)
    lines = [_HEAD]
    for name, (head, roles) in tasks.items():
        lines.append(f"  {name}:\n    kind: classification\n    batch: 256\n")
        lines.append(f"    predict: stockpot.reproduce.texts.encoder:{head}\n    split:\n")
        for role, examples in roles.items():
            file = f"{name}-{role}.npz"
            np.savez(place / file, inputs=examples.inputs.astype(np.int32), labels=examples.labels)
            lines.append(f"      {role}: {file}\n")
    (place / "suite.yml").write_text("".join(lines), encoding="utf-8")
    return load_suite(place / "suite.yml", allow_code=True)


def suite_of_texts(
    folder: Path,
    texts: Mapping[str, Mapping[str, Sequence[str]]],
    written: Mapping[str, tuple[str, str, Mapping[str, Any]]] | None = None,
) -> Suite:
    """A suite of tasks for language models, written to a folder.

    Args:
        texts: Name → role → texts whose perplexity counts.
        written: Name → a function and a metric of :mod:`stockpot.reproduce.texts.negation`, and role → its settings.
    """
    place = folder / "suite"
    place.mkdir(parents=True, exist_ok=True)
    lines = [_HEAD]
    for name, roles in texts.items():
        lines.append(f"  {name}:\n    kind: perplexity\n    documents: jsonl\n    split:\n")
        for role, own in roles.items():
            rows = "".join(json.dumps({"text": text}) + "\n" for text in own)
            (place / f"{name}-{role}.jsonl").write_text(rows, encoding="utf-8")
            lines.append(f"      {role}: {name}-{role}.jsonl\n")
    for name, (function, metric, settings) in (written or {}).items():
        module = "stockpot.reproduce.texts.negation"
        lines.append(f"  {name}:\n    kind: own\n    run: {module}:{function}\n")
        lines.append(f"    metrics: ['{module}:{metric}']\n    split:\n")
        for role, one in settings.items():
            (place / f"{name}-{role}.json").write_text(json.dumps(one), encoding="utf-8")
            lines.append(f"      {role}: {name}-{role}.json\n")
    (place / "suite.yml").write_text("".join(lines), encoding="utf-8")
    return load_suite(place / "suite.yml", allow_code=True)


def figure(result: Result, name: str, task: str, metric: str | None = None) -> float:
    """A figure of a cell, the ranking one by default.

    Raises:
        ExecutionError: when it failed.
    """
    cell = result.cell(name, task)
    if not cell.figures:
        raise ExecutionError(Problem(f"{name} could not be measured on {task}: {cell.error}"))
    return next(f.value for f in cell.figures if metric in (None, f.metric))


def percent(result: Result, name: str, task: str) -> float:
    """:func:`figure`, of 100."""
    return 100 * figure(result, name, task)


def mean_percent(result: Result, name: str, tasks: Iterable[str]) -> float:
    """The mean of :func:`percent` over tasks."""
    return fmean(percent(result, name, task) for task in tasks)


def normalised(result: Result, name: str, own: Mapping[str, float]) -> float:
    """The mean over tasks of a model's figure in percent of its specialist's.

    Args:
        own: Task → the specialist's figure.
    """
    return 100 * fmean(figure(result, name, task) / one for task, one in own.items())
