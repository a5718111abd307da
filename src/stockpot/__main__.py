"""``python -m stockpot``, and the command ``stockpot``."""

from __future__ import annotations

import signal
import sys

__all__ = ["run"]


def run() -> int:
    """Run the command line. A signal that comes while modules are imported ends the program without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from stockpot.cli.main import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
