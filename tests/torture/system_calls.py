"""Faults at the edge of the kernel, by strace: each system call that touches the merge's files fails in turn."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter

from scene import digest

__all__ = ["cannot_trace", "fail_each"]

CALLS = (
    "openat", "read", "pread64", "preadv", "preadv2", "write", "pwrite64", "fsync", "ftruncate", "fallocate", "rename",
    "mkdir", "unlink", "unlinkat", "rmdir", "newfstatat", "fstat", "lseek", "getdents64", "close",
)  # fmt: skip


def cannot_trace():
    """Why system calls cannot be made to fail here; None when they can."""
    if shutil.which("strace") is None:
        return "there is no strace"
    done = subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], check=False, capture_output=True)
    return None if done.returncode == 0 else "processes cannot be traced here"


def fail_each(scene, error="EIO", tell=None):
    """Every call fails once, in a process of its own; returns system call → (number of calls, runs that failed)."""
    paths = _paths(scene)
    counts = Counter(_run(scene, paths, ())[2])
    scene.clear()
    results = {}
    for call, count in sorted(counts.items()):
        failed = sum(_fails(scene, paths, call, number, error) for number in range(1, count + 1))
        results[call] = (count, failed)
        if tell is not None:
            tell(f"{call}: {count} calls, {failed} runs ended with an error")
    return results


def _paths(scene):
    """All files and folders that a merge touches."""
    pid = scene.start("out", fault={"at": 10**9, "action": "kill"})
    assert pid
    assert scene.end().code == 0
    made = [
        scene.folder / "out.partial" / "model" / p.relative_to(scene.folder / "out")
        for p in scene.folder.glob("out/**/*")
    ]
    scene.clear()
    beside = [scene.folder / f"out.partial{name}" for name in ("", "/lock", "/journal", "/README.txt", "/model")]
    inputs = [p for name in ("base", "a", "b") for p in (scene.folder / name, *(scene.folder / name).rglob("*"))]
    return [*inputs, scene.folder / "r.yml", scene.folder / "out", *beside, *made]


def _run(scene, paths, inject):
    """(exit code, errors, names of the calls on ``paths``) of one traced run."""
    log = scene.folder.parent / "strace.log"
    traced = [word for path in paths for word in ("-P", str(path))]
    command = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={','.join(CALLS)}", *inject, *traced]
    arguments = [sys.executable, "-m", "stockpot", *scene.arguments("out", "--quiet")]
    done = subprocess.run([*command, *arguments], cwd=scene.folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr, re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE)


def _fails(scene, paths, call, number, error):
    """Whether the run in which call ``number`` of this kind fails ends with an error; it is then continued."""
    code, errors, _ = _run(scene, paths, ("-e", f"inject={call}:error={error}:when={number}"))
    what = f"{call} {number} with {error}: exit code {code}: {errors}"
    assert "Traceback" not in errors, what
    assert code in (0, 2, 3, 4, 5, 6), what
    assert digest(scene.folder / "out") in (None, scene.right), what
    if code:
        assert "error" in errors.lower(), what
        again = scene.run("out")
        assert again.code in (0, 5), f"{what}; then {again.errors}"
    assert digest(scene.folder / "out") == scene.right, what
    scene.clear()
    return code != 0
