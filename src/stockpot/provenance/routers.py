"""What the file of a router tells in its header."""

from __future__ import annotations

from stockpot.checkpoint.header import read_header
from stockpot.checkpoint.model import Checkpoint

__all__ = ["KEY", "REPORT", "TABLE", "routing_told"]

KEY, REPORT, TABLE = "stockpot_router", "stockpot_routing", "stockpot_routing_table"
"""Names of metadata: of what a router was made, and how it routes, as JSON and as text."""

_MAX = 200_000


def routing_told(router: Checkpoint) -> str | None:
    """How a router routes, as text; None where its file does not tell.

    Raises:
        CheckpointError: when it cannot be read.
    """
    told = read_header(router.files[0]).metadata.get(TABLE) if router.files else None
    return told[:_MAX] if told else None
