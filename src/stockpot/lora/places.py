"""Where adapters change a model: a tensor, what is done to it, and how the adapters write its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

from stockpot.checkpoint.dtypes import DTYPES, DType

__all__ = ["BASE_FIX", "F64", "ORDER", "Kind", "Place"]

F64 = DTYPES["F64"]

Kind = Literal["weight", "bias", "added", "whole"]

ORDER: Mapping[Kind, int] = {"weight": 0, "bias": 1, "added": 2, "whole": 3}
"""Of two kinds the later one can hold what the other does, where the base is known."""

BASE_FIX = "give --base: the model that the adapters were trained on"


@dataclass(frozen=True)
class Place:
    """A tensor that adapters change.

    Args:
        module: The name of its module, or of the tensor where ``kind`` is ``whole``, as adapters write it.
        kind: A weight whose change gets factors, a bias that something is added to, another tensor that something is
            added to as it is, or one that is stored whole.
        shape: As the model stores it.
        crossed: Whether the model stores a weight as (in, out), or (tokens, width).
        embedding: Whether PEFT calls its factors those of an embedding.
        rank: The largest that an adapter's change can have there; 0 without factors.
        dtype: Of the first tensor that is stored whole, or of the first factors.
        start: Of single files: how they write the module's name.
        down: Of single files: what they call the right factor; empty where none has a pair there.
        flattened: Whether a kernel may be hidden in the columns, which no adapter tells.
    """

    module: str
    kind: Kind
    shape: tuple[int, ...]
    crossed: bool = False
    embedding: bool = False
    rank: int = 0
    dtype: DType = F64
    start: str = ""
    down: str = ""
    flattened: bool = False

    @property
    def flat(self) -> tuple[int, int]:
        """(rows, columns) as a matrix: a kernel's dimensions count as columns."""
        return self.shape[0] if self.shape else 1, prod(self.shape[1:])
