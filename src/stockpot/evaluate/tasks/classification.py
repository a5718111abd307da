"""Classification of arrays by a user's function of tensors and inputs; needs neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from stockpot.errors import CheckpointError, ExecutionError, Problem, UnsupportedError
from stockpot.evaluate.arrays import read_npz
from stockpot.evaluate.code import Own
from stockpot.evaluate.examples import digest, keys_of
from stockpot.evaluate.metrics import classified
from stockpot.evaluate.neural import class_losses, need
from stockpot.evaluate.opened import Opened
from stockpot.evaluate.protocol import EXAMPLE, Files, Lessons, Live, Metric, Predictions
from stockpot.execute.versions import versions_of

__all__ = ["Classification", "Outputs"]

Outputs: TypeAlias = Literal["logits", "probabilities", "labels"]

_SUM_TOLERANCE = 1e-3
_ALIKE = 16
"""Examples on which both functions of a task are compared."""
_ALIKE_WITHIN = 1e-2
"""How far apart they may be: float32 in another order, and not another function."""


@dataclass(frozen=True)
class Classification:
    """Arrays of inputs and labels in .npz files, and a function that predicts.

    Args:
        function: ``(tensors, inputs) -> outputs``; tensors are name → array, floats of fewer than 32 bits as float32.
            Those must stay as they are; inputs are copies.
        outputs: What it gives: logits or probabilities ``(n, classes)``, or labels ``(n,)``, which tell accuracy alone.
        inputs, labels: Names of the arrays in the files, with the examples along the first axis.
        batch: Examples that are handed over at a time.
        learn: The same function of tensors of torch, which gives one; may be ``function`` itself. No figure depends on
            it: it is what learned soups differentiate.
    """

    function: Own
    metrics: tuple[Metric, ...]
    outputs: Outputs = "logits"
    inputs: str = "inputs"
    labels: str = "labels"
    batch: int = 1024
    learn: Own | None = None
    facts: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        function = {"predict": self.function.digest, "name": self.function.name, "outputs": self.outputs}
        told = {"kind": "classification", "arrays": [self.inputs, self.labels], "examples": "by value"}
        object.__setattr__(self, "facts", {**function, **told, **versions_of("numpy", "torch")})

    def examples(self, files: Files) -> list[bytes]:
        """Of the inputs, whatever their labels."""
        return self._digests(self._data(files)[0])

    def predict(self, model: Opened, files: Files) -> Predictions:
        """labels, predicted and, unless outputs are labels, confidence, loss and probabilities."""
        inputs, labels = self._data(files)
        given = []
        with model.unchanged(self.function.name):
            for start in range(0, len(inputs), self.batch):
                batch = inputs[start : start + self.batch].copy()  # it may change them
                outputs = np.array(self.function.value(model.wide, batch))  # and give the same buffer each time
                self._check(outputs, len(batch))
                given.append(outputs)
        return {EXAMPLE: keys_of(self._digests(inputs)), **self._columns(np.concatenate(given), labels)}

    def lessons(self, model: Live, files: Files) -> Lessons:
        """-ln of the right class's probability, by :attr:`learn`; the factor is that of the logits."""
        need("torch")
        if self.outputs == "labels" or self.learn is None:
            lacks = "labels tell no loss" if self.outputs == "labels" else f"{self.function.name} is one of NumPy"
            fix = "learn: module:function of (tensors, inputs) of torch, which gives the same as predict does"
            raise UnsupportedError(Problem(f"this task cannot be differentiated: {lacks}", fix=fix))
        inputs, labels = self._data(files)
        self._check_alike(model, inputs[: min(self.batch, _ALIKE)])

        def parts(places: Sequence[int], factor: Any) -> Iterator[Any]:
            for start in range(0, len(places), self.batch):
                own = np.asarray(places[start : start + self.batch])
                outputs = self._learned(model, inputs[own])
                losses = class_losses(outputs, labels[own], factor, normal=self.outputs == "probabilities")
                yield losses.sum() / len(places)

        return Lessons(len(labels), parts, scaled=True)

    def _learned(self, model: Live, inputs: npt.NDArray[Any]) -> Any:
        """What :attr:`learn` gives, which must be something that torch can differentiate."""
        assert self.learn is not None
        outputs = self.learn.value(model.tensors, model.placed(inputs))
        if not getattr(outputs, "requires_grad", False):
            fix = "it must compute with torch, on the tensors that it is given, outside of no_grad"
            raise ExecutionError(Problem(f"{self.learn.name} gives nothing that torch can differentiate", fix=fix))
        self._check(outputs, len(inputs))
        return outputs

    def _check_alike(self, model: Live, inputs: npt.NDArray[Any]) -> None:
        """Raise unless both functions give the same on some inputs."""
        assert self.learn is not None
        found = self._learned(model, inputs).detach().cpu().double().numpy()
        wanted = np.asarray(self.function.value(model.wide, inputs)).astype(np.float64)
        if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=_ALIKE_WITHIN, atol=_ALIKE_WITHIN):
            message = f"{self.learn.name} and {self.function.name} give different outputs for the same inputs"
            raise ExecutionError(Problem(message, fix="both must be the same function of tensors and inputs"))

    def _columns(self, outputs: npt.NDArray[Any], labels: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        if self.outputs == "labels":
            return {"labels": labels, "predicted": self._whole(outputs)}
        wide = outputs.astype(np.float64)
        if not np.isfinite(wide).all():
            raise ExecutionError(Problem(f"{self.function.name} gives {self.outputs} that are not finite"))
        sums = wide.sum(axis=1)
        normal = bool((wide >= 0).all() and (np.abs(sums - 1) < _SUM_TOLERANCE).all())
        if normal != (self.outputs == "probabilities"):
            other = "probabilities" if normal else "logits"
            message = f"{self.function.name} is said to give {self.outputs}, but what it gives looks like {other}"
            raise ExecutionError(Problem(message, fix=f"outputs: {other}"))
        if not normal:
            powers = np.exp(wide - wide.max(axis=1, keepdims=True))
            wide, sums = powers, powers.sum(axis=1)
        if labels.max() >= wide.shape[1]:
            raise ExecutionError(
                Problem(f"label {labels.max()}, but {self.function.name} knows {wide.shape[1]} classes")
            )
        return classified(wide / sums[:, None], labels)

    def _whole(self, outputs: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Labels, which may be floats that are whole numbers."""
        floats = outputs.astype(np.float64)
        wrong = floats[~(np.abs(floats) < 2**53) | (floats != np.floor(floats))]
        if len(wrong):
            message = f"{self.function.name} gives {wrong[0]} as a label, which is no whole number"
            raise ExecutionError(Problem(message, fix="outputs: logits or probabilities, or argmax of them"))
        return outputs.astype(np.int64)

    def _check(self, outputs: Any, count: int) -> None:
        dimensions = 1 if self.outputs == "labels" else 2
        if outputs.ndim != dimensions or len(outputs) != count or (dimensions == 2 and outputs.shape[1] < 2):
            wanted = f"({count},)" if dimensions == 1 else f"({count}, classes)"
            message = f"{self.function.name} gives an array of shape {tuple(outputs.shape)}, not {wanted}"
            raise ExecutionError(Problem(message, fix="outputs: logits, probabilities or labels"))
        if isinstance(outputs, np.ndarray) and np.result_type(outputs, np.float64) != np.float64:
            raise ExecutionError(
                Problem(f"{self.function.name} gives an array of {outputs.dtype}, not of real numbers")
            )

    def _data(self, files: Files) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Inputs and labels of all files, checked."""
        pairs = []
        for path in files:
            arrays = read_npz(path)
            for name in (self.inputs, self.labels):
                if name not in arrays:
                    fix = f"it holds: {', '.join(arrays)}; name them with inputs: and labels:"
                    raise CheckpointError(Problem(f"there is no array {name!r}", file=str(path), fix=fix))
            inputs, labels = arrays[self.inputs], arrays[self.labels]
            good = labels.ndim == 1 and inputs.ndim > 0 and len(inputs) == len(labels) > 0
            if not good or labels.dtype.kind not in "iu" or labels.astype(np.int64).min() < 0:
                told = f"{self.labels} {labels.dtype}{list(labels.shape)}, {self.inputs} {list(inputs.shape)}"
                fix = "one label from 0 on, a whole number, for each input"
                raise CheckpointError(Problem(f"labels do not fit: {told}", file=str(path), fix=fix))
            pairs.append((inputs, labels.astype(np.int64)))
        if len({(p[0].shape[1:], p[0].dtype) for p in pairs}) > 1:
            raise CheckpointError(Problem("inputs of different shapes or dtypes", file=", ".join(map(str, files))))
        return np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])

    @staticmethod
    def _digests(inputs: npt.NDArray[Any]) -> list[bytes]:
        """Of the numbers, in whatever dtype and shape they are kept."""
        if inputs.dtype.kind not in "fiub":
            return [digest(inputs.dtype.str, np.ascontiguousarray(row).tobytes()) for row in inputs]
        return [digest((row.astype(np.float64) + 0.0).tobytes()) for row in inputs]  # -0.0 is 0.0
