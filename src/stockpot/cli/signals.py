"""Ctrl-C and SIGTERM: the first one stops within a second and says how to go on, the second one at once.

The work on the disk is always in a state that can be continued, so that leaving at any moment is safe. A thread
watches for signals, since Python's own handlers wait while the main thread is in compiled code.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["Stopped", "exit_code", "stopping"]

_PATIENCE = 0.8
"""Seconds that the program has to end by itself after a signal."""

_SIGNALS = tuple(s for s in (signal.SIGINT, getattr(signal, "SIGTERM", None)) if s is not None)


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def exit_code(error: BaseException) -> int:
    """128 + number of the signal, as shells count."""
    return 128 + (error.number if isinstance(error, Stopped) else int(signal.SIGINT))


@contextlib.contextmanager
def stopping(message: Callable[[], str]) -> Iterator[None]:
    """While it is open, signals end the program: :class:`Stopped` is raised, and what does not heed that is left.

    Only the main thread receives signals; elsewhere this does nothing.

    Args:
        message: What to say when the program has to be left at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    inner, outer = socket.socketpair()
    outer.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(inner, message), name="stockpot-signals", daemon=True)
    stopped: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if stopped:
            os._exit(128 + stopped[0])
        stopped.append(number)
        raise Stopped(number)

    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup, background
    before = {number: signal.signal(number, stop) for number in heeded}
    # A signal that comes where nothing can be raised needs no words: the watcher ends the program.
    unraisable = sys.unraisablehook
    sys.unraisablehook = lambda hook: None if isinstance(hook.exc_value, Stopped) else unraisable(hook)
    wakeup = signal.set_wakeup_fd(outer.fileno(), warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        sys.unraisablehook = unraisable
        for number, handler in before.items():  # a program that is ending has nothing more to say
            signal.signal(number, signal.SIG_DFL if stopped else handler)
        outer.close()  # ends the watcher
        watcher.join()
        inner.close()


def _watch(inner: socket.socket, message: Callable[[], str]) -> None:
    """Leave the program if it has not ended by itself in time, or when a second signal comes."""
    number = _signal(inner, None)
    if number is None:
        return
    second = _signal(inner, _PATIENCE)
    if second is None:
        return
    if second == 0:
        with contextlib.suppress(Exception):  # whatever it is, the program has to end
            os.write(2, (message() + "\n").encode(errors="replace"))
    os._exit(128 + number)


def _signal(inner: socket.socket, seconds: float | None) -> int | None:
    """The next signal that stops; 0 when none came in time, None when the watch is over."""
    inner.settimeout(seconds)
    while True:
        try:
            received = inner.recv(1)
        except TimeoutError:
            return 0
        except OSError:
            return None
        if not received:
            return None
        if received[0] in _SIGNALS:
            return received[0]
