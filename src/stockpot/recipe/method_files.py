"""Files of a user's own methods: Python that runs only when it is allowed, loaded by path."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from importlib.abc import ExecutionLoader
from importlib.util import decode_source, module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

from stockpot.custom import UserMethod
from stockpot.errors import Problem, RecipeError, StockpotError
from stockpot.methods.declare import Method
from stockpot.recipe.findings import Findings
from stockpot.recipe.known import Known, method_names
from stockpot.recipe.yaml_nodes import Entry, Mapping, Scalar

__all__ = ["MethodFile", "MethodFiles", "run_file"]

_HOW = "decorate a function with @sp.elementwise or @sp.whole_tensor"
_MAX_BYTES = 10_000_000
_RENAME = "give the function another name"


@dataclass(frozen=True)
class MethodFile:
    """A method file as a recipe writes it, and the hash of the bytes that were run."""

    path: str
    sha256: str | None = None


class MethodFiles:
    """Loads the method files of a recipe, each once.

    Args:
        folder: Folder that their paths are relative to; None is the current one.
        allowed: Whether code may run.
        findings: Where problems go.
    """

    def __init__(self, folder: str | None, allowed: bool, findings: Findings) -> None:
        self._folder = Path(folder or ".")
        self._allowed, self._findings = allowed, findings
        self._loaded: dict[Path, tuple[Known, str | None]] = {}

    def of(self, node: Mapping) -> tuple[Known, MethodFile | None]:
        """What names mean in the document ``node``, and its method file with the hash of what was run."""
        entry = node.get("method_file")
        if entry is None:
            return Known(), None
        file = _written(entry)
        if file is None:
            return Known(complete=False), None
        if not self._allowed:
            fix = "read the file, then allow it: --allow-code (in Python: allow_code=True)"
            message = f"method_file {file.path} is code, which runs only when it is allowed"
            self._findings.problem(message, entry.line, fix)
            return Known(complete=False), file
        path = self._folder / file.path
        if path not in self._loaded:
            self._loaded[path] = self._load(path, file, entry.line)
        known, digest = self._loaded[path]
        return known, MethodFile(file.path, digest)

    def _load(self, path: Path, file: MethodFile, line: int) -> tuple[Known, str | None]:
        nothing = Known(complete=False)
        data, trouble = _read(path)
        if trouble is not None:
            self._findings.problem(f"cannot read method_file {path}: {trouble}", line)
            return nothing, None
        digest = hashlib.sha256(data).hexdigest()
        if file.sha256 is not None and file.sha256.lower() != digest:
            fix = f"read what changed; its sha256 is now {digest}"
            self._findings.problem(f"method_file {path} is not the file with this sha256", line, fix)
            return nothing, None
        try:
            module = _run(path, data, digest)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's code may raise anything
            self._findings.problem(_blame(error, path), line, _fix(error))
            return nothing, None
        methods = self._methods(module, path, line)
        return (nothing, None) if methods is None else (Known(methods), digest)

    def _methods(self, module: ModuleType, path: Path, line: int) -> MappingOf[str, Method] | None:
        """Every method in ``module`` by name; None when there are problems, such as names that are taken."""
        found: dict[str, UserMethod] = {}
        problems: list[tuple[str, str]] = []
        methods = [value for value in vars(module).values() if isinstance(value, UserMethod)]
        for own in sorted(methods, key=_line):
            name, place = own.method.name, f"{path}, line {_line(own)}"
            if name in method_names():
                problems.append((f"{place}: {name} is the name of a method of Stockpot", _RENAME))
            elif found.setdefault(name, own) is not own:
                problems.append((f"{place}: two methods are named {name}", _RENAME))
        if not found and not problems:
            problems.append((f"method_file {path} makes no methods", _HOW))
        for message, fix in problems:
            self._findings.problem(message, line, fix)
        return None if problems else {name: own.method for name, own in found.items()}


def _line(own: UserMethod) -> int:
    code = getattr(own.function, "__code__", None)
    return code.co_firstlineno if code is not None else 0


def _written(entry: Entry) -> MethodFile | None:
    """The file that ``entry`` names; None when it names none, which was reported."""
    node = entry.value
    if isinstance(node, Scalar):
        return MethodFile(node.text) if node.text.strip() else None
    path = node.get("path") if isinstance(node, Mapping) else None
    if path is None or not isinstance(path.value, Scalar):
        return None
    digest = node.get("sha256") if isinstance(node, Mapping) else None
    return MethodFile(path.value.text, digest.value.text if digest and isinstance(digest.value, Scalar) else None)


class _Loader(ExecutionLoader):
    """Runs exactly the bytes that were hashed; writes no bytecode beside the file."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._data = path, data

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002 - importlib's signature
        """Path for tracebacks."""
        return str(self._path)

    def get_source(self, fullname: str) -> str:  # noqa: ARG002
        """The text."""
        return decode_source(self._data)


def _read(path: Path) -> tuple[bytes, str | None]:
    """The file's bytes, or why it has none to run."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        return b"", error.strerror or str(error)
    except ValueError:
        return b"", "not a path"
    return data, f"larger than {_MAX_BYTES} bytes" if len(data) > _MAX_BYTES else None


def run_file(path: Path) -> tuple[ModuleType, str]:
    """Run a user's file whose code is allowed: the module, and the sha256 of the bytes that were run.

    Raises:
        RecipeError: when it cannot be read or fails; tells where.
    """
    data, trouble = _read(path)
    if trouble is not None:
        raise RecipeError(Problem(f"cannot read {path}: {trouble}"))
    digest = hashlib.sha256(data).hexdigest()
    try:
        return _run(path, data, digest), digest
    except (Exception, SystemExit) as error:
        raise RecipeError(Problem(_blame(error, path), fix=_fix(error))) from error


def _run(path: Path, data: bytes, digest: str) -> ModuleType:
    name = f"_stockpot_methods_{digest[:16]}"
    loader = _Loader(path, data)
    spec = spec_from_loader(name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and annotations look things up
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _blame(error: BaseException, path: Path) -> str:
    """File, line and message of an error in a user's file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename in (None, str(path), "<string>"):
        lines, text = [error.lineno], error.msg
    elif isinstance(error, StockpotError):
        text = "; ".join(p.message for p in error.problems)
    else:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    where = f"{path}, line {lines[-1]}" if lines and lines[-1] is not None else str(path)
    return f"{where}: {text}"


def _fix(error: BaseException) -> str | None:
    if isinstance(error, StockpotError):
        return next((p.fix for p in error.problems if p.fix is not None), None)
    if isinstance(error, ModuleNotFoundError):
        return "the file's folder is not searched for modules: install what it imports, or keep it in one file"
    return None
