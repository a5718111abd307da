"""The networks of the test beds: the demo's perceptron in NumPy, and small convolutional ones in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stockpot.demo.data import FloatArray, IntArray
from stockpot.demo.network import Parameters, loss_and_gradient
from stockpot.demo.network import initialise as drawn
from stockpot.demo.network import logits as perceptron_logits
from stockpot.demo.train import Gradient
from stockpot.reproduce.training import torch_with

__all__ = ["COLOUR", "CONVOLUTIONAL", "PERCEPTRON", "Network", "convolutional_logits"]

_CLASSES = 10


@dataclass(frozen=True)
class Network:
    """A network as functions of its weights.

    Args:
        head: What the names of its last layer's tensors begin with.
        initialise: Random numbers and the number of classes → weights.
        gradient: For training.
        logits: Weights and images → scores of all classes.
        predict: ``module:function`` of :attr:`logits`, for suites.
    """

    head: str
    initialise: Callable[[np.random.Generator, int], Parameters]
    gradient: Gradient
    logits: Callable[[Parameters, FloatArray], FloatArray]
    predict: str


def convolutional_logits(theta: Parameters, images: FloatArray) -> FloatArray:
    """Scores ``(n, classes)`` of images ``(n, side, side)`` or ``(n, channels, side, side)``."""
    torch = torch_with()
    with torch.inference_mode():
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in theta.items()}
        found: FloatArray = _forward(torch, tensors, images).numpy()
    return found


def _forward(torch: Any, theta: Any, images: FloatArray) -> Any:
    layers = torch.nn.functional
    x = torch.from_numpy(np.ascontiguousarray(images))
    x = x[:, None] if x.ndim == 3 else x
    x = layers.relu(layers.conv2d(x, theta["first.weight"], theta["first.bias"], stride=2, padding=2))
    x = layers.relu(layers.conv2d(x, theta["second.weight"], theta["second.bias"], stride=2, padding=1))
    x = layers.relu(layers.linear(x.flatten(1), theta["hidden.weight"], theta["hidden.bias"]))
    return layers.linear(x, theta["head.weight"], theta["head.bias"])


def _gradient(theta: Parameters, images: FloatArray, labels: IntArray, smoothing: float) -> tuple[float, Parameters]:
    """Of the cross-entropy among the ten classes of each label's own task: class c of task t is 10 t + c."""
    torch = torch_with()
    tensors = {name: torch.from_numpy(value).requires_grad_() for name, value in theta.items()}
    scores = _forward(torch, tensors, images)
    own = scores.view(len(labels), -1, _CLASSES)[torch.arange(len(labels)), torch.from_numpy(labels // _CLASSES)]
    target = torch.from_numpy(labels % _CLASSES)
    loss = torch.nn.functional.cross_entropy(own, target, label_smoothing=smoothing)
    loss.backward()
    return float(loss.detach()), {name: tensor.grad.numpy() for name, tensor in tensors.items()}


def _shapes(channels: int, side: int) -> Mapping[str, tuple[int, ...]]:
    """Of all weights but the head's; each convolution halves the side."""
    return {"first": (16, channels, 5, 5), "second": (32, 16, 3, 3), "hidden": (64, 32 * (side // 4) ** 2)}


def _convolutional(channels: int, side: int) -> Network:
    """Two convolutions and two dense layers: 106,000 numbers for 28 × 28 in grey, 138,000 for 32 × 32 in colour."""
    shapes = _shapes(channels, side)

    def initialise(rng: np.random.Generator, classes: int) -> Parameters:
        """He-normal weights and zero biases."""
        theta: dict[str, FloatArray] = {}
        for name, shape in {**shapes, "head": (classes, shapes["hidden"][0])}.items():
            weight = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
            theta[f"{name}.weight"] = weight.astype(np.float32)
            theta[f"{name}.bias"] = np.zeros(shape[0], np.float32)
        return theta

    predict = "stockpot.reproduce.images.networks:convolutional_logits"
    return Network("head.", initialise, _gradient, convolutional_logits, predict)


CONVOLUTIONAL = _convolutional(1, 28)
COLOUR = _convolutional(3, 32)
PERCEPTRON = Network(
    "layers.2.",
    lambda rng, _: drawn(rng),
    loss_and_gradient,
    perceptron_logits,
    "stockpot.demo.network:logits",
)
