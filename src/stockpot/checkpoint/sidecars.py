"""What lies beside merged tensors: the donor's config, corrected, and its small files."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from stockpot.checkpoint.dtypes import DType
from stockpot.checkpoint.folder import WEIGHT_SUFFIXES
from stockpot.checkpoint.header import is_unicode
from stockpot.checkpoint.model import Checkpoint
from stockpot.checkpoint.parts import module_folders
from stockpot.checkpoint.places import cannot_read, member
from stockpot.errors import CheckpointError, Problem

__all__ = ["MAX_SIDECAR_BYTES", "Sidecar", "part_config", "plan_sidecars"]

Sidecar = tuple[str, bytes | Path]
"""Name in the output folder (with ``/`` for subfolders), and its content or the file to copy."""

MAX_SIDECAR_BYTES = 100_000_000
"""A larger file is no setting; the largest tokenizers have some 40 MB."""

_LEFT_OUT = (
    ".*", "README*", "readme*", "*.index.json", "*.index.*.json", "adapter_*", "trainer_state.json",
    "training_args.*", "events.out.tfevents*", "*_results.json", "mergekit_config.yml", "stockpot*",
    "*.pkl", "*.pickle", "*.zip", "*.tar", "*.gz", "*.lock", "*.log", "*.distcp", "*.png", "*.jpg",
    "*.jpeg", "*.gif", "*.mp4",
)  # fmt: skip
"""Files that describe the donor or its training, not the model that is written."""

_LEFT_OUT_FOLDERS = (
    ".*", "__pycache__", "checkpoint-*", "global_step*", "runs", "logs", "wandb", "original",
    "onnx", "openvino", "coreml", "gguf", "flax", "metal",
)  # fmt: skip

_MAX_DEPTH = 3
_MAX_FILES = 2000

_NOT_CONFIGS = ("quantization_config", "compression_config")


def plan_sidecars(
    donor: Checkpoint,
    *,
    dtype: DType | None = None,
    tied: bool | None = None,
    layers: Mapping[str, Any] | None = None,
    unquantised: bool = False,
    config: Mapping[str, Any] | None = None,
) -> tuple[Sidecar, ...]:
    """What to write beside the merged tensors, config.json first.

    All small files of the donor's folder are copied: tokenizer, chat template, generation and
    processor configs, the model's own Python code (never run), licence. Its README, its training's
    leftovers, weights, indexes, and folders with weights or a hundred files are not. Of the parts of a model in
    several folders all small files are copied but the config, for which there is :func:`part_config`; other modules
    of a sentence-transformers model are copied whole.

    Args:
        donor: The checkpoint whose config and files the output gets.
        dtype: Dtype of the written tensors; None leaves the config's.
        tied: Whether embedding and head share one tensor; None leaves the config's.
        layers: Config keys that stacking layers changed, with their new values, such as
            ``{"num_hidden_layers": 48}``; ``text_config.num_hidden_layers`` names a nested one.
        unquantised: Whether what is said of quantised weights is left out, since they are plain numbers now.
        config: Takes the place of the donor's config, for a result of another kind.

    Raises:
        CheckpointError: for a file that cannot be read, or a link that leads out of the folder.
    """
    planned = _config(donor, dtype, tied, layers or {}, unquantised, config)
    if donor.folder is not None:
        try:
            copies = _copies(donor.folder, {str(file) for file in donor.files}, donor.parts)
            planned.extend(c for c in copies if not (unquantised and c[0] == "hf_quant_config.json"))
        except OSError as error:
            raise cannot_read(donor.folder, error) from error
    return tuple(planned)


def part_config(
    donor: Checkpoint, part: str, dtype: DType | None, layers: Mapping[str, Any], *, unquantised: bool = False
) -> tuple[Sidecar, ...]:
    """The config of a part in a folder below, true of what is written; none where it has none."""
    found = _config(donor.parts[part], dtype, None, layers, unquantised)
    return tuple((f"{part}/{name}", content) for name, content in found)


def _config(
    donor: Checkpoint,
    dtype: DType | None,
    tied: bool | None,
    layers: Mapping[str, Any],
    unquantised: bool,
    other: Mapping[str, Any] | None = None,
) -> list[Sidecar]:
    config = _corrected(donor.config if other is None else other, dtype, tied, layers)
    if unquantised:
        for part in list(_configs(config)):
            for key in _NOT_CONFIGS:
                part.pop(key, None)
    if config and (config != donor.config or donor.folder is None or donor.made_config):
        return [("config.json", _written(config))]
    if donor.config and donor.folder is not None:
        return [("config.json", member(donor.folder, "config.json"))]
    return []


def _written(config: Mapping[str, Any]) -> bytes:
    """As transformers writes it; half a surrogate pair, which JSON can spell and UTF-8 cannot, stays spelt out."""
    try:
        return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(config, indent=2) + "\n").encode()


def _copies(folder: Path, weights: set[str], parts: Collection[str]) -> Iterator[Sidecar]:
    """The donor's small files but for its config, and those of its parts."""
    configs = {f"{part}/config.json" if part else "config.json" for part in ("", *parts)}
    for count, name in enumerate(_small_files(folder, parts)):
        path = member(folder, name)
        if count >= _MAX_FILES:
            message = f"more than {_MAX_FILES} small files beside the weights"
            raise CheckpointError(Problem(message, file=str(folder), fix="move the model to a folder of its own"))
        if not is_unicode(name):
            fix = "give it a name that is text"
            raise CheckpointError(Problem("a file whose name is not valid Unicode", file=str(path), fix=fix))
        if name not in configs and str(path) not in weights:
            yield name, path


def _corrected(
    config: Mapping[str, Any], dtype: DType | None, tied: bool | None, layers: Mapping[str, Any]
) -> dict[str, Any]:
    """The donor's config, true of what is written."""
    new = deepcopy(dict(config))
    if not new:
        return new
    parts = list(_configs(new))
    for part in parts:
        part.pop("_name_or_path", None)
        if dtype is not None:
            part.update({key: dtype.torch_name for key in ("torch_dtype", "dtype") if key in part})
        if tied is not None and "tie_word_embeddings" in part:
            part["tie_word_embeddings"] = tied
    if dtype is not None and "model_type" in new and not {"torch_dtype", "dtype"} & new.keys():
        new["torch_dtype"] = dtype.torch_name
    if tied is not None and "model_type" in new and not any("tie_word_embeddings" in part for part in parts):
        new["tie_word_embeddings"] = tied
    for key, value in layers.items():
        _set(new, parts, key, value)
    return new


def _configs(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """``config`` and the configs nested in it: text_config, vision_config, encoder and the like."""
    yield config
    for key, value in config.items():
        nested = isinstance(value, dict) and (key.endswith("_config") or "model_type" in value)
        if nested and key not in _NOT_CONFIGS:
            yield from _configs(value)


def _set(config: dict[str, Any], parts: list[dict[str, Any]], key: str, value: Any) -> None:
    """Set ``key`` at the path it names, else at the top, else in the nested config that has it."""
    *path, last = key.split(".")
    if path:
        target: Any = config
        for step in path:
            target = target.setdefault(step, {})
            if not isinstance(target, dict):
                raise CheckpointError(Problem(f"{step} in config.json is no map: cannot set {key}"))
        target[last] = value
        return
    holders = [part for part in parts if key in part]
    (config if key in config or len(holders) != 1 else holders[0])[key] = value


def _small_files(folder: Path, parts: Collection[str]) -> Iterator[str]:
    """Names of the files to copy, with ``/``, in order."""
    modules = module_folders(folder)
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir():
            if _wanted(entry):
                yield entry.name
        elif entry.name in parts:
            yield from _subfolder(entry, entry.name, part=True)
        elif entry.name in modules:
            yield from (f"{entry.name}/{below.name}" for below in sorted(entry.iterdir()) if _light(below))
        elif not _matches(entry.name, _LEFT_OUT_FOLDERS) and not entry.is_symlink():
            yield from _subfolder(entry, entry.name)


def _subfolder(folder: Path, name: str, *, part: bool = False) -> Iterator[str]:
    """The small files of a folder and those below, unless it is no folder of settings; a ``part`` has weights."""
    entries = sorted(folder.iterdir())
    deep = name.count("/") >= _MAX_DEPTH
    if deep or len(entries) >= 100 or (not part and any(e.name.endswith(WEIGHT_SUFFIXES) for e in entries)):
        return
    for entry in entries:
        if not entry.is_dir():
            if _wanted(entry):
                yield f"{name}/{entry.name}"
        elif not _matches(entry.name, _LEFT_OUT_FOLDERS) and not entry.is_symlink():
            yield from _subfolder(entry, f"{name}/{entry.name}")


def _wanted(path: Path) -> bool:
    return not path.name.endswith(WEIGHT_SUFFIXES) and not _matches(path.name, _LEFT_OUT) and _light(path)


def _light(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= MAX_SIDECAR_BYTES


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
