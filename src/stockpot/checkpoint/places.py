"""From what a user wrote to a path or hub id; and files that stray from their folder."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath, PureWindowsPath

from stockpot.errors import CheckpointError, Problem

__all__ = ["HubId", "cannot_read", "commit_of", "existing_path", "hub_id", "member", "must_be_file", "stands"]

_PART = r"[A-Za-z0-9](?:[\w.-]*[\w])?"
_HUB_ID = re.compile(rf"(?P<name>{_PART}(?:/{_PART})?)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_FILE_NAME = re.compile(r".*\.(safetensors|gguf|bin|pt|pth|th|ckpt|h5|zip|json|yaml|yml)", re.IGNORECASE)
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubId:
    """A repository of the hub, and the branch, tag or commit that is wanted (None: its default)."""

    name: str
    revision: str | None = None


def cannot_read(path: Path, error: OSError) -> CheckpointError:
    """``error`` of reading ``path``, with what can be done about it."""
    if isinstance(error, FileNotFoundError):
        message, fix = "no such file", "check the path, or download the file again"
    elif isinstance(error, PermissionError):
        message, fix = "no permission to read it", "ask its owner for permission, or copy it"
    else:
        message, fix = (
            f"cannot read: {error.strerror or error}",
            "check the disk or the network folder it is on",
        )
    return CheckpointError(Problem(message, file=str(path), fix=fix))


def must_be_file(path: Path) -> None:
    """Refuse what could block or never end, such as a named pipe.

    Raises:
        CheckpointError: when ``path`` is no regular file.
        OSError: when it cannot be looked at.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise CheckpointError(Problem("not a regular file", file=str(path), fix="name a file"))


def stands(path: Path) -> bool:
    """Whether a file is there.

    Raises:
        CheckpointError: when that cannot be told.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise cannot_read(path, error) from error


def existing_path(reference: str, folder: str | None) -> Path | None:
    """The path that ``reference`` means, if it exists: absolute, below ``folder`` or the cwd.

    Raises:
        CheckpointError: when that cannot be told, such as where a folder on the way may not be searched.
    """
    if "\0" in reference or not reference or not _is_name(reference):
        return None
    path = Path(reference)
    if reference.startswith("~"):
        path = Path(os.path.expanduser(reference))  # noqa: PTH111 - Path's raises for unknown users
    candidates = [path] if folder is None or path.is_absolute() else [Path(folder) / path, path]
    for candidate in candidates:
        try:
            candidate.stat()
        except OSError as error:
            if error.errno in _NOT_THERE:
                continue
            raise cannot_read(candidate, error) from error
        return candidate.absolute()
    return None


def hub_id(reference: str) -> HubId | None:
    """``reference`` as a hub id, or None when it cannot be one.

    >>> hub_id("org/model@v1.0")
    HubId(name='org/model', revision='v1.0')
    >>> [hub_id(text) for text in ("./model", "a/b/c", "D:/models/x", "x.safetensors")]
    [None, None, None, None]
    """
    match = _HUB_ID.fullmatch(reference)
    if match is None or ".." in reference or "--" in match["name"] or len(match["name"]) > 96:
        return None
    if _FILE_NAME.fullmatch(match["name"]):
        return None
    return HubId(match["name"], match["revision"])


def commit_of(path: Path) -> str | None:
    """The commit of a file or folder in the hub's cache, told by its path; None elsewhere."""
    parts = path.parts
    for above, commit in pairwise(parts):
        if above == "snapshots" and _COMMIT.fullmatch(commit):
            return commit
    return None


def member(folder: Path, name: str) -> Path:
    """The file ``name`` of ``folder``, when it truly lies inside.

    A name may not be absolute or climb out with ``..``, nor a link lead out. One exception: files
    in the hub's cache are links into the ``blobs`` folder of the same repository.

    Raises:
        CheckpointError: for a name or a link that leaves the folder.
    """
    windows = PureWindowsPath(name)
    parts = PurePosixPath(name).parts
    if (
        not parts
        or "\0" in name
        or not _is_name(name)
        or windows.drive
        or windows.root
        or ".." in parts
        or ".." in windows.parts
    ):
        raise CheckpointError(
            Problem(
                f"names a file outside its folder: {name!a}",
                file=str(folder),
                fix="do not trust this checkpoint; get it from its maker",
            )
        )
    path = folder / name
    target = Path(os.path.realpath(path))
    if not any(target.is_relative_to(home) for home in _homes(folder)):
        raise CheckpointError(
            Problem(
                f"a link that leads out of its folder, to {target}",
                file=str(path),
                fix="replace the link with the file itself if you trust it",
            )
        )
    return path


def _is_name(text: str) -> bool:
    """Whether the file system can be asked for it; half a surrogate pair, which JSON and YAML can spell, it cannot."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _homes(folder: Path) -> list[Path]:
    """Where the files of ``folder`` may really lie."""
    real = Path(os.path.realpath(folder))
    caches = [
        snapshot.parent.parent
        for place in (real, folder.absolute())
        for snapshot in (place, *place.parents)
        if snapshot.parent.name == "snapshots"
    ]
    blobs = [Path(os.path.realpath(c)) / "blobs" for c in caches if c.name.startswith("models--")]
    return [real, *blobs]
