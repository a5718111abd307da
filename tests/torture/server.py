"""Runs Stockpot's command line in forked children, quickly and with faults at chosen system calls.

Reads one JSON request a line: ``{"args": […], "folder": …, "fault": {…} | null, "reserve": true}``. Answers with
the child's process number at once, and after another line with how it ended. A fault counts the calls that concern
the scene's folder and strikes at number ``at``: ``kill`` before it or ``kill after``, ``error`` (with ``errno``),
``short``, or ``fill`` the disk with a file before the call.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import traceback
from pathlib import Path

from stockpot.checkpoint import storage
from stockpot.cli.main import main

CALLS = (
    "open", "read", "write", "pread", "preadv", "pwrite", "fsync", "ftruncate", "rename", "replace", "unlink",
    "rmdir", "mkdir", "stat", "lstat", "fstat", "scandir", "listdir", "posix_fadvise",
)  # fmt: skip
MOVING = ("read", "write", "pread", "preadv", "pwrite")


class Fault:
    """Wraps the calls of module os; strikes once."""

    def __init__(self, folder, spec, log):
        self.folder, self.spec, self.log = folder, spec, log
        self.count = 0

    def install(self):
        for name in CALLS:
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        io.open = self._opened(io.open)

    def _opened(self, real):
        """Files of Python's own: opening and each read are calls like those of module os."""

        def call(file, mode="r", *arguments, **options):
            if mode not in ("r", "rb") or not self._concerns((file,), {}):
                return real(file, mode, *arguments, **options)
            raw = Readable(os.open(file, os.O_RDONLY))
            buffered = io.BufferedReader(raw)
            return buffered if mode == "rb" else io.TextIOWrapper(buffered, encoding=options.get("encoding"))

        return call

    def _wrapped(self, name, real):
        def call(*arguments, **options):
            if not self._concerns(arguments, options):
                return real(*arguments, **options)
            self.count += 1
            self.log.write(f"{self.count} {name}\n")
            if self.spec is None or self.count != self.spec["at"]:
                return real(*arguments, **options)
            return self._strike(name, real, arguments, options)

        return call

    def _strike(self, name, real, arguments, options):
        ours = [f for f in traceback.extract_stack() if "src/stockpot/" in f.filename]
        callers = " of ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(ours[-2:]))
        self.log.write(f"struck {name} {arguments[:1]} of {callers}\n")
        self.log.flush()
        action = self.spec["action"]
        if action == "error":
            raise OSError(self.spec["errno"], os.strerror(self.spec["errno"]))
        if action == "fill":
            fill(self.spec["filler"])
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "short" and name in MOVING:
            return real(*halved(name, arguments), **options)
        result = real(*arguments, **options)
        if action == "kill after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def _concerns(self, arguments, options):
        place = arguments[0] if arguments else None
        try:
            if isinstance(place, int):
                place = READLINK(f"/proc/self/fd/{place}")
            elif options.get("dir_fd") is not None:
                place = READLINK(f"/proc/self/fd/{options['dir_fd']}") + "/" + os.fspath(place)
            return os.path.join(self.folder, os.fsdecode(place)).startswith(self.folder)  # noqa: PTH118 - it has to be quick
        except (OSError, TypeError, ValueError):
            return False


class Readable(io.RawIOBase):
    """A file that is read by calls of module os alone."""

    def __init__(self, descriptor):
        self._descriptor = descriptor

    def readable(self):
        return True

    def seekable(self):
        return True

    def fileno(self):
        return self._descriptor

    def readinto(self, buffer):
        data = os.read(self._descriptor, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, place, whence=os.SEEK_SET):
        return os.lseek(self._descriptor, place, whence)

    def close(self):
        if not self.closed:
            os.close(self._descriptor)
        super().close()


READLINK = os.readlink
WRITE = os.write


def fill(path):
    """Write a file until the disk is full."""
    descriptor = REAL_OPEN(path, os.O_WRONLY | os.O_CREAT)
    for size in (1 << 20, 1 << 12, 1):
        try:
            while True:
                WRITE(descriptor, bytes(size))
        except OSError:
            continue
    os.close(descriptor)


REAL_OPEN = os.open


def halved(name, arguments):
    """Arguments of a call that moves half of the bytes; a read of one byte moves none."""
    first, data, *rest = arguments
    if name == "preadv":
        return (first, [data[0][: len(data[0]) // 2]], *rest)
    if name in ("read", "pread"):
        return (first, max(1, data // 2), *rest)
    return (first, data[: max(1, len(data) // 2)], *rest)


def child(request, log_path):
    """Never returns."""
    os.chdir(request["folder"])
    descriptor = os.open(log_path + ".err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    if not request.get("reserve", True):
        storage._fallocate = lambda: None
    code = 99
    with Path(log_path).open("w", encoding="utf-8") as log:
        if "fault" in request:
            Fault(request["folder"], request["fault"], log).install()
        try:
            code = main(request["args"])
        except BaseException as error:  # noqa: BLE001 - reported as what it is
            sys.stderr.write("ESCAPED " + "".join(traceback.format_exception(error)))
        sys.stderr.flush()
        sys.stdout.flush()
        log.flush()
    os._exit(code)


def answer(data):
    sys.__stdout__.write(json.dumps(data) + "\n")
    sys.__stdout__.flush()


def serve():
    for line in sys.stdin:
        request = json.loads(line)
        log_path = request["log"]
        for path in (log_path, log_path + ".err"):
            Path(path).unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            child(request, log_path)
        answer({"pid": pid})
        sys.stdin.readline()  # until then a child that has ended keeps its number: nothing else can be killed by it
        _, status = os.waitpid(pid, 0)
        answer({"code": os.waitstatus_to_exitcode(status)})


if __name__ == "__main__":
    warm = json.loads(sys.stdin.readline())
    os.chdir(warm["folder"])
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        sys.stdout, kept = nowhere, sys.stdout
        answer({"warm": main(warm["args"])})
        sys.stdout = kept
    serve()
