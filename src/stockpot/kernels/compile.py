"""How kernels are compiled, and where the compiled code is kept.

Compiled code is cached in ``$STOCKPOT_CACHE_DIR``, else in the user's cache folder, else (neither
writable) in the temporary folder; never beside the installed package, which may be read-only. The
folder's name holds a digest of the kernels' sources, so a new version never meets old code.

Compiling takes more memory than merging does. So what is not in the cache yet is compiled by processes of
their own, one after the other, which end when the code is there; this one only loads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import update_wrapper
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast

import numba
from numba.core import compiler as _numba_compiler
from numba.core import config as _numba_config

from stockpot.errors import ExecutionError, Problem

__all__ = ["cache_folder", "compile_here", "inline", "kernel"]

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
    return Path(tempfile.mkdtemp(prefix="stockpot-")) / name


_FOLDER = _choose()


def cache_folder() -> Path:
    """Where compiled kernels lie."""
    return _FOLDER


def _jit(function: F, **options: Any) -> Any:
    config: Any = _numba_config  # its settings are made at run time
    before = config.CACHE_DIR
    config.CACHE_DIR = str(_FOLDER)
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    finally:
        config.CACHE_DIR = before


class _NotCompiledError(Exception):
    """A kernel is not in the cache for these types of arguments."""

    def __init__(self, types: tuple[Any, ...]) -> None:
        super().__init__(types)
        self.types = types


class _KernelCompiler(_numba_compiler.Compiler):
    """Numba's compiler, which refuses where it is not to run in this process; asked only when nothing is cached."""

    def compile_extra(self, func: Any) -> Any:
        """Compile, or say for which types of arguments that is needed."""
        if not _Kernel.here:
            raise _NotCompiledError(tuple(self.state.args))
        return super().compile_extra(func)  # type: ignore[no-untyped-call]


class _PartCompiler(_numba_compiler.Compiler):
    """Numba's compiler, which ends a process that has compiled enough: each part is cached, so another goes on."""

    made = 0
    most = sys.maxsize

    def compile_extra(self, func: Any) -> Any:
        """Compile, unless it is another process's turn."""
        if _PartCompiler.made >= _PartCompiler.most:
            sys.exit(_UNFINISHED)
        result = super().compile_extra(func)  # type: ignore[no-untyped-call]
        _PartCompiler.made += 1
        return result


class _Kernel:
    """A compiled function that Python calls; compiled by a process of its own when it is first called."""

    here = False
    """Whether kernels are compiled in this process: in one that was started for it, or where none can be."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = (function.__module__, function.__name__)
        self._compiled = _jit(function, pipeline_class=_KernelCompiler)
        update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        try:
            return self._compiled(*arguments)
        except _NotCompiledError as missing:
            types = missing.types
        with _ONE_AT_A_TIME:
            if not self.ready(types) and not (_compile_elsewhere(*self._name, types) and self.ready(types)):
                _Kernel.here = True
        return self(*arguments)

    def ready(self, types: tuple[Any, ...]) -> bool:
        """Whether there is code for these types of arguments, be it of this moment."""
        try:
            self._compiled.compile(types)
        except _NotCompiledError:
            return False
        return True


_ONE_AT_A_TIME = Lock()

_PARTS = 32
"""Functions that a process compiles before another goes on: what numba holds grows by about 2 MiB with each."""

_UNFINISHED = 75
_MOST_PROCESSES = 40

_COMMAND = """
import json, sys
sys.path[:], module, name, parts, types = json.load(sys.stdin)
from stockpot.kernels.compile import compile_here
compile_here(module, name, parts, types)
"""


def _compile_elsewhere(module: str, name: str, types: tuple[Any, ...]) -> bool:
    """Have other processes compile a kernel into the cache; whether they could.

    Raises:
        ExecutionError: when one of them was killed.
    """
    told = [_told(t) for t in types]
    if None in told or not sys.executable:
        return False
    job = json.dumps([sys.path, module, name, _PARTS, told]).encode()
    settings = {**os.environ, "STOCKPOT_CACHE_DIR": str(_FOLDER.parent), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", _COMMAND]
    for _ in range(_MOST_PROCESSES):
        try:
            done = subprocess.run(command, input=job, env=settings, capture_output=True, check=False)  # noqa: S603
        except OSError:
            return False
        if done.returncode < 0:
            raise ExecutionError(
                Problem(
                    f"the process that compiles kernels was killed (signal {-done.returncode})",
                    fix="run again; where memory is short, run once with more: compiled kernels are kept",
                )
            )
        if done.returncode != _UNFINISHED:
            return done.returncode == 0
    return False


def compile_here(module: str, name: str, parts: int, types: Sequence[Any]) -> None:
    """Compile a kernel in this process, into the cache, or ``parts`` parts of it: then the process ends.

    Args:
        types: Of its arguments: a word, or of an array [word, dimensions, layout, whether it is read only].
    """
    _Kernel.here, _PartCompiler.most = True, parts
    getattr(import_module(module), name).ready(tuple(map(_meant, types)))


def _told(numba_type: Any) -> Any:
    """A type of an argument as plain data, for :func:`_meant`; None for what is neither number nor array."""
    if not isinstance(numba_type, numba.types.Array):
        return str(numba_type) if isinstance(numba_type, numba.types.Number | numba.types.Boolean) else None
    told = [str(numba_type.dtype), numba_type.ndim, numba_type.layout, not numba_type.mutable]
    return told if _meant(told) == numba_type else None


def _meant(told: Any) -> Any:
    if isinstance(told, str):
        return getattr(numba.types, {"bool": "boolean"}.get(told, told))
    name, dimensions, layout, fixed = told
    return numba.types.Array(_meant(name), dimensions, layout, readonly=fixed)


def kernel(function: F) -> F:
    """Compile ``function`` as an entry point that Python calls; IEEE arithmetic, no reordering."""
    return cast("F", _Kernel(function))


def inline(function: F) -> F:
    """Compile ``function`` as a part of kernels."""
    return cast("F", _jit(function, pipeline_class=_PartCompiler))
