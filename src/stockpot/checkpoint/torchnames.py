"""What the names in PyTorch's pickles stand for, as records; nothing here imports or calls PyTorch.

A pickled state dict names some functions (``torch._utils._rebuild_tensor_v2``) and classes
(``torch.FloatStorage``). The few that make up state dicts are known here. Every other is refused:
in an ordinary reader it could run any code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stockpot.checkpoint.dtypes import DTYPES, DType, dtype_named
from stockpot.checkpoint.header import MAX_DIMENSIONS
from stockpot.errors import CheckpointError

__all__ = [
    "INERT",
    "DamagedError",
    "Inert",
    "Name",
    "RefusedError",
    "StorageRecord",
    "TensorRecord",
    "Unreadable",
    "call",
    "known_name",
    "pairs",
    "storage_record",
]

_MAX_NAME = 200
_MAX_KEY = 2**60
_MAX_COUNT = 2**62


class RefusedError(Exception):
    """The pickle names something that is not data; the text is that name."""


class DamagedError(Exception):
    """The bytes are no pickle, or one that PyTorch does not write; the text says what is wrong."""


@dataclass(frozen=True)
class Name:
    """A module's attribute that a pickle names; it stays a name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class StorageRecord:
    """A run of elements that tensors are views of.

    Args:
        key: Its name in the file.
        dtype: Of its elements; None when ``elements`` counts bytes, or safetensors lacks the dtype.
        elements: How many.
    """

    key: str
    dtype: DType | None
    elements: int


@dataclass(frozen=True)
class TensorRecord:
    """A view of a storage; ``offset`` and ``stride`` count elements."""

    storage: StorageRecord
    dtype: DType
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Unreadable:
    """A tensor of a kind that is no plain run of numbers."""

    kind: str


class Inert:
    """A value that does not matter: a device, a NumPy scalar, the options of a training script."""


INERT = Inert()


def known_name(module: Any, name: Any) -> Name:
    """The name, if it is one of PyTorch's data.

    Raises:
        RefusedError: for any other.
        DamagedError: when module and name are not even text.
    """
    if not isinstance(module, str) or not isinstance(name, str):
        raise DamagedError("a damaged pickle")
    if len(module) + len(name) > _MAX_NAME:
        raise RefusedError(f"a name of {len(module) + len(name)} characters")
    found = Name(module, name)
    if str(found) in _CALLS or _is_storage(found) or _dtype_of(found) is not None:
        return found
    raise RefusedError(ascii(str(found))[1:-1][:80])


def call(function: Any, arguments: Any) -> Any:
    """What PyTorch's ``function`` would make of ``arguments``, as a record.

    Raises:
        DamagedError: when it is no function, or the arguments do not fit.
    """
    make = _CALLS.get(str(function)) if isinstance(function, Name) else None
    if make is None or not isinstance(arguments, tuple):
        raise DamagedError("a damaged pickle")
    return make(arguments)


def storage_record(written: Any) -> StorageRecord:
    """The storage that a persistent id describes.

    Raises:
        DamagedError: when it describes none.
    """
    if not isinstance(written, tuple) or len(written) not in {5, 6} or written[0] != "storage":
        raise DamagedError("a persistent id that is no storage")
    kind, key, _, elements = written[1:5]
    if not _is_storage(kind) or not isinstance(key, str | int) or not _natural(elements):
        raise DamagedError("a damaged storage record")
    if len(written) == 6 and written[5] is not None:
        raise DamagedError("a view of a storage, as PyTorch before 0.4 wrote them")
    code = _STORAGES.get(kind.name.removesuffix("Storage"))
    return StorageRecord(str(key), None if code is None else DTYPES[code], elements)


def pairs(values: Sequence[Any]) -> dict[Any, Any]:
    """The mapping that keys and values in turn make.

    Only plain keys are compared: hashing nested ones can take exponential time, and whole numbers beyond
    60 bits can be chosen so that all have one hash.
    """
    return {key if _plain(key) else object(): value for key, value in zip(values[::2], values[1::2], strict=True)}


def _plain(key: Any) -> bool:
    return -_MAX_KEY < key < _MAX_KEY if isinstance(key, int) else isinstance(key, str | float | bytes | None)


def _is_storage(name: Any) -> bool:
    inside = isinstance(name, Name) and name.module in {"torch", "torch.cuda", "torch.storage"}
    return inside and name.name.endswith("Storage")


def _dtype_of(name: Any) -> DType | None:
    if not isinstance(name, Name) or name.module != "torch":
        return None
    try:
        return dtype_named(name.name)
    except CheckpointError:
        return None


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_COUNT


def _naturals(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) <= MAX_DIMENSIONS and all(map(_natural, values))


def _tensor(arguments: tuple[Any, ...]) -> TensorRecord | Unreadable:
    """Arguments: storage, offset, shape, stride, requires_grad, hooks, and perhaps metadata."""
    storage = arguments[0]
    dtype = storage.dtype if isinstance(storage, StorageRecord) else None
    return _view(arguments[:4], dtype, arguments[6:])


def _tensor_v3(arguments: tuple[Any, ...]) -> TensorRecord | Unreadable:
    """Arguments: storage, offset, shape, stride, requires_grad, hooks, dtype, metadata."""
    return _view(arguments[:4], _dtype_of(arguments[6]), arguments[7:])


def _view(place: tuple[Any, ...], dtype: DType | None, metadata: tuple[Any, ...]) -> TensorRecord | Unreadable:
    storage, offset, shape, stride = place
    if not isinstance(storage, StorageRecord) or not _natural(offset):
        raise DamagedError("a damaged tensor record")
    if not _naturals(shape) or not _naturals(stride) or len(shape) != len(stride):
        raise DamagedError("a damaged tensor record")
    if any(metadata):
        return Unreadable("a conjugate or negative view")
    if dtype is None:
        return Unreadable("a tensor of a dtype that safetensors lacks")
    return TensorRecord(storage, dtype, offset, shape, stride)


def _from_type(arguments: tuple[Any, ...]) -> Any:
    """A tensor with attributes; arguments: function, type, its arguments, state."""
    return call(arguments[0], arguments[2])


def _first(arguments: tuple[Any, ...]) -> Any:
    return arguments[0]


def _mapping(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """OrderedDict and defaultdict, also with their items as the last argument."""
    items = arguments[-1] if arguments else []
    if isinstance(items, dict):
        return items
    if not isinstance(items, list):
        return {}
    return pairs([part for pair in items if isinstance(pair, list | tuple) for part in pair[:2]])


def _inert(_: tuple[Any, ...]) -> Inert:
    return INERT


def _unreadable(kind: str) -> Callable[[tuple[Any, ...]], Unreadable]:
    return lambda _: Unreadable(kind)


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(arguments[0]) if arguments and isinstance(arguments[0], list | tuple) else ()


_STORAGES = {
    "Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32",
    "Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL", "ComplexFloat": "C64",
}  # fmt: skip

_INERT_NAMES = (
    "torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.device",
    "torch.serialization._get_layout", "torch.per_tensor_affine", "torch.per_channel_affine",
    "argparse.Namespace", "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct", "_codecs.encode", "builtins.set", "__builtin__.set",
    "builtins.list", "__builtin__.list", "builtins.bytes", "__builtin__.bytes",
)  # fmt: skip

_CALLS: Mapping[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._utils._rebuild_qtensor": _unreadable("a quantised tensor"),
    "torch._utils._rebuild_sparse_tensor": _unreadable("a sparse tensor"),
    "torch._utils._rebuild_nested_tensor": _unreadable("a nested tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unreadable("a tensor without data"),
    "torch.Size": _size,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "builtins.dict": _mapping,
    "__builtin__.dict": _mapping,
    **dict.fromkeys(_INERT_NAMES, _inert),
}
"""PyTorch's own names, and a few that training scripts often leave behind."""
