"""Names of the files that a GGUF model in parts has."""

from __future__ import annotations

import re

__all__ = ["parts_of"]

_SPLIT = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.ASCII | re.DOTALL)
_MOST_FILES = 10_000


def parts_of(name: str) -> tuple[str, ...]:
    """Names of all files of the model that the file ``name`` belongs to, in order.

    >>> parts_of("m-00001-of-00002.gguf"), parts_of("m.gguf")
    (('m-00001-of-00002.gguf', 'm-00002-of-00002.gguf'), ('m.gguf',))
    """
    match = _SPLIT.fullmatch(name)
    if match is None or not 0 < int(match["count"]) <= _MOST_FILES:
        return (name,)
    return tuple(f"{match['stem']}-{i + 1:05d}-of-{match['count']}.gguf" for i in range(int(match["count"])))
