"""Output heads that share the weights of the input embeddings."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

__all__ = ["embedding_of", "is_embedding", "is_head", "stand_in", "ties_embeddings"]

_HEAD = re.compile(
    r"(^|\.)(lm_head|embed_out|output_projection|decoder\.output|generator_lm_head|vocab_projector"
    r"|lm_head\.decoder|predictions\.decoder)\.weight$|^(proj_out|output)\.weight$"
)
_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|word_embeddings?|embed_in|tok_embeddings|tokens_embed|embeddings|token_embedding|shared)"
    r"\.weight$"
)


def is_head(name: str) -> bool:
    """Whether ``name`` is the matrix from hidden states to the vocabulary.

    >>> is_head("lm_head.weight"), is_head("model.norm.weight")
    (True, False)
    """
    return _HEAD.search(name) is not None


def is_embedding(name: str) -> bool:
    """Whether ``name`` is a matrix from tokens to hidden states, or a copy of it.

    >>> is_embedding("model.embed_tokens.weight"), is_embedding("embeddings.position_embeddings.weight")
    (True, False)
    """
    return _EMBEDDING.search(name) is not None


def embedding_of(names: Iterable[str]) -> str | None:
    """The input embedding that a head may be tied to; None without a single candidate.

    Where encoder and decoder hold copies of a shared one, that is it.

    >>> embedding_of(["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"])
    'shared.weight'
    """
    found = [name for name in names if is_embedding(name)]
    shared = [name for name in found if name.endswith("shared.weight")]
    return found[0] if len(found) == 1 else shared[0] if len(shared) == 1 else None


def stand_in(name: str, names: Collection[str]) -> str | None:
    """What a model that lacks a part of its head uses instead: the embedding, or the bias that a head shares.

    >>> stand_in("lm_head.weight", ["wte.weight"]), stand_in("cls.decoder.bias", ["cls.bias"])
    ('wte.weight', 'cls.bias')
    """
    if is_head(name):
        return embedding_of(names)
    shared = name.removesuffix("decoder.bias") + "bias"
    return shared if name.endswith(".decoder.bias") and shared in names else None


def ties_embeddings(config: Mapping[str, Any]) -> bool:
    """Whether a config says that head and embedding are one tensor."""
    text = config.get("text_config")
    inner = text.get("tie_word_embeddings", False) if isinstance(text, dict) else False
    return bool(config.get("tie_word_embeddings", inner))
