"""Where a part of a recipe is read: in which merge, with which names known, and where problems go."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from stockpot.methods.declare import Method
from stockpot.recipe.findings import Findings
from stockpot.recipe.known import Known

__all__ = ["Scope"]


@dataclass(frozen=True)
class Scope:
    """What is known while one part of a document is read.

    Args:
        findings: Where problems go.
        known: The names of the document.
        method: Of the merge that the part belongs to; None when it is unknown.
        folder: Folder that relative paths are relative to.
        origin: The base of merges of differences that name none.
    """

    findings: Findings
    known: Known = field(default_factory=Known)
    method: Method | None = None
    folder: str | None = None
    origin: str | None = None

    def within(self, method: Method | None) -> Scope:
        """The scope inside a merge by ``method``."""
        return replace(self, method=method)

    def is_companion(self, name: str) -> bool:
        """Whether ``name`` under ``parameters`` is another checkpoint, not a value."""
        own = self.method.parameters if self.method is not None else ()
        return name in self.known.companions and all(p.name != name for p in own)
