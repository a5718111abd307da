"""A model opened straight into memory, merged or not: no file of weights is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128_digest

from stockpot.checkpoint.jsons import read_json
from stockpot.checkpoint.parts import MODULES, modules_in
from stockpot.checkpoint.places import cannot_read
from stockpot.errors import ExecutionError, Problem, UnsupportedError
from stockpot.evaluate.examples import digest
from stockpot.execute.local import compute
from stockpot.planning.model import Plan

__all__ = ["Opened", "widened"]

Arrays = Mapping[str, npt.NDArray[Any]]
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Opened:
    """A model in memory. Its parts are made when they are first used.

    Args:
        name: How tables call it.
        plan: What its tensors are computed by; for one stored model, reading it.
        device: Where torch runs it, such as ``cpu`` or ``cuda``; None takes a GPU where there is one.
    """

    name: str
    plan: Plan
    device: str | None = None
    _loaded: dict[str, Any] = field(default_factory=dict, repr=False)
    _held: list[tuple[object, Any, ExitStack]] = field(default_factory=list, repr=False)

    @cached_property
    def tensors(self) -> Arrays:
        """Name → array, in the dtypes of NumPy and ml_dtypes, as they would be written."""
        return compute(self.plan)

    @cached_property
    def wide(self) -> Arrays:
        """:attr:`tensors` with floats of 16 and 8 bits as float32, which holds each of them exactly."""
        return {name: widened(array) for name, array in self.tensors.items()}

    @contextmanager
    def unchanged(self, by: str) -> Iterator[None]:
        """What ``by``, which is not ours, does meanwhile must leave :attr:`tensors` and :attr:`wide` as they are.

        Raises:
            ExecutionError: when it does not. The tensors are made anew for whoever uses them next.
        """
        before = self.once("content", lambda: _content(self.tensors))
        try:
            yield
        finally:
            same = _content(self.tensors) == before and _widened(self.tensors, self.__dict__.get("wide"))
            if not same:
                for part in ("tensors", "wide"):
                    self.__dict__.pop(part, None)
                self._loaded.clear()
        if not same:
            fix = "work on copies; a module of torch changes some in training mode (batch norm): eval() first"
            raise ExecutionError(Problem(f"{by} changes the tensors that it is given", fix=fix))

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The merged ``config.json``, that of the transformer; empty without one."""
        return self.small(f"{self.part}config.json")

    def small(self, name: str) -> Mapping[str, Any]:
        """What a JSON file beside the tensors says; empty where there is none."""
        content = dict(self.plan.sidecars).get(name)
        if content is None:
            return {}
        data: Mapping[str, Any] = json.loads(content) if isinstance(content, bytes) else read_json(content)
        return data

    @cached_property
    def modules(self) -> tuple[Mapping[str, Any], ...]:
        """The modules that sentence-transformers lists; none for other models."""
        content = dict(self.plan.sidecars).get(MODULES)
        return modules_in(content.parent) if isinstance(content, Path) else ()

    @property
    def part(self) -> str:
        """Where the transformer lies among the modules: ``""``, or a folder and a stroke."""
        path = self.modules[0].get("path", "") if self.modules else ""
        return f"{path}/" if isinstance(path, str) and path else ""

    def transformer(self, kind: str) -> Any:
        """The model as transformers makes it of :attr:`config`, its parameters sharing memory with :attr:`tensors`.

        Args:
            kind: ``causal`` (with a language-model head) or ``encoder`` (hidden states only).

        Raises:
            UnsupportedError: when torch or transformers is missing, or does not know the architecture.
            CheckpointError: when tensors are missing or left over.
        """
        from stockpot.evaluate.neural import transformer_of

        self.release()
        own = {n.removeprefix(self.part): a for n, a in self.tensors.items() if n.startswith(self.part)}
        generation = self.small("generation_config.json") or None
        return self.once(kind, lambda: transformer_of(self.config, own, kind, self.device, generation))

    def once(self, key: str, make: Callable[[], _T]) -> _T:
        """What ``make`` gives the first time for ``key``: what a task makes of the model whatever its files are."""
        if key not in self._loaded:
            self._loaded[key] = make()
        found: _T = self._loaded[key]
        return found

    def held(self, key: object, opening: Callable[[], AbstractContextManager[_T]]) -> _T:
        """What ``opening`` gives, kept open for those who ask for the same ``key`` next.

        It ends with the model, or when something else is held or made of the model: a GPU may have room for one.
        """
        if not (self._held and self._held[0][0] == key):
            self.release()
            self._loaded.clear()
            with ExitStack() as stack:
                made = stack.enter_context(opening())
                self._held.append((key, made, stack.pop_all()))
        found: _T = self._held[0][1]
        return found

    def release(self) -> None:
        """What is held is closed."""
        while self._held:
            _, made, stack = self._held.pop()
            del made  # what it runs ends with the last who refers to it
            stack.close()

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer that the merged model has, as transformers makes it.

        Raises:
            UnsupportedError: when there is none, or transformers is missing.
        """
        from stockpot.evaluate.neural import tokenizer_of

        own = [name.removeprefix(self.part) for name, _ in self.plan.sidecars if name.startswith(self.part)]
        if not any(name.startswith(("tokenizer", "vocab", "spiece")) for name in own):
            fix = "take the tokenizer's files into the folder of the base (or first) model"
            raise UnsupportedError(Problem(f"{self.name} has no tokenizer", fix=fix))
        with self._small_files() as folder:
            return tokenizer_of(folder / self.part, self.config)

    @contextmanager
    def _small_files(self) -> Iterator[Path]:
        """A folder with the small files beside the tensors: for its time, and links where they are copies."""
        with TemporaryDirectory(prefix="stockpot-") as name:
            for relative, content in self.plan.sidecars:
                place = Path(name) / relative
                place.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    place.write_bytes(content)
                else:
                    _linked(place, content)
            yield Path(name)


def _linked(place: Path, content: Path) -> None:
    """``content`` at ``place``: a link, or a copy where links are not allowed."""
    try:
        place.symlink_to(content.resolve())
    except OSError:
        try:
            copyfile(content, place)
        except OSError as error:
            raise cannot_read(content, error) from error


def _content(tensors: Arrays) -> bytes:
    """A digest of names and values."""
    parts: list[bytes | str] = []
    for name, array in tensors.items():
        parts += [name, f"{array.dtype} {array.shape}", xxh3_128_digest(_bits(array).data)]
    return digest(*parts)


def _widened(tensors: Arrays, wide: Arrays | None) -> bool:
    """Whether ``wide``, where there is such, is what ``tensors`` gave."""
    if wide is None:
        return True
    return list(wide) == list(tensors) and all(
        wide[name] is array or np.array_equal(_bits(wide[name]), _bits(widened(array)))
        for name, array in tensors.items()
    )


def _bits(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def widened(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``array``, as float32 when it holds floats of fewer bits.

    >>> import ml_dtypes
    >>> widened(np.ones(1, ml_dtypes.bfloat16)).dtype, widened(np.ones(1, np.int8)).dtype
    (dtype('float32'), dtype('int8'))
    """
    narrow = array.dtype.kind in "fV" and array.dtype.itemsize < 4
    return array.astype(np.float32) if narrow else array
