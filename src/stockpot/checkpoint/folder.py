"""Which files of a folder hold its weights, judged by names alone.

The same judgement serves a folder on disk and the file list of a hub repository. What transformers
and diffusers would load comes first: ``model.safetensors``, then ``model.safetensors.index.json``,
the same for ``diffusion_pytorch_model``, then any other safetensors files, then PyTorch pickles, then GGUF.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from stockpot.checkpoint.gguf.names import parts_of
from stockpot.errors import CheckpointError, Problem, StockpotError, UnsupportedError

__all__ = [
    "LEGACY_SUFFIXES",
    "WEIGHT_SUFFIXES",
    "AdapterFiles",
    "Weights",
    "adapter_error",
    "adapter_files",
    "choose_weights",
    "is_adapter",
    "natural",
    "tells_of_adapter",
    "training_state",
]

LEGACY_SUFFIXES = (".bin", ".pt", ".pth", ".th", ".ckpt")
"""Names of PyTorch pickles end so."""

_FOREIGN = {
    ".h5": "Keras",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
    ".npz": "NumPy",
    ".ot": "rust-bert",
    ".tflite": "TensorFlow Lite",
    ".ggml": "GGML",
    ".pdparams": "Paddle",
    ".mlmodel": "Core ML",
}

WEIGHT_SUFFIXES = (
    ".safetensors",
    *LEGACY_SUFFIXES,
    *_FOREIGN,
    ".gguf",
    ".npy",
    ".onnx_data",
    ".pb",
    ".incomplete",
)
"""Files whose names end so hold numbers, not settings."""

_STEMS = ("model", "diffusion_pytorch_model")
_TRAINING = re.compile(
    r"(training_args|optimizer|optim|scheduler|lr_scheduler|rng_state|random_states|sampler|scaler"
    r"|zero_pp_rank)([_\-.\d].*)?\.(bin|pt|pth|th|ckpt|pkl|safetensors|distcp)"
)


@dataclass(frozen=True)
class Weights:
    """The files that hold a folder's weights.

    Args:
        legacy: Whether they are PyTorch pickles, not safetensors.
        index: Name of the index that lists them; then ``files`` is empty.
        files: Their names, in natural order.
    """

    legacy: bool
    index: str | None = None
    files: tuple[str, ...] = ()


def choose_weights(names: Sequence[str], where: str) -> Weights:
    """The weights among a folder's file names; names in subfolders (with ``/``) only help errors.

    Raises:
        UnsupportedError: for a folder of an adapter, or with weights of a foreign format only.
        CheckpointError: when there are no weights.
    """
    top = [name for name in names if "/" not in name]
    found = _safetensors(top) or _legacy(top) or _gguf(top, where)
    if found is None:
        raise _nothing(names, top, where)
    return found


def training_state(name: str) -> bool:
    """Whether ``name`` is the state of a training run (optimizer, random numbers), not of a model.

    >>> training_state("optimizer.pt"), training_state("model.pt")
    (True, False)
    """
    return _TRAINING.fullmatch(PurePosixPath(name).name) is not None


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts shard 2 before shard 10.

    >>> sorted(["m-10", "m-2", "m-1"], key=natural)
    ['m-1', 'm-2', 'm-10']
    """
    key = []
    for part in re.split(r"([0-9]+)", name):
        digits = part.lstrip("0") if part.isdecimal() else ""
        key.append((1, len(digits), digits) if part.isdecimal() else (0, 0, part))
    return key


def _standard(top: Sequence[str], stem: str, suffix: str, legacy: bool) -> Weights | None:
    single, index = f"{stem}{suffix}", f"{stem}{suffix}.index.json"
    if single in top:
        return Weights(legacy, files=(single,))
    if index in top:
        return Weights(legacy, index=index)
    return None


def _safetensors(top: Sequence[str]) -> Weights | None:
    for stem in _STEMS:
        found = _standard(top, stem, ".safetensors", legacy=False)
        if found is not None:
            return found
    files = [n for n in top if n.endswith(".safetensors") and not is_adapter(n) and not training_state(n)]
    files.sort(key=natural)
    usual = [n for n in files if not n.startswith("consolidated")]
    indexes = [n for n in top if ".safetensors.index" in n and n.endswith(".json")]
    if len(indexes) > 1:
        indexes = [n for n in indexes if not n.startswith("consolidated")]
    if len(indexes) == 1 and (not usual or not indexes[0].startswith("consolidated")):
        return Weights(legacy=False, index=indexes[0])
    if files:
        return Weights(legacy=False, files=tuple(usual or files))
    return None


def _legacy(top: Sequence[str]) -> Weights | None:
    for stem in ("pytorch_model", "diffusion_pytorch_model"):
        found = _standard(top, stem, ".bin", legacy=True)
        if found is not None:
            return found
    files = [n for n in top if n.endswith(LEGACY_SUFFIXES) and not is_adapter(n) and not training_state(n)]
    if files:
        return Weights(legacy=True, files=tuple(sorted(files, key=natural)))
    return None


def _gguf(top: Sequence[str], where: str) -> Weights | None:
    """The one GGUF model of a folder, all its parts; folders often hold one model in several formats.

    Raises:
        CheckpointError: when there are several.
    """
    files = [n for n in top if n.endswith(".gguf") and not n.startswith("mmproj")]
    if not files:
        return None
    whole = {parts_of(name) for name in files}
    if len(whole) > 1:
        shown = ", ".join(sorted(files, key=natural)[:6])
        fix = "name the one file that is wanted, as a path; of a model in parts, the first"
        raise CheckpointError(Problem(f"holds several GGUF files ({shown})", file=where, fix=fix))
    return Weights(legacy=False, files=whole.pop())


def is_adapter(name: str) -> bool:
    """Whether a file of this name holds an adapter's weights or settings."""
    return name.startswith(("adapter_model", "adapter_config", "pytorch_lora_weights"))


@dataclass(frozen=True)
class AdapterFiles:
    """The files of an adapter.

    Args:
        weights: Name of the file that holds its tensors.
        settings: Name of PEFT's settings; None for an adapter that is a single file.
        beside: What tells its licence.
    """

    weights: str
    settings: str | None = None
    beside: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (self.weights, *(() if self.settings is None else (self.settings,)), *self.beside)


def adapter_files(names: Sequence[str], where: str) -> AdapterFiles:
    """The files of an adapter among a folder's: PEFT's two, else the only file of weights.

    Args:
        names: Of the folder's files; names in subfolders (with ``/``) only help errors.

    Raises:
        CheckpointError: when settings or weights are missing, or several adapters are there to choose from.
    """
    top = [name for name in names if "/" not in name]
    beside = tuple(sorted(name for name in top if name.startswith(("README", "LICENSE", "LICENCE", "NOTICE"))))
    weights = [name for name in ("adapter_model.safetensors", "adapter_model.bin") if name in top]
    settings = "adapter_config.json" in top
    if settings and weights:
        return AdapterFiles(weights[0], "adapter_config.json", beside)
    alone = [name for name in top if name.endswith(".safetensors") and not name.startswith("adapter_model")]
    if "pytorch_lora_weights.safetensors" in alone:
        alone = ["pytorch_lora_weights.safetensors"]
    if len(alone) == 1 and not settings and not weights:
        return AdapterFiles(alone[0], None, beside)
    raise CheckpointError(_no_adapter(names, alone, settings, bool(weights), where))


def _no_adapter(names: Sequence[str], alone: Sequence[str], settings: bool, weights: bool, where: str) -> Problem:
    """Why a folder is none, and which of the adapters in or below it may be meant."""
    below = sorted(name.rpartition("/")[0] for name in names if name.endswith("/adapter_config.json"))
    if below and not settings and not weights:
        listed = ", ".join(below[:8]) + ", …" * (len(below) > 8)
        message = f"it holds {len(below)} adapter{'s' * (len(below) > 1)} in folders of their own: {listed}"
        return Problem(message, file=where, fix=f"name one of them: {where.rstrip('/')}/{below[0]}")
    if alone and not settings and not weights:
        listed = ", ".join(sorted(alone, key=natural)[:8]) + ", …" * (len(alone) > 8)
        return Problem(f"it holds {len(alone)} files of weights: {listed}", file=where, fix="name one of the files")
    lacks = "adapter_config.json" if weights else "adapter_model.safetensors"
    fix = (
        "name a folder that peft's save_pretrained wrote (adapter_config.json and adapter_model.safetensors), or a file"
    )
    return Problem(f"not an adapter: {lacks} is missing", file=where, fix=fix)


_AN_ADAPTER = "an adapter, not a whole model"


def adapter_error(where: str) -> UnsupportedError:
    """The error for an adapter at ``where``."""
    fix = "write it on its base: BASE+ADAPTER (in Python: stockpot.open(BASE, adapter=ADAPTER))"
    return UnsupportedError(Problem(_AN_ADAPTER, file=where, fix=fix))


def tells_of_adapter(error: StockpotError) -> bool:
    """Whether ``error`` is the one of :func:`adapter_error`."""
    return isinstance(error, UnsupportedError) and all(p.message == _AN_ADAPTER for p in error.problems)


def _nothing(names: Sequence[str], top: Sequence[str], where: str) -> CheckpointError | UnsupportedError:
    """The error for a folder without weights, with the likeliest reason."""
    if any(is_adapter(name) for name in top):
        return adapter_error(where)
    for name in sorted(top):
        kind = _FOREIGN.get(PurePosixPath(name).suffix)
        if kind is not None:
            fix = "use the safetensors version of this model"
            return UnsupportedError(Problem(f"holds {kind} weights only ({name})", file=where, fix=fix))
    below = sorted({n.rpartition("/")[0] for n in names if "/" in n and n.endswith((".safetensors", *LEGACY_SUFFIXES))})
    fix = (
        f"name one of its folders, as a path: {', '.join(below[:8])}"
        if below
        else "name the folder that holds .safetensors files"
    )
    return CheckpointError(Problem("no weights in this folder", file=where, fix=fix))
