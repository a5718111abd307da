"""A file system that fills up in the middle of a merge: a small tmpfs, and space is made again after the error."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from scene import digest

__all__ = ["cannot_mount", "fill_up_at", "small_disk", "writes_of_a_merge"]


def cannot_mount():
    """Why no file system can be mounted here; None when one can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "mounting a tmpfs needs root"
    try:
        command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
        done = subprocess.run(command, check=False, capture_output=True)
    except OSError:
        return "there is no unshare"
    return None if done.returncode == 0 else "mounting a tmpfs is not allowed here"


@contextlib.contextmanager
def small_disk(folder, nbytes):
    """A tmpfs of ``nbytes`` at ``folder``."""
    Path(folder).mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "stockpot-torture", folder], check=True)
    try:
        yield Path(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def writes_of_a_merge(scene, disk):
    """Numbers of the calls of a merge onto ``disk`` that write."""
    ended = scene.run(f"{disk.name}/out", fault=None)
    assert ended.code == 0, ended.errors
    scene.clear(f"{disk.name}/out")
    return [int(line.split()[0]) for line in ended.calls if line.split()[1] == "pwrite"]


def fill_up_at(scene, disk, number, *, reserve):
    """Fill the disk before call ``number`` of a merge onto it, make room, merge again.

    Args:
        reserve: Whether the file system can reserve space, so that only what is not reserved can fail.

    Returns:
        The exit code of the first run: 5 or 6, or 0 where everything had its space.
    """
    filler, out = disk / "filler", f"{disk.name}/out"
    fault = {"at": number, "action": "fill", "filler": str(filler)}
    ended = scene.run(out, fault=fault, reserve=reserve)
    assert ended.struck, ended.errors
    if ended.code == 0:
        assert digest(disk / "out") == scene.right
    else:
        assert ended.code in (5, 6), ended.errors
        for part in ("No space left on device", "out.partial", "free some space"):
            assert part in ended.errors, ended.errors
        assert digest(disk / "out") is None
    filler.unlink()
    if ended.code:
        again = scene.run(out)
        assert again.code == 0, again.errors
        assert digest(disk / "out") == scene.right
    assert [p.name for p in disk.iterdir()] == ["out"]
    scene.clear(out)
    return ended.code
