"""Output heads that share the weights of the input embeddings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["embedding_of", "is_head", "ties_embeddings"]

_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output_projection|decoder\.output)\.weight$")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|shared)\.weight$")


def is_head(name: str) -> bool:
    """Whether ``name`` is the matrix from hidden states to the vocabulary.

    >>> is_head("lm_head.weight"), is_head("model.norm.weight")
    (True, False)
    """
    return _HEAD.search(name) is not None


def embedding_of(names: Iterable[str]) -> str | None:
    """The input embedding that a head may be tied to; None without a single candidate."""
    found = [name for name in names if _EMBEDDING.search(name)]
    return found[0] if len(found) == 1 else None


def ties_embeddings(config: Mapping[str, Any]) -> bool:
    """Whether a config says that head and embedding are one tensor."""
    text = config.get("text_config")
    inner = text.get("tie_word_embeddings", False) if isinstance(text, dict) else False
    return bool(config.get("tie_word_embeddings", inner))
