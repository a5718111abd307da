"""Kills: at random moments from outside, and before and after every single call that touches the merge's files."""

from __future__ import annotations

import os
import random
import signal
import time

from scene import check_continued

__all__ = ["calls_of_a_merge", "changing", "kill_at_calls", "kill_at_random", "looking", "moving"]

CHANGING = ("pwrite", "write", "rename", "replace", "unlink", "mkdir", "rmdir", "ftruncate", "fsync")
MOVING = ("preadv", "pread", "pwrite", "read", "write")
LOOKING = ("open", "read", "stat", "listdir")


def kill_at_random(scene, count, seed=0):
    """SIGKILL from outside at ``count`` random moments of a merge, each resumed; returns how many kills that took.

    One that comes after the end of the merge does not count.
    """
    chosen = random.Random(seed)
    started = time.perf_counter()
    assert scene.run("out").code == 0
    takes = time.perf_counter() - started
    scene.clear()
    killed = number = 0
    while killed < count:
        number += 1
        pid = scene.start("out")
        moment = chosen.uniform(0, 1.2 * takes)
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        killed += scene.end().code == -signal.SIGKILL
        check_continued(scene, f"kill {number} after {moment:.4f} s")
    return number


def calls_of_a_merge(scene, *more):
    """Names of the calls that a whole merge makes, in order."""
    ended = scene.run("out", *more, fault=None)
    assert ended.code == 0, ended.errors
    scene.clear()
    return [line.split()[1] for line in ended.calls]


def changing(calls):
    """Numbers of the calls that change what is on the disk, the only ones around which a kill can matter."""
    return [number for number, call in enumerate(calls, 1) if call in CHANGING]


def moving(calls):
    """Numbers of the calls that move bytes."""
    return [number for number, call in enumerate(calls, 1) if call in MOVING]


def looking(calls):
    """Numbers of the calls by which files are found and read."""
    return [number for number, call in enumerate(calls, 1) if call in LOOKING]


def kill_at_calls(scene, numbers):
    """SIGKILL before and after each of these calls, each resumed; returns how many processes died of it."""
    killed = 0
    for at in numbers:
        for action in ("kill", "kill after"):
            ended = scene.run("out", fault={"at": at, "action": action})
            killed += ended.code == -signal.SIGKILL
            check_continued(scene, f"{action} call {at}, {ended.struck}")
    return killed
