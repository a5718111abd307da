"""Faults: every call that touches the merge's files fails, or moves half of the bytes, in turn."""

from __future__ import annotations

import errno

from scene import check_continued, digest

__all__ = ["fail_at_calls", "shorten_calls"]


def fail_at_calls(scene, numbers, code=errno.EIO):
    """Each of these calls fails; the run ends with our own error or goes on rightly. Returns how many runs failed."""
    failed = 0
    for at in numbers:
        ended = scene.run("out", fault={"at": at, "action": "error", "errno": code})
        what = f"error {code} at call {at}, {ended.struck}"
        _check_end(scene, ended, what)
        failed += ended.code != 0
        if ended.code == 0:
            scene.clear()
        else:
            check_continued(scene, what)
    return failed


def shorten_calls(scene, numbers):
    """Each of these reads and writes moves half of its bytes: the merge notices and moves the rest."""
    for at in numbers:
        ended = scene.run("out", fault={"at": at, "action": "short"})
        what = f"short call {at}, {ended.struck}"
        _check_end(scene, ended, what)
        assert ended.code == 0, f"{what}: {ended.errors}"
        scene.clear()


def _check_end(scene, ended, what):
    assert "ESCAPED" not in ended.errors, f"{what}: {ended.errors}"
    if ended.code == 0:
        assert digest(scene.folder / "out") == scene.right, f"{what}: wrong output"
    else:
        assert ended.code in (2, 3, 4, 5, 6), f"{what}: exit code {ended.code}"
        assert "error:" in ended.errors.lower(), f"{what}: {ended.errors}"
        assert digest(scene.folder / "out") in (None, scene.right), f"{what}: wrong output"
