"""Models in several folders: the components of diffusers, the modules of sentence-transformers.

A folder with ``model_index.json`` holds components (``unet``, ``vae``, ``text_encoder``, …), one with
``modules.json`` a transformer and modules after it (``2_Dense``). Those with weights are the parts of one model, whose
tensors are called ``unet/conv_in.weight``: the folder, a stroke, the name in the folder's own files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.checkpoint.folder import WEIGHT_SUFFIXES
from stockpot.checkpoint.jsons import CONFIG, BadJsonError, parse_json
from stockpot.checkpoint.places import cannot_read, member

__all__ = ["COMPONENTS", "MODULES", "listed_in", "module_folders", "modules_in", "part_of", "parts_in"]

COMPONENTS = "model_index.json"
MODULES = "modules.json"


def parts_in(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The folders below ``folder`` that hold parts of the model; ``""`` is the folder itself. Empty for a plain model.

    Args:
        names: Its files and, with their folder's name, those one level below; on disk or at the hub.
    """
    listed = [part for part in listed_in(folder, names) if _weights(part, names)]
    return tuple(listed) if any(listed) else ()


def listed_in(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """All folders that a model in several folders lists, those without weights too."""
    return tuple(dict.fromkeys((*_components(folder, names), *module_folders(folder, names))))


def part_of(name: str, parts: Sequence[str]) -> str:
    """The part that tensor ``name`` belongs to.

    >>> part_of("unet/conv_in.weight", ["unet", "vae"]), part_of("embeddings.weight", ["", "2_Dense"])
    ('unet', '')
    """
    first, stroke, _ = name.partition("/")
    return first if stroke and first in parts else ""


def module_folders(folder: Path, names: Sequence[str] = (MODULES,)) -> tuple[str, ...]:
    """The folders of the modules of a sentence-transformers model; that of its transformer is ``""`` or its own."""
    paths = [module.get("path") for module in modules_in(folder)] if MODULES in names else []
    return tuple(path for path in paths if isinstance(path, str) and _plain(path))


def modules_in(folder: Path) -> tuple[Mapping[str, Any], ...]:
    """The modules that sentence-transformers lists in ``folder``; none for other models."""
    modules = _json(folder, MODULES)
    return tuple(module for module in modules if isinstance(module, dict)) if isinstance(modules, list) else ()


def _components(folder: Path, names: Sequence[str]) -> Iterator[str]:
    index = _json(folder, COMPONENTS) if COMPONENTS in names else None
    if isinstance(index, dict):
        for key, value in index.items():
            if isinstance(value, list) and len(value) == 2 and key and _plain(key):
                yield key


def _plain(path: str) -> bool:
    """Whether it is the folder itself or one just below."""
    return not {"/", "\\", "\0"} & set(path) and not path.startswith(".")


def _weights(part: str, names: Sequence[str]) -> bool:
    """Whether a folder holds files of weights."""
    below = f"{part}/" if part else ""
    own = (name.removeprefix(below) for name in names if name.startswith(below))
    return any("/" not in name and name.endswith(WEIGHT_SUFFIXES) for name in own)


def _json(folder: Path, name: str) -> Any:
    """What the file says; None when it says nothing of the kind: it is then only a file to copy.

    Raises:
        CheckpointError: when it cannot be read.
    """
    path = member(folder, name)
    try:
        if not path.is_file() or path.stat().st_size > CONFIG.most_bytes:
            return None
        return parse_json(path.read_bytes(), CONFIG)
    except OSError as error:
        raise cannot_read(path, error) from error
    except BadJsonError:
        return None
