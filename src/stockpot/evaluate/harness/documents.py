"""The documents of tasks: local files, or splits of the data set that a task names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stockpot.errors import CheckpointError, Problem, RecipeError
from stockpot.evaluate.examples import Row, digest, read_rows
from stockpot.evaluate.harness.definitions import Definition
from stockpot.evaluate.harness.quiet import quietly
from stockpot.evaluate.protocol import Files, is_named
from stockpot.recipe.known import nearest

__all__ = ["Documents", "digest_of"]

_LINES = (".jsonl", ".json")
_TABLES = (".parquet",)


class Documents:
    """Finds the documents of a task, each piece once.

    Args:
        task: Whose data set named splits are taken from.
    """

    def __init__(self, task: Definition) -> None:
        self._task = task
        self._own: Any = None
        self._found: dict[Files, Any] = {}

    def of(self, files: Files) -> Any:
        """A ``datasets.Dataset`` of all of ``files``, or of the split that they name.

        Raises:
            RecipeError: when there is no such split.
            CheckpointError: when files are not what they should be, or the data set cannot be loaded.
        """
        if files not in self._found:
            if any(map(is_named, files)):
                if len(files) > 1:
                    raise RecipeError(Problem("a split of the task's data stands alone, not in a list", fix='"@test"'))
                self._found[files] = self._split(str(files[0])[1:])
            else:
                self._found[files] = _of_files(files)
        return self._found[files]

    def _split(self, name: str) -> Any:
        if self._own is None:
            self._own = self._loaded()
        if name not in self._own:
            known = list(self._own)
            near = nearest(name, known)
            hint = f"did you mean @{near}? " if near else ""
            fix = f"{hint}it has: {', '.join('@' + k for k in known)}"
            raise RecipeError(Problem(f"the data of {self._task.name} has no split {name!r}", fix=fix))
        return self._own[name]

    def _loaded(self) -> Any:
        """The task's own data set: split → documents."""
        import datasets

        config = self._task.config
        settings = _placed(config.get("dataset_kwargs") or {}, self._task.folder)
        path, name = config.get("dataset_path"), config.get("dataset_name")
        try:
            with quietly():
                if callable(config.get("custom_dataset")):
                    return config["custom_dataset"](**config["metadata"], **settings)
                found = datasets.load_dataset(path, name, **settings)
        except Exception as error:
            message = f"cannot load the data of {self._task.name} ({path}): {type(error).__name__}: {error}"
            fix = "without the hub, name files: split: {report: FILE.jsonl}"
            raise CheckpointError(Problem(message, fix=fix)) from error
        return {str(found.split): found} if isinstance(found, datasets.Dataset) else found


def _placed(settings: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """Settings of a data set, without leave to run code; paths of files that lie beside the task's are made whole."""
    kept = {key: value for key, value in settings.items() if key != "trust_remote_code"}
    if folder is not None and "data_files" in kept:
        kept["data_files"] = _beside(kept["data_files"], folder)
    return kept


def _beside(value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping):
        return {key: _beside(one, folder) for key, one in value.items()}
    if isinstance(value, list):
        return [_beside(one, folder) for one in value]
    place = folder / str(value)
    return str(place) if place.is_file() else value


def _of_files(files: Files) -> Any:
    """All rows of local files, as they are: nothing is copied to the user's cache."""
    import datasets

    kinds = {path.suffix.lower() for path in files}
    if not kinds <= {*_LINES, *_TABLES}:
        wrong = next(path for path in files if path.suffix.lower() not in (*_LINES, *_TABLES))
        fix = f"lines of JSON ({', '.join(_LINES)}) or {', '.join(_TABLES)}"
        raise CheckpointError(Problem("documents of an unknown form", file=str(wrong), fix=fix))
    parts = [_table(path) if path.suffix.lower() in _TABLES else _lines(path) for path in files]
    if len(parts) == 1:
        return parts[0]
    other = next((i for i, part in enumerate(parts) if set(part.column_names) != set(parts[0].column_names)), None)
    if other is not None:
        told = f"{', '.join(parts[other].column_names)}, but {files[0].name} has {', '.join(parts[0].column_names)}"
        raise CheckpointError(Problem(f"the files hold different keys: {told}", file=str(files[other])))
    try:
        return datasets.concatenate_datasets(parts)
    except ValueError as error:
        told = ", ".join(map(str, files))
        raise CheckpointError(Problem(f"the files hold values of different kinds: {error}", file=told)) from error


def _lines(path: Path) -> Any:
    """The rows of one file; a key that only some have is None in the others."""
    import datasets

    rows = read_rows((path,), lambda _: None)
    keys = dict.fromkeys(key for row in rows for key in row)
    try:
        return datasets.Dataset.from_dict({key: [row.get(key) for row in rows] for key in keys})
    except (ValueError, TypeError) as error:  # of pyarrow: one key holds values of different kinds
        raise CheckpointError(Problem(f"rows of different kinds: {error}", file=str(path))) from error


def _table(path: Path) -> Any:
    import datasets
    from pyarrow import ArrowInvalid, parquet

    try:
        return datasets.Dataset(datasets.table.InMemoryTable(parquet.read_table(path)))
    except (ArrowInvalid, OSError) as error:
        raise CheckpointError(Problem(f"not a parquet file: {error}", file=str(path))) from error


def digest_of(documents: Iterable[Row]) -> str:
    """A hash of whole documents in order."""
    return digest(*(json.dumps(row, sort_keys=True, default=repr) for row in documents)).hex()
