"""A small encoder of texts: embeddings, three words at a time, their mean, one further layer, and a head for each task.

Predictions are made in NumPy, so that suites need no torch; only training does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from stockpot.reproduce.texts.words import PAD, UNKNOWN, Ids
from stockpot.reproduce.training import Schedule, descend, torch_with

__all__ = ["HEADS", "Arrays", "Examples", "Shape", "features", "fine_tuned", "pretrained"]

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
Loss: TypeAlias = Callable[[Mapping[str, Any], int], Any]

_GAIN = 3.0
"""Means over many words are small; this brings them back to the size of one."""

_LEFT_OUT = 1
"""Words of each text that pretraining leaves out and predicts."""

HEADS: Mapping[str, int] = {"sst2": 2, "subj": 2, "trec": 6, "cr": 2, "mpqa": 2, "sentiment": 2}
"""Task → classes. For each there is a function of this module with its name, which suites call."""


@dataclass(frozen=True)
class Examples:
    """Texts as numbers, and their classes."""

    inputs: Ids
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, stop: int) -> Examples:
        """Some of them, in order."""
        return Examples(self.inputs[start:stop], self.labels[start:stop])

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """All of several, one after the other."""
        return cls(np.concatenate([p.inputs for p in parts]), np.concatenate([p.labels for p in parts]))


@dataclass(frozen=True)
class Shape:
    """Sizes of the network."""

    words: int = 6000
    embedding: int = 64
    width: int = 128


def features(tensors: Arrays, inputs: Ids) -> npt.NDArray[np.float32]:
    """``(n, width)``: what heads are given."""
    known = (inputs != PAD)[:, :, None]
    own = tensors["embedding.weight"][inputs] * known
    edge = np.zeros_like(own[:, :1])
    before, after = np.concatenate([edge, own[:, :-1]], axis=1), np.concatenate([own[:, 1:], edge], axis=1)
    three = np.concatenate([before, own, after], axis=2)
    hidden = np.maximum(three @ tensors["three.weight"].T + tensors["three.bias"], 0) * known
    mean = _GAIN * hidden.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    found: npt.NDArray[np.float32] = np.maximum(mean @ tensors["out.weight"].T + tensors["out.bias"], 0)
    return found.astype(np.float32)


def _head(name: str) -> Callable[[Arrays, Ids], npt.NDArray[np.float32]]:
    def logits(tensors: Arrays, inputs: Ids) -> npt.NDArray[np.float32]:
        found = features(tensors, inputs) @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]
        return np.asarray(found, np.float32)

    return logits


sst2, subj, trec, cr, mpqa, sentiment = map(_head, HEADS)


def pretrained(
    pieces: Examples, tasks: Mapping[str, Examples], shape: Shape, schedule: Schedule, seed: int
) -> dict[str, npt.NDArray[np.float32]]:
    """A base: it predicts words that are left out of ``pieces`` and where they are from, and learns ``tasks`` beside.

    Args:
        pieces: Texts; the label is the source.
        tasks: Head → examples; each step has a batch of one of them, in turn.
        seed: Of the weights at the start and of the order of examples.
    """
    torch = torch_with()
    rng = np.random.default_rng([seed, 1])
    sources = int(pieces.labels.max()) + 1
    drawn = _drawn(rng, shape, {name: HEADS[name] for name in tasks})
    beside = {
        "words.weight": 0.05 * rng.standard_normal((shape.embedding, shape.width)),
        "words.bias": np.zeros(shape.words),
        "sources.weight": 0.05 * rng.standard_normal((sources, shape.width)),
        "sources.bias": np.zeros(sources),
    }
    names = list(tasks)

    def loss(theta: Mapping[str, Any], step: int) -> Any:
        rows = rng.integers(len(pieces), size=schedule.batch)
        inputs, wanted = _left_out(pieces.inputs[rows], rng)
        found = _features(torch, theta, inputs)
        scores = _linear(theta, "words", found) @ theta["embedding.weight"].T + theta["words.bias"]
        chances = torch.log_softmax(scores, dim=1)
        total = -chances.gather(1, torch.from_numpy(wanted)).mean()
        total = total + _crossed(torch, theta, "sources", found, pieces.labels[rows], 0.0)
        if names:
            name = names[step % len(names)]
            total = total + _loss(torch, theta, name, tasks[name], schedule, rng)
        return total

    theta = _descended({**drawn, **beside}, loss, schedule)
    return {name: theta[name] for name in drawn}


def fine_tuned(
    start: Arrays,
    tasks: Mapping[str, Examples],
    schedule: Schedule,
    seed: int,
    *,
    fixed: Collection[str] = tuple(HEADS),
) -> dict[str, npt.NDArray[np.float32]]:
    """``start`` trained further.

    Args:
        tasks: Head → examples; each step has a batch of one of them, in turn.
        fixed: Layers and heads that stay as they are.
    """
    torch = torch_with()
    rng = np.random.default_rng([seed, 2])
    kept = {name: value for name, value in start.items() if name.partition(".")[0] in fixed}
    frozen = {name: torch.from_numpy(value) for name, value in kept.items()}

    names = list(tasks)

    def loss(theta: Mapping[str, Any], step: int) -> Any:
        name = names[step % len(names)]
        return _loss(torch, {**theta, **frozen}, name, tasks[name], schedule, rng)

    theta = _descended({name: value for name, value in start.items() if name not in kept}, loss, schedule)
    return {name: theta[name] if name in theta else kept[name] for name in start}


def _descended(start: Arrays, loss: Loss, schedule: Schedule) -> dict[str, npt.NDArray[np.float32]]:
    """``start`` after the steps of ``schedule``; ``loss`` is given the tensors and the number of the step."""
    torch = torch_with()
    theta = {name: torch.from_numpy(np.array(value, np.float32)).requires_grad_() for name, value in start.items()}
    descend([*theta.values()], lambda step: loss(theta, step), schedule)
    return {name: value.detach().numpy() for name, value in theta.items()}


def _drawn(rng: np.random.Generator, shape: Shape, heads: Mapping[str, int]) -> dict[str, npt.NDArray[np.float32]]:
    """Weights at random, biases 0."""
    sizes = {"three": (shape.width, 3 * shape.embedding), "out": (shape.width, shape.width)}
    found = {"embedding.weight": 0.1 * rng.standard_normal((shape.words, shape.embedding))}
    for name, size in sizes.items():
        found[f"{name}.weight"] = np.sqrt(2 / size[1]) * rng.standard_normal(size)
        found[f"{name}.bias"] = np.zeros(size[0])
    for name, classes in heads.items():
        found[f"{name}.weight"] = 0.05 * rng.standard_normal((classes, shape.width))
        found[f"{name}.bias"] = np.zeros(classes)
    return {name: value.astype(np.float32) for name, value in found.items()}


def _left_out(inputs: Ids, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """``inputs`` with some words hidden, and these words."""
    lengths = np.maximum((inputs != PAD).sum(axis=1), 1)
    places = (rng.random((len(inputs), _LEFT_OUT)) * lengths[:, None]).astype(np.int64)
    rows = np.arange(len(inputs))[:, None]
    hidden = inputs.copy()
    hidden[rows, places] = UNKNOWN
    return hidden, inputs[rows, places]


def _loss(
    torch: Any, theta: Mapping[str, Any], head: str, examples: Examples, schedule: Schedule, rng: np.random.Generator
) -> Any:
    rows = rng.integers(len(examples), size=schedule.batch)
    inputs = examples.inputs[rows].copy()
    inputs[(rng.random(inputs.shape) < schedule.dropped) & (inputs != PAD)] = UNKNOWN
    found = _features(torch, theta, inputs)
    return _crossed(torch, theta, head, found, examples.labels[rows], schedule.smoothing)


def _crossed(
    torch: Any, theta: Mapping[str, Any], head: str, found: Any, labels: npt.NDArray[np.int64], smoothing: float
) -> Any:
    scores = _linear(theta, head, found) + theta[f"{head}.bias"]
    return torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels), label_smoothing=smoothing)


def _linear(theta: Mapping[str, Any], name: str, found: Any) -> Any:
    return found @ theta[f"{name}.weight"].T


def _features(torch: Any, theta: Mapping[str, Any], inputs: Ids) -> Any:
    """As :func:`features`."""
    ids = torch.from_numpy(inputs)
    known = (ids != PAD)[:, :, None].float()
    own = torch.nn.functional.embedding(ids, theta["embedding.weight"]) * known
    edge = torch.zeros_like(own[:, :1])
    three = torch.cat([torch.cat([edge, own[:, :-1]], 1), own, torch.cat([own[:, 1:], edge], 1)], 2)
    hidden = torch.relu(three @ theta["three.weight"].T + theta["three.bias"]) * known
    mean = _GAIN * hidden.sum(1) / known.sum(1).clamp(min=1)
    return torch.relu(mean @ theta["out.weight"].T + theta["out.bias"])
