"""Output heads that share the weights of the input embeddings."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

__all__ = ["embedding_of", "is_head", "of_vocabulary", "stand_in", "ties_embeddings", "vocabulary_rows"]

_HEAD = re.compile(
    r"(^|\.)(lm_head|embed_out|output_projection|decoder\.output|generator_lm_head|vocab_projector"
    r"|lm_head\.decoder|predictions\.decoder)\.weight$|^(proj_out|output)\.weight$"
)
_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|word_embeddings?|embed_in|tok_embeddings|tokens_embed|embeddings|token_embedding|shared)"
    r"\.weight$"
)

_BIAS = re.compile(
    r"(^|\.)(lm_head|embed_out|output_projection|decoder\.output|generator_lm_head|vocab_projector|lm_head\.decoder"
    r"|predictions|predictions\.decoder|final_logits_bias)(\.bias)?$|^(proj_out|output)\.bias$"
)
_LIKELY = re.compile(r"embed|vocab|lm_head|logits|wte|tok_")
_NUMBERED = re.compile(r"\.\d+\.")
_UNLIKELY = re.compile(r"pos|type|patch|vision|visual|image|audio|time|layer")


def is_head(name: str) -> bool:
    """Whether ``name`` is the matrix from hidden states to the vocabulary.

    >>> is_head("lm_head.weight"), is_head("model.norm.weight")
    (True, False)
    """
    return _HEAD.search(name) is not None


def embedding_of(names: Iterable[str]) -> str | None:
    """The input embedding that a head may be tied to; None without a single candidate.

    Where encoder and decoder hold copies of a shared one, that is it.

    >>> embedding_of(["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"])
    'shared.weight'
    """
    found = [name for name in names if _EMBEDDING.search(name)]
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


def vocabulary_rows(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> int | None:
    """Rows of the embedding of tokens; None without one that is known by its name, or by ``vocab_size``.

    >>> vocabulary_rows({"wte.weight": (50257, 768), "wpe.weight": (1024, 768)}, {})
    50257
    """
    found = [shape[0] for name, shape in shapes.items() if len(shape) == 2 and _EMBEDDING.search(name)]
    parts = [config, *(part for key, part in config.items() if key.endswith("_config") and isinstance(part, dict))]
    sizes = [part["vocab_size"] for part in parts if isinstance(part.get("vocab_size"), int)]
    if not found:
        likely = [n for name, (n, *_) in _outside(shapes) if _LIKELY.search(name) and not _UNLIKELY.search(name)]
        return next((n for n in likely if n in sizes), None)
    return next((n for n in found if n in sizes), max(found))


def of_vocabulary(name: str, shape: tuple[int, ...], rows: int) -> bool:
    """Whether a tensor has a row for each token, in a model whose embedding of tokens has ``rows``.

    >>> of_vocabulary("lm_head.bias", (100,), 100), of_vocabulary("final_logits_bias", (1, 100), 100)
    (True, True)
    >>> of_vocabulary("model.norm.weight", (100,), 100), of_vocabulary("wpe.weight", (100, 8), 100)
    (False, False)
    """
    if shape in ((rows,), (1, rows)):
        return _BIAS.search(name) is not None
    if len(shape) != 2 or shape[0] != rows:
        return False
    if is_head(name) or _EMBEDDING.search(name):
        return True
    return bool(_LIKELY.search(name)) and not _UNLIKELY.search(name) and not _NUMBERED.search(name)


def _outside(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Matrices that belong to no layer."""
    yield from ((name, shape) for name, shape in shapes.items() if len(shape) == 2 and not _NUMBERED.search(name))


def ties_embeddings(config: Mapping[str, Any]) -> bool:
    """Whether a config says that head and embedding are one tensor."""
    text = config.get("text_config")
    inner = text.get("tie_word_embeddings", False) if isinstance(text, dict) else False
    return bool(config.get("tie_word_embeddings", inner))
