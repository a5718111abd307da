"""The named documents of a recipe: which one a model's name means, and which one is the result."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from stockpot.recipe.findings import Findings
from stockpot.recipe.records import Merge, Reference, normalized

__all__ = ["Library"]

_INTERMEDIATE = frozenset({"", ".", "..", "intermediate", "intermediates"})


@dataclass(frozen=True)
class Library:
    """The documents that are merges.

    Args:
        merges: In the order written.
        named: Name → document, for recipes of several documents.
        result: The unnamed one, else the last.
    """

    merges: tuple[Merge, ...]
    named: dict[str, Merge]
    result: Merge

    @classmethod
    def of(cls, merges: Sequence[Merge], findings: Findings) -> Library:
        """The library of ``merges``, at least one; reports repeated names and several results."""
        named: dict[str, Merge] = {}
        for merge in merges if len(merges) > 1 else ():
            for name in merge.names:
                first = named.setdefault(name, merge)
                if first is not merge:
                    fix = "give each document a name of its own"
                    message = f"two documents are named {name!r} (the first begins on line {first.line})"
                    findings.problem(message, merge.line, fix)
        unnamed = [merge for merge in merges if not merge.names]
        for merge in unnamed[1:]:
            message = f"a second document without a name (the first begins on line {unnamed[0].line})"
            findings.problem(message, merge.line, "name every document but the one that is the result")
        return cls(tuple(merges), named, unnamed[0] if unnamed else merges[-1])

    def find(self, reference: Reference) -> Merge | None:
        """The document that ``reference`` means: by name, ``out_path`` or intermediate folder."""
        if not self.named or reference.revision is not None or reference.lora is not None:
            return None
        for name in (reference.path, normalized(reference.path)):
            for known, merge in self.named.items():
                if name in (known, normalized(known)):
                    return merge
        return self.named.get(intermediate_name(reference.path) or "")


def intermediate_name(path: str) -> str | None:
    """The name at the end of ``./NAME`` or ``…/intermediates/NAME``, where mergekit-multi puts it.

    >>> intermediate_name("./intermediates/First"), intermediate_name("org/First")
    ('First', None)
    """
    folder, name = posixpath.split(path.rstrip("/"))
    return name if folder and posixpath.basename(folder) in _INTERMEDIATE else None
