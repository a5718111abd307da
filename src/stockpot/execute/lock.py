"""One process at a time: a lock on a file that the system releases when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any, Self

from stockpot.errors import PlanError, Problem

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

__all__ = ["Lock"]

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)
"""What file systems answer that have no locks."""


class Lock:
    """Held from :meth:`take` until :meth:`release`, or until the process ends.

    The file says who holds it. The system's lock (flock) decides; where a file system has none, what the
    file says does: a holder of this computer that is not running any more has left it behind.

    Args:
        path: The file; it is made, and removed on release.
        what: What is locked, for errors.
    """

    def __init__(self, path: Path, what: Path) -> None:
        self._path, self._what = path, what
        self._descriptor = -1

    def take(self) -> Self:
        """Take the lock.

        Raises:
            PlanError: when another process holds it; it says which.
            OSError: when the file cannot be made.
        """
        for _ in range(100):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            try:
                self._lock(descriptor)
                if _same(descriptor, self._path):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, (json.dumps(_me()) + "\n").encode(), 0)
                    self._descriptor = descriptor
                    return self
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its last holder removed it just now
        raise OSError(errno.EAGAIN, "the lock keeps being removed", str(self._path))

    def release(self) -> None:
        """Remove the file and give the lock back; where it cannot be removed, what stays is known to be stale."""
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):
            if _same(self._descriptor, self._path):
                self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1

    def _lock(self, descriptor: int) -> None:
        held = _holder(descriptor)
        try:
            _flock(descriptor)
        except BlockingIOError:
            raise self._taken(_holder(descriptor)) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            if held and not _gone(held):
                raise self._taken(held) from None

    def _taken(self, held: dict[str, Any]) -> PlanError:
        who = f"process {held['pid']} on {held['host']}" if {"pid", "host"} <= held.keys() else "another process"
        fix = f"wait for it, or choose another folder; if it is surely gone, remove {self._path}"
        return PlanError(Problem(f"{who} is writing this output", file=str(self._what), fix=fix))


def _flock(descriptor: int) -> None:
    if fcntl is None:
        raise OSError(errno.ENOSYS, "no locks")
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> dict[str, Any]:
    """What the file says of its holder; nothing when it is being written."""
    try:
        held = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return held if isinstance(held, dict) else {}


def _me() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "started": _started(os.getpid())}


def _gone(held: dict[str, Any]) -> bool:
    """Whether the holder certainly runs no more: of this computer, and not the process it was."""
    if held.get("host") != socket.gethostname():
        return False
    if held.get("boot") != _boot():
        return True
    pid = held.get("pid")
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return held.get("started") != _started(pid)


def _boot() -> str | None:
    """Differs each time the computer starts; None where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the computer did; None where the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
