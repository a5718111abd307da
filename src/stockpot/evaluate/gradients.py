"""Models in torch whose weights losses are differentiated by; imported only by what needs it, as ``neural`` is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.errors import Problem, UnsupportedError
from stockpot.evaluate.neural import as_torch, need, transformer_of
from stockpot.evaluate.opened import Opened, widened

__all__ = ["LiveModel"]

Arrays = Mapping[str, npt.NDArray[Any]]


class LiveModel:
    """One model in torch that is given new weights again and again; see :class:`stockpot.evaluate.protocol.Live`.

    Whatever of it tasks use, arrays or a network of transformers, shares one memory on the CPU. It holds the model, the
    gradients once there are some, and nothing else.

    Args:
        opened: Gives config and tokenizer.
        dtype: Of all floats, ``float32`` or ``float64``.
    """

    def __init__(self, opened: Opened, dtype: str) -> None:
        need("torch")
        import torch

        self._opened, self._dtype = opened, dtype
        self._device = opened.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._arrays: Arrays = {}
        self._leaves: dict[str, Any] = {}
        self._network: Any = None
        self._within: dict[str, Any] = {}

    @property
    def config(self) -> Mapping[str, Any]:
        """As of the opened model, with the dtype that is computed in."""
        return {**self._opened.config, "dtype": self._dtype, "torch_dtype": self._dtype}

    @property
    def tokenizer(self) -> Any:
        """As of the opened model."""
        return self._opened.tokenizer

    @property
    def tensors(self) -> Mapping[str, Any]:
        """Name → tensor; floats are leaves that gather gradients."""
        if not self._leaves:
            self._leaves = {name: self._leaf(array) for name, array in self._arrays.items()}
        return self._leaves

    @property
    def wide(self) -> Arrays:
        """The values as arrays."""
        return {name: widened(array) for name, array in self._arrays.items()}

    def placed(self, array: npt.NDArray[Any]) -> Any:
        """An array as a tensor where the model is; floats in the dtype of the weights."""
        floats = array.dtype.kind in "fV"
        return as_torch(np.array(array, self._dtype if floats else None, order="C")).to(self._device)

    def transformer(self, kind: str) -> Any:
        """The network, in evaluation mode.

        Raises:
            UnsupportedError: when a parameter of it is made of several tensors, or of a part of one.
        """
        if self._network is None:
            self._network = transformer_of(self.config, self._arrays, kind, "cpu")
            self._within = _matched(self._network, self._arrays)
            self._network.to(self._device)
        return self._network

    def clear(self) -> None:
        """Let go of weights and gradients, so that there is room for others."""
        self._arrays, self._leaves = {}, {}
        for part in self._within.values():
            part.grad = None
            part.data = part.data.new_empty(0)

    def fill(self, arrays: Arrays) -> None:
        """The weights from now on, with the names, shapes and dtypes that they had, without gradients."""
        self.clear()
        self._arrays = arrays
        for name, part in self._within.items():
            part.data = as_torch(arrays[name]).to(self._device)

    def factor(self, value: float) -> Any:
        """A number by which logits may be multiplied, and losses differentiated."""
        import torch

        return torch.tensor(value, dtype=getattr(torch, self._dtype), device=self._device, requires_grad=True)

    def gradients(self) -> Arrays:
        """Name → gradient of what was propagated back since :meth:`fill`; a tensor without one is absent."""
        found: dict[str, npt.NDArray[Any]] = {}
        for parts in (self._leaves, self._within):
            for name, part in parts.items():
                if part.grad is not None:
                    own = part.grad.cpu().numpy()
                    found[name] = found[name] + own if name in found else own
        return found

    def _leaf(self, array: npt.NDArray[Any]) -> Any:
        made = as_torch(array).to(self._device)
        return made.requires_grad_() if made.is_floating_point() else made


def _matched(network: Any, arrays: Arrays) -> dict[str, Any]:
    """Name → the parameter or buffer of ``network`` that lies in the memory of that array.

    Names cannot tell: transformers has rules of its own for them. It puts tensors in without a copy, so memory can.
    """
    names = {(array.ctypes.data, array.nbytes): name for name, array in arrays.items() if array.size}
    found: dict[str, Any] = {}
    for own, part in (*network.named_parameters(), *network.named_buffers()):
        name = names.get((part.data_ptr(), part.nbytes))
        if name is not None:
            found[name] = part
        elif part.requires_grad and part.numel():
            message = f"transformers makes the parameter {own} of several tensors, or of a part of one"
            fix = "learn weights of models that it loads tensor by tensor"
            raise UnsupportedError(Problem(message, tensor=own, fix=fix))
    return found
