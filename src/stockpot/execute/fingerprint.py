"""What a merge that was broken off was: enough to tell whether another one continues it, and if not, why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from stockpot.checkpoint.model import Checkpoint, Stamp
from stockpot.custom import identity_of
from stockpot.errors import Problem, StorageError
from stockpot.execute.receipt import plain
from stockpot.execute.versions import versions
from stockpot.methods.declare import Blockwise, Method
from stockpot.planning.model import Operand, Plan, Read

__all__ = ["changes", "fingerprint", "small_files"]

Facts = Mapping[str, Any]


def fingerprint(plan: Plan) -> dict[str, Any]:
    """Plain data, equal for two plans exactly when one continues what the other began.

    Threads and memory are not in it, since they change no byte.
    """
    known: dict[int, str] = {}
    return {
        "versions": versions(),
        "recipe": plain(plan.resolved),
        "inputs": {label: _input(source, known) for label, source in sorted(plan.sources.items())},
        "small files": small_files(plan),
        "files": {s.file: [s.size, xxhash.xxh3_64_hexdigest(s.header)] for s in plan.shards},
        "computation": _computation(plan, known),
    }


def small_files(plan: Plan) -> dict[str, Any]:
    """Name of each small file → what tells that it has changed."""
    return {name: _small(content) for name, content in plan.sidecars}


def changes(before: Facts, now: Facts) -> list[str]:
    """What differs between two fingerprints, in words; empty when nothing does."""
    found = [
        text
        for section in ("versions", "recipe", "inputs", "small files")
        for text in _differences(section, before.get(section), now[section])
    ]
    if not found and before.get("files") != now["files"]:
        found.append("the output's files (--shard-size, dtype or names)")
    if not found and before.get("computation") != now["computation"]:
        found.append("what is computed")
    return found


def _differences(place: str, before: Any, now: Any) -> Iterator[str]:
    if before == now:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(f"{place}: {key}", before.get(key), now.get(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now) and place.startswith("recipe"):
        for number, (one, other) in enumerate(zip(before, now, strict=True), start=1):
            yield from _differences(f"{place} {number}", one, other)
    elif place.startswith("inputs"):
        yield f"{place} has changed" if before and now else f"{place} {'is gone' if before else 'is new'}"
    elif place.startswith("small files"):
        yield f"{place} has changed"
    else:
        yield f"{place}: was {_short(before)}, is {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= 60 else text[:57] + "..."


def _input(source: Checkpoint, known: dict[int, str]) -> dict[str, Any]:
    if not source.stamps:
        return {r.name: _array(r.array, known) for r in source.tensors.values()}
    known_of = zip(source.files, source.identity.get("files", ()), strict=False)
    headers = {str(path): facts.get("header_xxh3") for path, facts in known_of}
    return {path: [*_stamped(s), headers.get(path)] for path, s in sorted(source.stamps.items())}


def _array(data: Any, known: dict[int, str]) -> str:
    """Hash of an array in memory, taken once; nothing for what is in a file."""
    if data is None:
        return ""
    if id(data) not in known:
        known[id(data)] = xxhash.xxh3_128_hexdigest(data.data)
    return known[id(data)]


def _stamped(stamp: Stamp) -> list[int]:
    return [stamp.nbytes, stamp.mtime_ns]


def _small(content: bytes | Path) -> Any:
    if isinstance(content, bytes):
        return xxhash.xxh3_64_hexdigest(content)
    try:
        return _stamped(Stamp.of(content.stat()))
    except FileNotFoundError:
        return None  # copying it will say so
    except OSError as error:
        message = f"cannot be looked at: {error.strerror or error}"
        raise StorageError(Problem(message, file=str(content), fix="try again when the disk answers")) from error


def _computation(plan: Plan, known: dict[int, str]) -> str:
    """A hash of every step and survey, down to each input's place (or bytes in memory) and each parameter."""
    digest = xxhash.xxh3_128()
    for step in plan.steps:
        text = "\n".join(_words(step.source, known))
        digest.update(f"{step.name!r} {step.dtype.code} {step.shape} {step.file!r} {step.offset}\n{text}\n".encode())
    for survey in plan.surveys:
        digest.update(f"survey {survey.group} {survey.method} {sorted(survey.members)}\n".encode())
    return digest.hexdigest()


def _words(source: Operand, known: dict[int, str]) -> Iterator[str]:
    if isinstance(source, Read):
        ref = source.ref
        yield f"read {ref.file!r}{_array(ref.array, known)} {ref.offset} {ref.dtype.code} {ref.shape} {ref.name!r}"
        return
    dtype = source.dtype.code if source.dtype is not None else ""
    yield f"{_method(source.method, known)} {source.shape} {source.minus} {source.base is not None} {dtype}"
    yield f"{source.anchored} {source.scale!r} {source.factors!r} {source.resolved!r} {source.labels} {source.key}"
    yield f"{len(source.inputs)} {len(source.companions)} {source.group} {source.form}"
    for child in source.operands:
        yield from _words(child, known)


def _method(method: Method | None, known: dict[int, str]) -> str:
    """Name and, of users' functions, a hash of their code: of everything in a registry the version says the rest."""
    if method is None:
        return "sum"
    found = known.get(id(method))
    if found is None:
        own = identity_of(method) if isinstance(method.family, Blockwise) else ""
        found = known[id(method)] = f"{method.name} {method.formula!r} {own}"
    return found
