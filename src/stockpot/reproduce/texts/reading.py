"""Readers of the texts that beds are made of; the formats are those that the texts are handed around in."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from stockpot.errors import CheckpointError, Problem

__all__ = ["Labelled", "Pair", "domains", "labelled", "pairs", "prose", "source_code"]


class Labelled(NamedTuple):
    """A text and its class, counted from 0."""

    label: int
    text: str


class Pair(NamedTuple):
    """A toxic comment, and the same said neutrally."""

    toxic: str
    neutral: str


def labelled(path: Path) -> list[Labelled]:
    """Lines ``label text``, the label a whole number; lines with a label alone are left out.

    Raises:
        CheckpointError: for a line that is something else.
    """
    return list(_rows(_lines(path.read_bytes()), " ", str(path)))


def domains(path: Path, needed: Collection[str] = ()) -> Mapping[str, Mapping[str, list[Labelled]]]:
    """Domain → ``train`` or ``test`` → reviews: an archive of files DOMAIN.task.train and DOMAIN.task.test.

    Their lines are ``label<TAB>text``.

    Args:
        needed: Domains that must be there.

    Raises:
        CheckpointError: when the archive or a line is something else, or a domain is missing.
    """
    found: dict[str, dict[str, list[Labelled]]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                domain, _, part = Path(name).name.partition(".task.")
                if part:
                    rows = list(_rows(_lines(archive.read(name)), "\t", f"{path}: {name}"))
                    found.setdefault(domain, {})[part] = rows
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        message = f"not a zip archive, or a damaged one: {error}"
        raise CheckpointError(Problem(message, file=str(path), fix="copy it anew from where it came")) from error
    partial = [domain for domain, parts in found.items() if set(parts) != {"train", "test"}]
    if partial or not found:
        fix = "two files a domain: DOMAIN.task.train and DOMAIN.task.test"
        what = f"{partial[0]} has no train or no test data" if partial else "no domains"
        raise CheckpointError(Problem(what, file=str(path), fix=fix))
    if missing := sorted(set(needed) - set(found)):
        fix = f"the archive of 16 domains, with {missing[0]}.task.train and {missing[0]}.task.test"
        raise CheckpointError(Problem(f"no reviews of {', '.join(missing)}", file=str(path), fix=fix))
    return found


def pairs(path: Path) -> list[Pair]:
    """A table with tabs whose columns are ``toxic`` and ``neutral1``, …; the first rewriting counts.

    Rows that lack one of the two are left out.

    Raises:
        CheckpointError: when these columns are not its first two.
    """
    head, *rows = _lines(path.read_bytes()) or [""]
    if head.split("\t")[:2] != ["toxic", "neutral1"]:
        raise CheckpointError(Problem("the columns are not toxic, neutral1, …", file=str(path)))
    cells = [row.split("\t") for row in rows]
    found = [Pair(one[0].strip(), one[1].strip()) for one in cells if len(one) > 1]
    return [pair for pair in found if all(pair)]


def prose(path: Path) -> str:
    """A text, possibly packed by gzip."""
    data = path.read_bytes()
    return _text(gzip.decompress(data) if path.suffix == ".gz" else data).replace("\r\n", "\n")


def source_code(most: int) -> str:
    """About ``most`` characters of the standard library's own source, file by file in order of their names."""
    import json as anything

    folder = Path(anything.__file__).parent.parent
    found: list[str] = []
    size = 0
    for path in sorted(folder.glob("*.py")):
        if size >= most:
            break
        found.append(_text(path.read_bytes()))
        size += len(found[-1])
    return "\n".join(found)[:most]


def _text(data: bytes) -> str:
    """UTF-8, or Latin-1, which everything is: some of these files are older than the habit."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _lines(data: bytes) -> list[str]:
    """Lines as line feeds end them: texts hold other characters that Python takes for ends of lines."""
    return [line.rstrip("\r") for line in _text(data).split("\n") if line.strip()]


def _rows(lines: Iterable[str], between: str, file: str) -> Iterator[Labelled]:
    """Lines with a label alone are left out: CR has one."""
    for number, line in enumerate(lines, 1):
        label, found, text = line.partition(between)
        if not label.isdecimal() or not found:
            message = f"line {number} is not a class from 0 on and a text: {line[:40]!r}"
            raise CheckpointError(Problem(message, file=file))
        if text.strip():
            yield Labelled(int(label), text.strip())
