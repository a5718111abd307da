"""How kernels are compiled, and where the compiled code is kept.

Compiled code is cached in ``$STOCKPOT_CACHE_DIR``, else in the user's cache folder, else (neither
writable) in the temporary folder; never beside the installed package, which may be read-only. The
folder's name holds a digest of the kernels' sources, so a new version never meets old code.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import config as _numba_config

__all__ = ["cache_folder", "inline", "kernel"]

F = TypeVar("F", bound=Callable[..., Any])


def _candidates() -> list[Path]:
    found = []
    if os.environ.get("STOCKPOT_CACHE_DIR"):
        found.append(Path(os.environ["STOCKPOT_CACHE_DIR"]))
    if os.environ.get("XDG_CACHE_HOME"):
        found.append(Path(os.environ["XDG_CACHE_HOME"]) / "stockpot")
    home = Path("~/Library/Caches" if sys.platform == "darwin" else "~/.cache")
    found.append(home.expanduser() / "stockpot")
    uid = os.getuid() if hasattr(os, "getuid") else 0
    found.append(Path(tempfile.gettempdir()) / f"stockpot-{uid}")
    return found


def _digest() -> str:
    digest = hashlib.sha256(f"{numba.__version__} {sys.version}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _choose() -> Path:
    name = f"kernels-{_digest()}"
    for parent in _candidates():
        folder = parent / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        owned = not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()
        if owned and os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.mkdtemp(prefix="stockpot-"))


_FOLDER = _choose()


def cache_folder() -> Path:
    """Where compiled kernels lie."""
    return _FOLDER


def _jit(function: F, **options: Any) -> F:
    config: Any = _numba_config  # its settings are made at run time
    before = config.CACHE_DIR
    config.CACHE_DIR = str(_FOLDER)
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)  # type: ignore[no-any-return]
    finally:
        config.CACHE_DIR = before


def kernel(function: F) -> F:
    """Compile ``function`` as an entry point that Python calls; IEEE arithmetic, no reordering."""
    return _jit(function)


def inline(function: F) -> F:
    """Compile ``function`` as a part of kernels."""
    return _jit(function)
