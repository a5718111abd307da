"""The report of a transplant: which rows were copied, and of what the others were made."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stockpot.planning.tokens.matched import Matched
from stockpot.planning.tokens.transplanted import KINDS, TOLD

__all__ = ["REPORT_NAME", "TransplantReport"]

REPORT_NAME = "stockpot-transplant.json"


@dataclass(frozen=True)
class TransplantReport:
    """A JSON document: a head with counts and errors, then one line for each row.

    Args:
        model, tokenizer: Labels of the two models.
        method, k: How rows were made.
        matched: The vocabularies, and what each row is.
        tensors: Names of the tensors, in order.
    """

    model: str
    tokenizer: str
    method: str
    k: int
    matched: Matched
    tensors: tuple[str, ...]

    @property
    def name(self) -> str:
        return REPORT_NAME

    def counts(self) -> dict[str, int]:
        """How many rows there are of each kind."""
        kinds, by_role = self.matched.origins.kinds, len(self.matched.pairing.roles)
        found = {kind: int((kinds == number).sum()) for number, kind in enumerate(KINDS)}
        return {
            "rows": len(kinds),
            "copied": found["copied"] - by_role,
            "by_role": by_role,
            **{kind: found[kind] for kind in ("made", "mean")},
        }

    def content(self, told: Mapping[str, Mapping[str, Any]]) -> Iterator[bytes]:
        """The document, line by line."""
        tensors = {name: _Tensor.of(told[name]) for name in self.tensors if name in told}
        head = {
            "model": self.model,
            "tokenizer": self.tokenizer,
            "method": self.method,
            **({"k": self.k} if self.k else {}),
            "counts": self.counts(),
            "held_out": {"tokens": len(self.matched.origins.held), "tensors": {n: t.held for n, t in tensors.items()}},
        }
        yield (json.dumps(head, indent=1, ensure_ascii=False)[:-2] + ',\n "rows": [').encode("utf-8", "replace")
        lead = "\n  "
        for row in self._rows(tensors):
            yield (lead + json.dumps(row, ensure_ascii=False)).encode("utf-8", "replace")
            lead = ",\n  "
        yield b"\n ]\n}\n"

    def _rows(self, tensors: Mapping[str, _Tensor]) -> Iterator[dict[str, Any]]:
        new, old, pairing, origins = self.matched.new, self.matched.old, self.matched.pairing, self.matched.origins
        made = 0
        for number, kind in enumerate(origins.kinds.tolist()):
            row: dict[str, Any] = {"row": number, "token": new.tokens.get(number)}
            if KINDS[kind] == "copied":
                ours = int(origins.ours[number])
                row |= {"copied": [old.tokens.get(ours), ours]}
                row |= {"role": pairing.roles[number]} if number in pairing.roles else {}
            elif KINDS[kind] == "mean":
                row["mean"] = True
            else:
                parts = {name: tensor.row(made, old.tokens) for name, tensor in tensors.items()}
                row["made"] = self.method if not any(parts.values()) else parts
                made += 1
            yield row


@dataclass(frozen=True)
class _Tensor:
    """What was told of one tensor, unpacked."""

    held: Mapping[str, Mapping[str, float]]
    numbers: np.ndarray[Any, np.dtype[np.int32]]
    values: np.ndarray[Any, np.dtype[np.float32]]
    residuals: np.ndarray[Any, np.dtype[np.float32]]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> _Tensor:
        numbers = np.frombuffer(base64.b64decode(told["numbers"]), "<i4").reshape(-1, TOLD)
        values = np.frombuffer(base64.b64decode(told["values"]), "<f4").reshape(-1, TOLD)
        return cls(told["held_out"], numbers, values, np.frombuffer(base64.b64decode(told["residuals"]), "<f4"))

    def row(self, made: int, tokens: Mapping[int, str]) -> dict[str, Any]:
        """Residual and largest terms of a row that was made; empty where nothing is known of it."""
        if made >= len(self.numbers):
            return {}
        pairs = zip(self.numbers[made].tolist(), self.values[made].tolist(), strict=True)
        found: dict[str, Any] = {"of": [[tokens.get(n), n, _short(v)] for n, v in pairs if n >= 0]}
        residual = float(self.residuals[made])
        return found if np.isnan(residual) else {"residual": _short(residual), **found}


def _short(value: float) -> float:
    return float(f"{value:.4g}")
